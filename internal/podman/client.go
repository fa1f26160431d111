package podman

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"time"
)

const (
	// apiPrefix is the oldest version of the API that serves all calls made
	// here; newer servers accept it.
	apiPrefix = "/v4.0.0/libpod"

	// maxResponse bounds one JSON answer. A pod list of 1,000 pods is 1 MB.
	maxResponse = 16 << 20

	// maxErrorBody bounds what is read of a refusal.
	maxErrorBody = 64 << 10

	defaultTimeout = time.Minute
)

// Config says where Podman listens. Socket is required.
type Config struct {
	Socket string // absolute path of the unix socket

	// Timeout bounds each call that comes without an earlier deadline, except
	// pulls and event streams; zero is one minute.
	Timeout time.Duration
}

// Client talks to one Podman. Its zero value is not usable.
type Client struct {
	http    *http.Client
	timeout time.Duration
}

// New returns a client; it does not connect.
func New(cfg Config) (*Client, error) {
	if !filepath.IsAbs(cfg.Socket) {
		return nil, fmt.Errorf("podman config: socket %q is not an absolute path", cfg.Socket)
	}
	if cfg.Timeout < 0 {
		return nil, fmt.Errorf("podman config: timeout %s is negative", cfg.Timeout)
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	dialer := &net.Dialer{}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, "unix", cfg.Socket)
			if err != nil && ctx.Err() == nil {
				return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
			}
			return conn, err
		},
		// A socket-activated service exits when idle for 5 s: keep less long,
		// so that no request is written to a connection that is going away.
		IdleConnTimeout:     2 * time.Second,
		MaxIdleConnsPerHost: 4,
		DisableCompression:  true,
	}
	return &Client{http: &http.Client{Transport: transport}, timeout: cfg.Timeout}, nil
}

// Close drops idle connections. The client stays usable.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// request is one call.
type request struct {
	method string
	path   string // below the API prefix, escaped
	query  url.Values
	header http.Header
	body   []byte
}

// send makes the call and returns an answer of 2xx, whose body the caller
// closes; any other answer becomes an APIError.
func (c *Client) send(ctx context.Context, r request) (*http.Response, error) {
	target := "http://podman" + apiPrefix + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	var body io.Reader
	if r.body != nil {
		body = bytes.NewReader(r.body)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, body)
	if err != nil {
		return nil, err
	}
	if r.body != nil {
		// Podman takes a body of curl's default type apart as a form.
		req.Header.Set("Content-Type", "application/octet-stream")
	}
	maps.Copy(req.Header, r.header)
	resp, err := c.http.Do(req)
	if err != nil {
		// The URL carries no more than the caller knows, and may be long.
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err
		}
		return nil, err
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		defer closeBody(resp)
		raw, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
		return nil, decodeError(resp.StatusCode, raw)
	}
	return resp, nil
}

// call makes the call, bounded in time and bytes, and decodes a JSON answer
// into out unless that is nil.
func (c *Client) call(ctx context.Context, r request, out any) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	resp, err := c.send(ctx, r)
	if err != nil {
		return err
	}
	defer closeBody(resp)
	raw, err := readBounded(resp.Body, maxResponse)
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("decode answer: %w", err)
	}
	return nil
}

// closeBody closes the body of an answer that was read; what fails then, fails
// for the next call too.
func closeBody(resp *http.Response) { _ = resp.Body.Close() }

func readBounded(r io.Reader, limit int64) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(raw)) > limit {
		return nil, fmt.Errorf("longer than %d bytes", limit)
	}
	return raw, nil
}

// filters encodes Podman's filter parameter.
func filters(f map[string][]string) (string, error) {
	raw, err := json.Marshal(f)
	return string(raw), err
}

// Version is what answers on the socket.
type Version struct {
	Engine string `json:"Version"` // of Podman, such as 4.3.1
	API    string `json:"ApiVersion"`
}

// Version asks Podman for its version, which also shows that it is there.
func (c *Client) Version(ctx context.Context) (Version, error) {
	var v Version
	if err := c.call(ctx, request{method: http.MethodGet, path: "/version"}, &v); err != nil {
		return Version{}, fmt.Errorf("read podman version: %w", err)
	}
	return v, nil
}
