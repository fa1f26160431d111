package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
)

const (
	// maxAnswer bounds a list of playbooks or a configuration, with the manifests
	// of all workloads of a device: sensible ones are well below 1 MiB.
	maxAnswer = 8 << 20
	// maxShort bounds all other answers: a status, or why something failed.
	maxShort = 64 << 10
	// maxAttempts of a call that may be repeated.
	maxAttempts = 3
	// firstWait is the pause before the first repetition, and doubles.
	firstWait = 100 * time.Millisecond
	// maxWish is how long a call waits when the service asks for it by
	// Retry-After. With a longer wish it fails: the device asks again.
	maxWish = 2 * time.Second
)

// request is one call.
type request struct {
	call       string // its name: in errors, in the log and in the metrics
	method     string
	device     edgeapi.Device
	suffix     string // of the path, after the device
	body       []byte // JSON; nil for none
	etag       string // of what we have; empty for nothing
	idempotent bool   // it may be made twice
	long       bool   // a success may be up to maxAnswer long
}

// response is an answer, read.
type response struct {
	status      int
	body        []byte
	contentType string
	etag        string
	cut         bool // it was longer than it may be; body is its beginning
}

// client makes calls: each a few attempts, each attempt bounded.
type client struct {
	http    *http.Client
	base    string // without a slash at its end
	timeout time.Duration
	circuit *circuit
	metrics *metrics
	log     *slog.Logger

	// denied is the status by which the service last refused us rather than a
	// device, and 0 while it does not.
	denied atomic.Int64
	// denials bounds how often that is said, of a service that is of two minds.
	denials *rate.Limiter
}

// trouble is an attempt without an answer that could be used.
type trouble struct {
	err   error
	code  string        // for the metrics
	again bool          // another attempt may help, and do no harm
	wish  time.Duration // what Retry-After said
	fault bool          // it counts against the service
}

// do makes a call and returns its answer, whatever its status below 500.
func (c *client) do(ctx context.Context, q request) (response, error) {
	if err := checkNames(q.device); err != nil {
		return response{}, fmt.Errorf("%s: %w", q.call, err)
	}
	var last error
	for attempt := range maxAttempts {
		pass, err := c.circuit.enter()
		if err != nil {
			if last == nil {
				c.metrics.requests.WithLabelValues(q.call, codeOpen).Inc()
				last = err
			}
			break
		}
		start := time.Now()
		resp, problem := c.attempt(ctx, q)
		code := statusCode(resp.status)
		if problem != nil {
			code = problem.code
		}
		c.metrics.observe(q.call, code, time.Since(start))
		switch {
		case problem == nil:
			pass.answered()
			return resp, nil
		case problem.fault:
			pass.failed(problem.err, problem.wish)
		default:
			pass.abandoned()
		}
		last = problem.err
		if !problem.again || problem.wish > maxWish || attempt == maxAttempts-1 {
			break
		}
		if !sleep(ctx, max(jitter(firstWait<<attempt), problem.wish)) {
			break
		}
	}
	return response{}, fmt.Errorf("%s: %w", q.call, last)
}

// sleep reports whether d passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// attempt asks once. The trouble is nil when there is an answer.
func (c *client) attempt(parent context.Context, q request) (response, *trouble) {
	ctx, cancel := context.WithTimeout(parent, c.timeout)
	defer cancel()
	var connected atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { connected.Store(true) },
	})
	lost := func(err error) *trouble {
		if parent.Err() != nil {
			return &trouble{err: context.Cause(parent), code: codeGone}
		}
		if late := net.Error(nil); ctx.Err() != nil || errors.As(err, &late) && late.Timeout() {
			// Asking a slow service more often makes it slower: no repetition.
			return &trouble{err: fmt.Errorf("no answer within %s", c.timeout), code: codeTimeout, fault: true}
		}
		return &trouble{err: err, code: codeError, again: q.idempotent || !connected.Load(), fault: true}
	}
	r, err := c.newRequest(ctx, q)
	if err != nil {
		return response{}, &trouble{err: err, code: codeError}
	}
	resp, err := c.http.Do(r)
	if err != nil {
		if wrapped := new(url.Error); errors.As(err, &wrapped) {
			err = wrapped.Err // without the method and the address, which the caller names
		}
		return response{}, lost(err)
	}
	// Close says nothing that reading did not.
	defer func() { _ = resp.Body.Close() }()
	answer, err := read(resp, q.long)
	switch {
	case err != nil:
		return answer, lost(fmt.Errorf("read answer: %w", err))
	case answer.status >= http.StatusInternalServerError || answer.status == http.StatusTooManyRequests:
		return answer, &trouble{
			err: answer.refusal(), code: statusCode(answer.status), fault: true,
			again: q.idempotent && answer.status != http.StatusNotImplemented,
			wish:  retryAfter(resp.Header.Get("Retry-After"), time.Now()),
		}
	}
	c.noteDenial(answer.status)
	return answer, nil
}

// read takes in an answer, up to its limit. It reads to the end, without which
// the connection is not used again.
func read(resp *http.Response, long bool) (response, error) {
	limit := maxShort
	if long && resp.StatusCode == http.StatusOK {
		limit = maxAnswer
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, int64(limit)+1))
	r := response{
		status: resp.StatusCode, body: body,
		contentType: resp.Header.Get("Content-Type"), etag: resp.Header.Get("ETag"),
	}
	if len(body) > limit {
		r.body, r.cut = body[:limit], true
	}
	return r, err
}

func (c *client) newRequest(ctx context.Context, q request) (*http.Request, error) {
	address := c.base + "/namespaces/" + url.PathEscape(q.device.Namespace) + "/devices/" + url.PathEscape(q.device.ID) + q.suffix
	var body io.Reader
	if q.body != nil {
		body = bytes.NewReader(q.body)
	}
	r, err := http.NewRequestWithContext(ctx, q.method, address, body)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", "flotta-edge-api")
	if q.body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if q.etag != "" {
		r.Header.Set("If-None-Match", q.etag)
	}
	return r, nil
}

// noteDenial says in the log, once for every change, that the service does not
// let us in: that is for the administrator, and no device can do about it.
func (c *client) noteDenial(status int) {
	now := int64(0)
	if status == http.StatusUnauthorized || status == http.StatusForbidden {
		now = int64(status)
	}
	if before := c.denied.Load(); now == before || !c.denials.Allow() || !c.denied.CompareAndSwap(before, now) {
		return
	}
	if now != 0 {
		c.log.Error("remote backend refuses the edge api: check what its certificate may do there", "status", now)
		return
	}
	c.log.Info("remote backend accepts the edge api again")
}

// probe asks for the base path, to which any answer that is not the failure of a
// server is a sign of life.
func (c *client) probe(ctx context.Context) error {
	pass, err := c.circuit.enter()
	if err != nil {
		return err
	}
	parent := ctx
	ctx, cancel := context.WithTimeout(parent, c.timeout)
	defer cancel()
	err = c.knock(ctx)
	switch {
	case err == nil:
		pass.answered()
	case parent.Err() != nil:
		pass.abandoned()
	default:
		pass.failed(err, 0)
	}
	return err
}

func (c *client) knock(ctx context.Context) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base, nil)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // for the connection to be used again
	if resp.StatusCode >= http.StatusInternalServerError {
		return response{status: resp.StatusCode}.refusal()
	}
	return nil
}

// checkNames refuses what is no name of a device: it becomes part of a path.
func checkNames(d edgeapi.Device) error {
	if len(validation.IsDNS1123Label(d.Namespace)) > 0 || len(validation.IsDNS1123Subdomain(d.ID)) > 0 {
		return fmt.Errorf("device %q in namespace %q: %w", d.ID, d.Namespace, edgeapi.ErrNotFound)
	}
	return nil
}

// retryAfter reads the header: seconds or a date; 0 when it says nothing.
func retryAfter(header string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(header, 10, 16); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(header); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}
