package direct

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/project-flotta/flotta-agent/internal/transport"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// errTooLarge says that an answer was longer than any that is right.
var errTooLarge = fmt.Errorf("answer is larger than %d bytes", maxAnswerBytes)

// Send posts m and returns the control plane's answer, any status included. An
// empty m.ID is replaced by a random one. Errors are as transport.Transport says.
func (c *Client) Send(ctx context.Context, m transport.Message) (transport.Reply, error) {
	if len(m.Content) > 0 && !json.Valid(m.Content) {
		return transport.Reply{}, fmt.Errorf("send %s: content is not JSON", m.Directive)
	}
	l, err := c.link()
	if err != nil {
		return transport.Reply{}, fmt.Errorf("send %s: %w", m.Directive, err)
	}
	reply, err := c.post(ctx, l, "data", envelope(m))
	if err != nil {
		return transport.Reply{}, fmt.Errorf("send %s: %w", m.Directive, err)
	}
	return reply, nil
}

// envelope wraps a message as the Edge API takes it.
func envelope(m transport.Message) protocol.Message {
	if m.ID == "" {
		m.ID = uuid.NewString()
	}
	var metadata map[string]any
	if len(m.Metadata) > 0 {
		metadata = make(map[string]any, len(m.Metadata))
		for name, value := range m.Metadata {
			metadata[name] = value
		}
	}
	sent := protocol.NewTime(time.Now())
	return protocol.Message{
		Type: protocol.TypeData, MessageID: m.ID, ResponseTo: m.ResponseTo, Version: protocol.MessageVersion,
		Sent: &sent, Directive: m.Directive, Metadata: metadata, Content: m.Content,
	}
}

// post sends an envelope up a channel.
func (c *Client) post(ctx context.Context, l *link, channel string, m protocol.Message) (transport.Reply, error) {
	body, err := json.Marshal(m)
	if err != nil {
		return transport.Reply{}, fmt.Errorf("encode message: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	// Without a connection nothing can have been delivered; with one, who knows.
	var connected atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }})
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.address(channel, "out"), bytes.NewReader(body))
	if err != nil {
		return transport.Reply{}, err
	}
	r.Header.Set("Content-Type", "application/json")
	reply, err := c.do(l, r)
	if err != nil && !connected.Load() {
		err = fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
	}
	return reply, err
}

// do makes a request and reads the whole answer.
func (c *Client) do(l *link, r *http.Request) (transport.Reply, error) {
	if c.cfg.UserAgent != "" {
		r.Header.Set("User-Agent", c.cfg.UserAgent)
	}
	res, err := l.http.Do(r)
	if err != nil {
		return transport.Reply{}, err
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswerBytes+1))
	if err := errors.Join(err, res.Body.Close()); err != nil {
		return transport.Reply{}, fmt.Errorf("read answer: %w", err)
	}
	if len(body) > maxAnswerBytes {
		return transport.Reply{}, errTooLarge
	}
	reply := transport.Reply{Status: res.StatusCode, Body: body, Header: make(map[string]string, len(res.Header))}
	for name, values := range res.Header {
		reply.Header[name] = strings.Join(values, ";") // as yggd joins them
	}
	return reply, nil
}
