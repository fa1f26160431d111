package remotewrite

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"
	"time"
)

// Config describes a receiver.
type Config struct {
	URL       string        // http or https; user and password in it are sent as basic authentication
	CA        []byte        // PEM; empty: the system's roots
	Timeout   time.Duration // of a whole request
	UserAgent string
}

// Client sends requests to one receiver, over one connection that it keeps.
type Client struct {
	address   string
	redacted  string
	userAgent string
	timeout   time.Duration
	http      *http.Client
}

// New checks the configuration. A proxy is taken from the environment, as
// net/http does.
func New(cfg Config) (*Client, error) {
	u, err := url.Parse(cfg.URL)
	switch {
	case err != nil:
		// What url.Parse says holds the address, and so maybe a password.
		return nil, errors.New("remote write: the address is no URL")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("remote write: the address begins with %q, want http or https", u.Scheme)
	case u.Hostname() == "":
		return nil, errors.New("remote write: the address names no host")
	case cfg.Timeout <= 0:
		return nil, errors.New("remote write: config: Timeout is not positive")
	}
	trust := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(cfg.CA) > 0 {
		trust.RootCAs = x509.NewCertPool()
		if !trust.RootCAs.AppendCertsFromPEM(cfg.CA) {
			return nil, errors.New("remote write: the CA holds no certificate in PEM")
		}
	}
	return &Client{
		address:   cfg.URL,
		redacted:  (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String(),
		userAgent: cfg.UserAgent,
		timeout:   cfg.Timeout,
		http: &http.Client{
			Transport: &http.Transport{
				Proxy:              http.ProxyFromEnvironment,
				TLSClientConfig:    trust,
				DisableCompression: true,
				MaxConnsPerHost:    1,
				IdleConnTimeout:    90 * time.Second,
				WriteBufferSize:    64 << 10,

				MaxResponseHeaderBytes: 64 << 10,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// Address returns the address of the receiver without user, password and query.
func (c *Client) Address() string { return c.redacted }

// Close gives up the connection, when no request is under way.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Send sends the body that Batch.Encode made and says what became of it.
func (c *Client) Send(ctx context.Context, body []byte) Answer {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var connected atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { connected.Store(true) },
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.address, bytes.NewReader(body))
	if err != nil {
		return Answer{Outcome: Failed, Err: fmt.Errorf("write to %s: %w", c.redacted, withoutURL(err))}
	}
	req.Header.Set("Content-Encoding", "snappy")
	req.Header.Set("Content-Type", "application/x-protobuf")
	req.Header.Set("X-Prometheus-Remote-Write-Version", "0.1.0")
	req.Header.Set("User-Agent", c.userAgent)
	resp, err := c.http.Do(req)
	if err != nil {
		slow := connected.Load() && errors.Is(ctx.Err(), context.DeadlineExceeded)
		return Answer{Outcome: Failed, Slow: slow, Err: fmt.Errorf("write to %s: %w", c.redacted, withoutURL(err))}
	}
	defer resp.Body.Close() //nolint:errcheck // what it says is read by then
	return classify(c.redacted, resp, readText(resp.Body), time.Now())
}

// withoutURL takes off the part of an error that tells the address in full.
func withoutURL(err error) error {
	if e := (*url.Error)(nil); errors.As(err, &e) {
		return e.Err
	}
	return err
}

const (
	maxText  = 256      // of an answer that is kept, in bytes
	maxDrain = 64 << 10 // of an answer that is read, so that the connection can be used again
)

// readText returns the beginning of a body. The status says enough when it
// cannot be read.
func readText(body io.Reader) string {
	text, _ := io.ReadAll(io.LimitReader(body, maxText))
	_, _ = io.Copy(io.Discard, io.LimitReader(body, maxDrain))
	return string(text)
}
