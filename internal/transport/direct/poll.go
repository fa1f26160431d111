package direct

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/project-flotta/flotta-agent/internal/transport"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Commands beside protocol.CommandDisconnect that yggd understands.
const (
	commandPing      = "ping"
	commandReconnect = "reconnect"
)

// poll is what is remembered from one question to the next.
type poll struct {
	link     *link     // that etag and refused are about
	etag     string    // of the last configuration that the handler took
	refused  time.Time // before then, a configuration is not asked for
	failures int       // in a row
	after    time.Duration
	told     string // why the last question failed
}

// Run asks for messages until ctx ends, and then returns nil.
func (c *Client) Run(ctx context.Context, h transport.Handler) error {
	for ctx.Err() == nil {
		err := c.ask(ctx, h)
		if ctx.Err() != nil {
			break
		}
		pause := c.poll.pause(c.cfg, err)
		c.tell(err, pause)
		select {
		case <-time.After(max(1, pause)):
		case <-ctx.Done():
		}
	}
	return nil
}

// pause returns how long to wait before the next question.
func (p *poll) pause(cfg Config, err error) time.Duration {
	if err == nil {
		p.failures = 0
		return vary(cfg.Poll)
	}
	p.failures++
	pause := cfg.MaxPause
	if doublings := p.failures - 1; doublings < 16 {
		pause = min(cfg.Poll<<doublings, cfg.MaxPause)
	}
	return max(vary(pause), p.after)
}

// vary spreads a fleet that was cut off together over time.
func vary(d time.Duration) time.Duration { return d*3/4 + rand.N(d/2+1) }

// tell logs what changed.
func (c *Client) tell(err error, pause time.Duration) {
	now := ""
	if err != nil {
		now = err.Error()
	}
	switch now {
	case c.poll.told:
	case "":
		c.cfg.Log.Info("control plane answers")
	default:
		c.cfg.Log.Warn("control plane not asked, will try again", "pause", pause, "err", err)
	}
	c.poll.told = now
}

// ask asks once for a command and for a configuration.
func (c *Client) ask(ctx context.Context, h transport.Handler) error {
	l, err := c.link()
	if err != nil {
		return err
	}
	p := &c.poll
	p.after = 0
	if p.link != l {
		p.link, p.etag, p.refused = l, "", time.Time{}
	}
	if !l.device(c.cfg.Settings.DeviceID) {
		return nil
	}
	left, err := c.askCommand(ctx, l, h)
	if err != nil || left {
		return err
	}
	if time.Now().Before(p.refused) {
		return nil
	}
	return c.askConfiguration(ctx, l, h)
}

// askCommand reports whether the device is told to leave.
func (c *Client) askCommand(ctx context.Context, l *link, h transport.Handler) (left bool, err error) {
	m, _, err := c.get(ctx, l, "control", "")
	if err != nil || m == nil {
		return false, err
	}
	return c.obey(ctx, l, h, m)
}

// obey does what a command says, and reports whether it is to leave.
func (c *Client) obey(ctx context.Context, l *link, h transport.Handler, m *protocol.Message) (left bool, err error) {
	if m.Type != protocol.TypeCommand {
		return false, fmt.Errorf("answer of control/in: is a message of type %q, not a command", m.Type)
	}
	var command protocol.Command
	if err := json.Unmarshal(m.Content, &command); err != nil {
		return false, fmt.Errorf("answer of control/in: decode command: %w", err)
	}
	switch command.Command {
	case protocol.CommandDisconnect:
		h.Disconnected(ctx)
		return true, nil
	case commandPing:
		_, err := c.post(ctx, l, "control", protocol.Message{
			Type: protocol.TypeEvent, Version: protocol.MessageVersion, ResponseTo: m.MessageID, Content: json.RawMessage(`"pong"`),
		})
		return false, err
	case commandReconnect:
		l.http.CloseIdleConnections()
		return false, nil
	default:
		c.cfg.Log.Warn("command ignored: unknown", "command", command.Command)
		return false, nil
	}
}

func (c *Client) askConfiguration(ctx context.Context, l *link, h transport.Handler) error {
	m, etag, err := c.get(ctx, l, "data", c.poll.etag)
	if err != nil || m == nil {
		return err
	}
	err = h.Receive(ctx, transport.Message{
		ID: m.MessageID, ResponseTo: m.ResponseTo, Directive: m.Directive, Metadata: texts(m.Metadata), Content: m.Content,
	})
	if err != nil { // the handler told why
		c.poll.etag, c.poll.refused = "", time.Now().Add(vary(refusedPause))
		return nil
	}
	c.poll.etag = etag
	return nil
}

// texts returns the metadata that are texts, as yggd does.
func texts(metadata map[string]any) map[string]string {
	out := make(map[string]string, len(metadata))
	for name, value := range metadata {
		if text, ok := value.(string); ok {
			out[name] = text
		}
	}
	return out
}

// get asks for a message of a channel. None is nil, without an error.
func (c *Client) get(ctx context.Context, l *link, channel, etag string) (*protocol.Message, string, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.address(channel, "in"), nil)
	if err != nil {
		return nil, "", err
	}
	r.Header.Set("Accept", "application/json")
	if etag != "" {
		r.Header.Set("If-None-Match", etag)
	}
	reply, err := c.do(l, r)
	if err != nil {
		return nil, "", fmt.Errorf("ask %s/in: %w", channel, err)
	}
	switch {
	case reply.Status == http.StatusNotModified, reply.Status == http.StatusNoContent:
		return nil, "", nil
	case reply.Status == http.StatusNotFound && channel == "data":
		return nil, "", nil // the device is gone, and a command will say so
	case reply.Status != http.StatusOK:
		c.poll.after = retryAfter(reply.Header["Retry-After"], c.cfg.MaxPause)
		return nil, "", fmt.Errorf("ask %s/in: answered %d %s", channel, reply.Status, http.StatusText(reply.Status))
	case len(reply.Body) == 0:
		return nil, "", nil
	}
	if now, err := c.link(); err != nil || now != l {
		return nil, "", errors.Join(err, errExchanged)
	}
	m, err := decode(reply.Body)
	if err != nil {
		return nil, "", fmt.Errorf("answer of %s/in: %w", channel, err)
	}
	return m, reply.Header["Etag"], nil
}

// errExchanged says that an answer was dropped.
var errExchanged = errors.New("another credential was put in place meanwhile")

// decode reads an envelope.
func decode(body []byte) (*protocol.Message, error) {
	var m protocol.Message
	if err := json.Unmarshal(body, &m); err != nil {
		return nil, fmt.Errorf("decode message: %w", err)
	}
	return &m, nil
}

// retryAfter returns how long the server asked to be left alone, within bounds.
func retryAfter(header string, longest time.Duration) time.Duration {
	seconds, err := strconv.Atoi(header)
	if err != nil || seconds < 0 {
		return 0
	}
	return min(time.Duration(min(seconds, 1<<20))*time.Second, longest)
}
