package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"syscall"
	"time"
)

const (
	// fetchTime bounds how long the agent has for its answer.
	fetchTime = 10 * time.Second
	// maxDocument bounds what is read of it: a device with hundreds of workloads
	// has less.
	maxDocument = 32 << 20
)

// Fetch asks the agent that listens on the socket how it is. The error says what
// to do about it.
func Fetch(ctx context.Context, socket string) (Document, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	raw, err := exchange(ctx, socket, http.MethodGet, pathStatus)
	if err != nil {
		return Document{}, err
	}
	var d Document
	if err := json.Unmarshal(raw, &d); err != nil {
		return Document{}, fmt.Errorf("decode status: %w", err)
	}
	return d, nil
}

// FetchMetrics asks the agent for its metrics, in the text format of Prometheus.
func FetchMetrics(ctx context.Context, socket string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	return exchange(ctx, socket, http.MethodGet, pathMetrics)
}

// exchange makes one request and returns the body of its answer.
func exchange(ctx context.Context, socket, method, target string) ([]byte, error) {
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://agent"+target, nil)
	if err != nil {
		return nil, err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, advised(socket, err)
	}
	defer func() { _ = response.Body.Close() }() // it was read
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusTooManyRequests:
		return nil, errors.New("too many wait for a synchronisation already: ask again later")
	default:
		return nil, fmt.Errorf("the agent answers with %s: is it of another version than this program?", response.Status)
	}
	raw, err := io.ReadAll(io.LimitReader(response.Body, maxDocument))
	if err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	return raw, nil
}

// advised says what to do about an agent that cannot be asked.
func advised(socket string, err error) error {
	const look = "look at `systemctl status yggd flotta-agent` and `journalctl -u yggd -u flotta-agent`"
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s may not be used: ask as root, or as a member of the socket's group (ls -l shows it): %w", socket, err)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("the agent does not run; yggd starts it: %s: %w", look, err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the agent does not answer: %s: %w", look, err)
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return fmt.Errorf("the agent closed the connection: it has just ended, or too many ask at once; ask again: %w", err)
	}
	return fmt.Errorf("ask the agent: %w", err)
}
