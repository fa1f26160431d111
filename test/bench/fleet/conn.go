package fleet

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// Target is where devices connect.
type Target struct {
	// Addresses are those of the replicas. Connections are given to them in turn,
	// as a balancer does that passes TLS through, without its copying of bytes.
	Addresses  []string
	ServerName string
	Roots      *x509.CertPool
	Protocol   Protocol
}

// answerTimeout is how long a request may take: longer than the server lets it.
const answerTimeout = 150 * time.Second

// Conn is one connection of one device. It carries one request at a time.
type Conn struct {
	raw      *tls.Conn
	in       *bufio.Reader
	protocol Protocol
	stream   uint32 // of the last request
	taken    uint32 // bytes of bodies that the server was not told to be taken
	out      []byte
	body     []byte
}

// Dial connects the device of that number with its certificate.
func Dial(ctx context.Context, t Target, number int, cert tls.Certificate) (*Conn, error) {
	dialer := tls.Dialer{Config: &tls.Config{
		RootCAs: t.Roots, ServerName: t.ServerName, MinVersion: tls.VersionTLS13,
		Certificates: []tls.Certificate{cert}, NextProtos: []string{string(t.Protocol)},
	}}
	address := t.Addresses[number%len(t.Addresses)]
	raw, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	c := &Conn{raw: raw.(*tls.Conn), in: bufio.NewReaderSize(raw, 4096), protocol: t.Protocol, stream: ^uint32(0)}
	if got := c.raw.ConnectionState().NegotiatedProtocol; got != string(t.Protocol) {
		return nil, errors.Join(fmt.Errorf("server speaks %q, not %s", got, t.Protocol), c.Close())
	}
	if t.Protocol == HTTP2 {
		if err := c.greet(); err != nil {
			return nil, errors.Join(fmt.Errorf("greet %s: %w", address, err), c.Close())
		}
	}
	return c, nil
}

// Close ends the connection.
func (c *Conn) Close() error { return c.raw.Close() }

// LocalAddr returns the device's end.
func (c *Conn) LocalAddr() net.Addr { return c.raw.LocalAddr() }

// Do sends a request and returns the status of the answer and its body, which is
// good until the next call.
func (c *Conn) Do(r Request) (status int, body []byte, err error) {
	if err := c.raw.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return 0, nil, err
	}
	c.body = c.body[:0]
	if c.protocol == HTTP1 {
		status, err = c.do1(r)
	} else {
		status, err = c.do2(r)
	}
	return status, c.body, err
}

// window is what the server may send without being told that it was taken: all
// of it, nearly always.
const window = 1 << 30

// greet opens the connection: no table of headers, so that answers can be read
// without keeping one, and windows that hold every body.
func (c *Conn) greet() error {
	c.out = append(c.out[:0], "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"...)
	var settings []byte
	for _, s := range []struct {
		id    uint16
		value uint32
	}{{1, 0}, {2, 0}, {4, window}} { // HEADER_TABLE_SIZE, ENABLE_PUSH, INITIAL_WINDOW_SIZE
		settings = binary.BigEndian.AppendUint16(settings, s.id)
		settings = binary.BigEndian.AppendUint32(settings, s.value)
	}
	c.out = appendFrame(c.out, frameSettings, 0, 0, settings)
	c.out = appendFrame(c.out, frameWindowUpdate, 0, 0, binary.BigEndian.AppendUint32(nil, window))
	_, err := c.raw.Write(c.out)
	return err
}

func (c *Conn) do2(r Request) (status int, err error) {
	c.stream += 2 // the first is 1
	c.out = append(c.out[:0], r.head...)
	binary.BigEndian.PutUint32(c.out[5:], c.stream)
	if r.body != nil {
		c.out = appendFrame(c.out, frameData, flagEndStream, c.stream, r.body)
	}
	if c.taken > window/2 {
		c.out = appendFrame(c.out, frameWindowUpdate, 0, 0, binary.BigEndian.AppendUint32(nil, c.taken))
		c.taken = 0
	}
	if _, err := c.raw.Write(c.out); err != nil {
		return 0, err
	}
	for {
		f, err := c.readFrame()
		if err != nil {
			return 0, err
		}
		switch f.kind {
		case frameHeaders:
			if f.stream == c.stream && status == 0 { // not the trailer
				status, err = readStatus(f.payload)
			}
		case frameData:
			c.taken += uint32(len(f.payload)) //nolint:gosec // a frame's length has 24 bits
			c.body = append(c.body, f.payload...)
		default:
			err = c.serve(f)
		}
		if err != nil {
			return 0, err
		}
		if f.stream == c.stream && (f.kind == frameHeaders || f.kind == frameData) && f.flags&flagEndStream != 0 {
			return status, nil
		}
	}
}

// serve answers a frame that is about the connection.
func (c *Conn) serve(f frame) error {
	switch f.kind {
	case frameSettings, framePing:
		if f.flags&flagAck != 0 {
			return nil
		}
		payload := f.payload
		if f.kind == frameSettings {
			payload = nil
		}
		_, err := c.raw.Write(appendFrame(nil, f.kind, flagAck, 0, payload))
		return err
	case frameReset:
		return fmt.Errorf("server reset the stream: %x", f.payload)
	case frameGoAway:
		return fmt.Errorf("server ends the connection: %x", f.payload)
	}
	return nil
}

type frame struct {
	kind, flags byte
	stream      uint32
	payload     []byte // good until the next one is read
}

func (c *Conn) readFrame() (frame, error) {
	var head [9]byte
	if _, err := io.ReadFull(c.in, head[:]); err != nil {
		return frame{}, err
	}
	n := int(head[0])<<16 | int(head[1])<<8 | int(head[2])
	if n > maxBody {
		return frame{}, fmt.Errorf("frame of %d bytes", n)
	}
	f := frame{kind: head[3], flags: head[4], stream: binary.BigEndian.Uint32(head[5:])}
	if f.flags&(flagPadded|flagPriority) != 0 && (f.kind == frameHeaders || f.kind == frameData) {
		return frame{}, errors.New("frame with padding or priority, which no server here sends")
	}
	if cap(c.out) < n {
		c.out = make([]byte, n)
	}
	f.payload = c.out[:n] // the request is sent
	_, err := io.ReadFull(c.in, f.payload)
	return f, err
}

// readStatus reads the status out of a block of HPACK, where it is the first
// field.
func readStatus(block []byte) (int, error) {
	for len(block) > 0 && block[0]&0xe0 == 0x20 { // size of the table, which is 0
		block = block[1:]
	}
	wellKnown := [...]int{200, 204, 206, 304, 400, 404, 500}
	switch {
	case len(block) == 0:
	case block[0] >= 0x88 && block[0] <= 0x8e:
		return wellKnown[block[0]-0x88], nil
	// Entries 8 to 14 of the static table have the name :status.
	case len(block) > 1 && block[0]&0x0f >= 8 && block[0]&0x0f <= 14 && int(block[1]&0x7f) <= len(block)-2:
		text := block[2 : 2+int(block[1]&0x7f)]
		if block[1]&0x80 != 0 {
			text = unpackDigits(text)
		}
		return parseStatus(text)
	}
	return 0, fmt.Errorf("no status in %x", block)
}

// unpackDigits undoes the Huffman code of HPACK for digits: 0 to 2 have five
// bits, 3 to 9 have six.
func unpackDigits(packed []byte) []byte {
	var bits uint64
	n := 0
	for _, b := range packed {
		bits = bits<<8 | uint64(b)
		n += 8
	}
	var text []byte
	for n >= 5 && len(text) < 3 {
		if five := bits >> (n - 5) & 0x1f; five <= 2 {
			text = append(text, '0'+byte(five))
			n -= 5
			continue
		}
		if n < 6 {
			break
		}
		six := bits >> (n - 6) & 0x3f
		if six < 0x19 || six > 0x1f {
			break
		}
		text = append(text, '3'+byte(six-0x19))
		n -= 6
	}
	return text
}

func parseStatus(text []byte) (int, error) {
	if len(text) != 3 || bytes.ContainsFunc(text, func(r rune) bool { return r < '0' || r > '9' }) {
		return 0, fmt.Errorf("status %q", text)
	}
	return int(text[0]-'0')*100 + int(text[1]-'0')*10 + int(text[2]-'0'), nil
}
