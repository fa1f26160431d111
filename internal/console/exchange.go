package console

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// CheckMetricsAddress returns an error when metrics cannot be served there: it
// must be an address of the loopback interface, with a port.
func CheckMetricsAddress(address string) error {
	at, err := netip.ParseAddrPort(address)
	switch {
	case err != nil || at.Port() == 0:
		return fmt.Errorf("%q: must be an address with a port, such as 127.0.0.1:9180", address)
	case !at.Addr().IsLoopback():
		return fmt.Errorf("%q: must be of the loopback interface, such as 127.0.0.1:9180: there is no TLS and nobody is asked who he is", address)
	}
	return nil
}

func (s *Server) listenMetrics() (net.Listener, error) {
	l, err := net.Listen("tcp", s.cfg.MetricsAddress)
	if err != nil {
		return nil, fmt.Errorf("listen for those who collect metrics: %w", err)
	}
	return l, nil
}

// attendMetrics answers one request, of whoever is on this machine.
func (s *Server) attendMetrics(ctx context.Context, conn net.Conn) error {
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	defer func() { _ = conn.Close() }() // all was written, or nobody reads
	request, _, err := s.receive(conn)
	switch {
	case err != nil:
		return err
	case request.URL.Path != pathMetrics:
		return respond(conn, http.StatusNotFound, "application/json", failure("there is "+pathMetrics))
	case request.Method != http.MethodGet:
		return respond(conn, http.StatusMethodNotAllowed, "application/json", failure("this is for "+http.MethodGet))
	}
	return respond(conn, http.StatusOK, MetricsType, Metrics(s.document()))
}

// receive reads a request. What comes after it is left in the reader.
func (s *Server) receive(conn net.Conn) (*http.Request, *bufio.Reader, error) {
	if err := conn.SetDeadline(time.Now().Add(s.clientTime)); err != nil {
		return nil, nil, err
	}
	reader := bufio.NewReader(io.LimitReader(conn, maxHeader))
	request, err := http.ReadRequest(reader)
	if err != nil {
		return nil, nil, fmt.Errorf("read request: %w", err)
	}
	if request.URL == nil {
		return nil, nil, errors.New("read request: it asks for nothing")
	}
	return request, reader, nil
}

// respond writes an answer.
func respond(conn net.Conn, status int, kind string, body []byte) error {
	response := http.Response{
		StatusCode: status, ProtoMajor: 1, ProtoMinor: 1, Close: true,
		Header:        http.Header{"Content-Type": {kind}},
		ContentLength: int64(len(body)), Body: io.NopCloser(bytes.NewReader(body)),
	}
	if err := response.Write(conn); err != nil {
		return fmt.Errorf("write response: %w", err)
	}
	return nil
}
