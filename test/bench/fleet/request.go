package fleet

import (
	"encoding/binary"
	"fmt"
	"strconv"
)

// Protocol is the version of HTTP that devices speak.
type Protocol string

// The protocols, as TLS negotiates them.
const (
	HTTP1 Protocol = "http/1.1"
	HTTP2 Protocol = "h2"
)

const (
	userAgent = "yggd/0.2"
	mediaType = "application/json"
	// maxBody is the largest frame that every HTTP/2 server takes.
	maxBody = 16 << 10
)

// Request is a request, ready to be sent. It may be sent any number of times, by
// the connections of its protocol.
type Request struct {
	head []byte
	body []byte // shared between devices
}

// NewRequest builds a request. A body makes it a POST. An etag, quotes included,
// is sent as If-None-Match; empty: it is not.
func NewRequest(p Protocol, host, path, etag string, body []byte) Request {
	if len(body) > maxBody {
		panic(fmt.Sprintf("body of %d bytes, at most %d are possible", len(body), maxBody))
	}
	method := "GET"
	if body != nil {
		method = "POST"
	}
	fields := [][2]string{{"user-agent", userAgent}, {"accept-encoding", "gzip"}}
	if body != nil {
		fields = append(fields, [2]string{"content-type", mediaType}, [2]string{"content-length", strconv.Itoa(len(body))})
	}
	if etag != "" {
		fields = append(fields, [2]string{"if-none-match", etag})
	}
	if p == HTTP1 {
		head := fmt.Appendf(nil, "%s %s HTTP/1.1\r\nhost: %s\r\n", method, path, host)
		for _, f := range fields {
			head = fmt.Appendf(head, "%s: %s\r\n", f[0], f[1])
		}
		return Request{head: append(head, "\r\n"...), body: body}
	}
	pseudo := [][2]string{{":method", method}, {":scheme", "https"}, {":authority", host}, {":path", path}}
	var block []byte
	for _, f := range append(pseudo, fields...) {
		// Literals that no table remembers: the same bytes mean the same every time.
		block = append(block, 0x10)
		block = appendText(appendText(block, f[0]), f[1])
	}
	flags := byte(flagEndHeaders)
	if body == nil {
		flags |= flagEndStream
	}
	return Request{head: appendFrame(nil, frameHeaders, flags, 0, block), body: body}
}

// appendText appends a string of HPACK, without Huffman coding.
func appendText(b []byte, text string) []byte {
	const prefix = 127 // what fits into seven bits
	if n := len(text); n < prefix {
		b = append(b, byte(n))
	} else {
		b = append(b, prefix)
		for n -= prefix; ; n >>= 7 {
			if n < 0x80 {
				b = append(b, byte(n))
				break
			}
			b = append(b, byte(n&0x7f)|0x80)
		}
	}
	return append(b, text...)
}

// appendFrame appends a frame of HTTP/2.
func appendFrame(b []byte, kind, flags byte, stream uint32, payload []byte) []byte {
	n := len(payload)
	b = append(b, byte(n>>16), byte(n>>8), byte(n), kind, flags) //nolint:gosec // a frame's length has 24 bits
	b = binary.BigEndian.AppendUint32(b, stream)
	return append(b, payload...)
}

// Frames of HTTP/2 and their flags, by RFC 9113.
const (
	frameData         = 0x0
	frameHeaders      = 0x1
	frameReset        = 0x3
	frameSettings     = 0x4
	framePing         = 0x6
	frameGoAway       = 0x7
	frameWindowUpdate = 0x8

	flagEndStream  = 0x1
	flagAck        = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)
