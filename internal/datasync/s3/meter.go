package s3

import (
	"context"
	"io"
	"net/http"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// meterKey finds what is to be told of the bytes of a request's body.
type meterKey struct{}

type reading struct {
	moved func(bytes int64)
	piece int
}

// metered returns a context whose requests tell of what they send.
func metered(ctx context.Context, u Upload) context.Context {
	if u.Moved == nil {
		return ctx
	}
	return context.WithValue(ctx, meterKey{}, reading{moved: u.Moved, piece: u.Piece})
}

// meter counts what travels, once for every attempt: reading a body to compute
// its digest is no progress, and what an attempt that failed has sent is taken
// back.
type meter struct {
	next http.RoundTripper
	drop func() // drops idle connections
}

// RoundTrip sends the request.
func (m meter) RoundTrip(r *http.Request) (*http.Response, error) {
	how, ok := r.Context().Value(meterKey{}).(reading)
	if !ok || r.Body == nil || r.Body == http.NoBody {
		return m.send(r)
	}
	body := &meteredBody{ReadCloser: r.Body, reading: how}
	sent := r.WithContext(r.Context())
	sent.Body = body
	answer, err := m.send(sent)
	if err != nil || answer.StatusCode >= http.StatusMultipleChoices {
		body.takeBack()
	}
	return answer, err
}

// send drops what is left of the connections to a server whose certificate is no
// longer the one it was: a cycle had better fail as a whole than in parts.
func (m meter) send(r *http.Request) (*http.Response, error) {
	answer, err := m.next.RoundTrip(r)
	if err != nil && certificateRefused(err) == aws.FalseTernary {
		m.drop()
	}
	return answer, err
}

type meteredBody struct {
	io.ReadCloser
	reading

	mu    sync.Mutex
	count int64
	over  bool // the attempt failed; the transport may still be reading
}

// Read reads and tells.
func (b *meteredBody) Read(p []byte) (int, error) {
	if b.piece > 0 && len(p) > b.piece {
		p = p[:b.piece]
	}
	n, err := b.ReadCloser.Read(p)
	if n > 0 && b.add(int64(n)) {
		b.moved(int64(n))
	}
	return n, err
}

func (b *meteredBody) add(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.over {
		b.count += n
	}
	return !b.over
}

func (b *meteredBody) takeBack() {
	b.mu.Lock()
	b.over = true
	n := b.count
	b.mu.Unlock()
	if n > 0 {
		b.moved(-n)
	}
}
