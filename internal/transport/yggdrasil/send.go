package yggdrasil

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/textproto"
	"sync/atomic"

	"github.com/google/uuid"

	"github.com/project-flotta/flotta-agent/internal/transport"
	"github.com/project-flotta/flotta-agent/internal/transport/yggdrasil/pb"
)

// ErrNoAnswer says that yggd took a message but has no answer to it: the
// control plane could not be reached, took longer than yggd's 20 s, answered
// with something that is not JSON, or yggd is a 0.2.x, which never has one.
// The message may or may not have arrived.
var ErrNoAnswer = errors.New("no answer from the control plane")

// Send posts m through yggd and returns the control plane's answer, any status
// included. Without a deadline in ctx it waits 25 s; one below yggd's own 20 s
// makes messages look lost that were delivered. An empty m.ID is replaced by a
// random one. Errors are as transport.Transport says, or wrap ErrNoAnswer.
func (w *Worker) Send(ctx context.Context, m transport.Message) (transport.Reply, error) {
	if len(m.Content) > 0 && !json.Valid(m.Content) {
		return transport.Reply{}, fmt.Errorf("send %s: content is not JSON", m.Directive)
	}
	select {
	case w.sending <- struct{}{}:
		defer func() { <-w.sending }()
	case <-ctx.Done():
		return transport.Reply{}, fmt.Errorf("send %s: %w: %w", m.Directive, transport.ErrUnavailable, ctx.Err())
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultSendTimeout)
		defer cancel()
	}
	raw, err := w.post(ctx, m)
	if err != nil {
		return transport.Reply{}, fmt.Errorf("send %s: %w", m.Directive, err)
	}
	reply, err := decodeReply(raw)
	if err != nil {
		return transport.Reply{}, fmt.Errorf("send %s: %w", m.Directive, err)
	}
	return reply, nil
}

func (w *Worker) post(ctx context.Context, m transport.Message) ([]byte, error) {
	conn, err := w.dispatcher()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
	}
	if m.ID == "" {
		m.ID = uuid.NewString()
	}
	var handed atomic.Bool
	ctx = context.WithValue(ctx, handoverKey{}, func() { handed.Store(true) })
	res, err := pb.NewDispatcherClient(conn).Send(ctx, &pb.Data{
		MessageId:  m.ID,
		ResponseTo: m.ResponseTo,
		Directive:  m.Directive,
		Metadata:   m.Metadata,
		Content:    m.Content,
	})
	switch {
	case err == nil:
		return res.GetResponse(), nil
	case !handed.Load():
		return nil, fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
	default:
		return nil, err
	}
}

// decodeReply takes yggd's wrapping of an HTTP response apart.
func decodeReply(raw []byte) (transport.Reply, error) {
	if len(raw) == 0 {
		return transport.Reply{}, ErrNoAnswer
	}
	var wrapped struct {
		StatusCode int
		Body       json.RawMessage
		Metadata   map[string]string
	}
	if err := json.Unmarshal(raw, &wrapped); err != nil {
		return transport.Reply{}, fmt.Errorf("decode answer: %w", err)
	}
	if wrapped.StatusCode < 100 || wrapped.StatusCode > 599 {
		return transport.Reply{}, fmt.Errorf("decode answer: status %d", wrapped.StatusCode)
	}
	r := transport.Reply{Status: wrapped.StatusCode, Header: make(map[string]string, len(wrapped.Metadata))}
	if string(wrapped.Body) != "null" {
		r.Body = wrapped.Body
	}
	for name, value := range wrapped.Metadata {
		r.Header[textproto.CanonicalMIMEHeaderKey(name)] = value
	}
	return r, nil
}
