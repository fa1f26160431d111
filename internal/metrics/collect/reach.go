package collect

import (
	"context"
	"errors"
	"net"
	"net/http"
	"syscall"
	"time"
)

// maxHeader bounds what a target may say before its page.
const maxHeader = 64 << 10

type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// newClient returns a client that reaches targets by dial, or as everybody does
// when that is nil. It keeps no connection: a minute later the other end may be
// another one.
func newClient(dial dialFunc) *http.Client {
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	return &http.Client{Transport: &http.Transport{
		DialContext:            dial,
		DisableKeepAlives:      true,
		DisableCompression:     true, // it is asked for, and undone, with a bound
		MaxResponseHeaderBytes: maxHeader,
		TLSHandshakeTimeout:    defaultTimeout,
		IdleConnTimeout:        time.Second,
	}}
}

// dial reaches a port inside the pod's network, where it listens on either kind
// of loopback address.
func (r *runner) dial(ctx context.Context, _, address string) (net.Conn, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	dial := (&net.Dialer{}).DialContext
	if !r.target.host {
		dial = r.process.Load().DialContext
	}
	conn, err := dial(ctx, "tcp", net.JoinHostPort("127.0.0.1", port))
	if errors.Is(err, syscall.ECONNREFUSED) {
		if six, sixErr := dial(ctx, "tcp", net.JoinHostPort("::1", port)); sixErr == nil {
			return six, nil
		}
	}
	return conn, err
}
