package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"time"
)

const (
	dialTimeout = 10 * time.Second
	// stallTimeout ends a connection on which not one byte moved in either
	// direction. It is longer than any pause a healthy store makes between a
	// request and its answer, and it bounds what a dead peer can hold up.
	stallTimeout = 60 * time.Second
	// idleTimeout keeps a connection over one 15-second pause, so that the
	// next cycle needs no new TLS handshake.
	idleTimeout = 45 * time.Second
	// maxIdle is no less than what eight transfers use that send three parts
	// each: a connection that is not kept costs a handshake.
	maxIdle = 32
	// bufferBytes lets a small object and its header leave with one system
	// call, and large ones in pieces that are worth one.
	bufferBytes = 32 << 10
)

// newTransport returns a transport of its own: connections to a store are never
// shared with anything else in the process. ca replaces the system's roots.
func newTransport(ca []byte) (*http.Transport, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(ca) > 0 {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(ca) {
			return nil, errors.New("read CA bundle: no certificate in it")
		}
		conf.RootCAs = pool
	}
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &watchedConn{Conn: c}, nil
		},
		TLSClientConfig:       conf,
		TLSHandshakeTimeout:   dialTimeout,
		ExpectContinueTimeout: 2 * time.Second,
		IdleConnTimeout:       idleTimeout,
		MaxIdleConns:          maxIdle,
		MaxIdleConnsPerHost:   maxIdle,
		WriteBufferSize:       bufferBytes,
		ReadBufferSize:        bufferBytes,
		// The stored bytes are what was asked for, not a decompressed form.
		DisableCompression: true,
	}, nil
}

// watchedConn fails when nothing moved for stallTimeout. A write moves the read
// deadline too, because during an upload the answer is awaited all the time.
type watchedConn struct{ net.Conn }

func (c *watchedConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(stallTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c *watchedConn) Write(p []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(stallTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}
