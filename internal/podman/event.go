package podman

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// Event is something that happened to a container, a pod or an image.
type Event struct {
	Type   string // container, pod or image
	Action string // start, died, remove, health_status …
	ID     string
	Labels map[string]string // of a container; with name, image and the like mixed in
	Health string            // of a container, with the action health_status; may be empty
	Time   time.Time
}

// EventFilter selects by type and action; an empty list selects all. There is
// no filter by label because Podman 4.3 finds nothing by a key alone.
type EventFilter struct {
	Types   []string
	Actions []string
}

// EventStream delivers events from its opening on. It is for one goroutine.
type EventStream struct {
	body   io.ReadCloser
	lines  *bufio.Scanner
	cancel context.CancelFunc
}

// Events opens a stream; nothing that happens after it returned is missed as
// long as the stream lives. It ends with ctx, with Close, or when Podman goes
// away; opening another one, and reading the state in between, is the caller's.
func (c *Client) Events(ctx context.Context, f EventFilter) (*EventStream, error) {
	selection := map[string][]string{}
	if len(f.Types) > 0 {
		selection["type"] = f.Types
	}
	if len(f.Actions) > 0 {
		selection["event"] = f.Actions
	}
	encoded, err := filters(selection)
	if err != nil {
		return nil, fmt.Errorf("open event stream: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	resp, err := c.send(ctx, request{ //nolint:bodyclose // by EventStream.Close
		method: http.MethodGet, path: "/events",
		query: url.Values{"stream": {"true"}, "filters": {encoded}},
	})
	if err != nil {
		cancel()
		return nil, fmt.Errorf("open event stream: %w", err)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 0, 4096), maxLine)
	return &EventStream{body: resp.Body, lines: lines, cancel: cancel}, nil
}

// Next waits for the next event. The error is io.EOF when Podman ended the
// stream.
func (s *EventStream) Next() (Event, error) {
	for s.lines.Scan() {
		if len(s.lines.Bytes()) == 0 {
			continue
		}
		e, err := decodeEvent(s.lines.Bytes())
		if err != nil {
			return Event{}, fmt.Errorf("decode event: %w", err)
		}
		return e, nil
	}
	if err := s.lines.Err(); err != nil {
		return Event{}, fmt.Errorf("read event stream: %w", err)
	}
	return Event{}, io.EOF
}

// Close ends the stream; a Next that is waiting returns an error.
func (s *EventStream) Close() error {
	s.cancel()
	return s.body.Close()
}

func decodeEvent(raw []byte) (Event, error) {
	var w struct {
		Type   string
		Action string
		Actor  struct {
			ID         string
			Attributes map[string]string
		}
		HealthStatus string
		TimeNano     int64 `json:"timeNano"`
	}
	if err := json.Unmarshal(raw, &w); err != nil {
		return Event{}, err
	}
	return Event{
		Type: w.Type, Action: w.Action, ID: w.Actor.ID, Labels: w.Actor.Attributes,
		Health: w.HealthStatus, Time: time.Unix(0, w.TimeNano).UTC(),
	}, nil
}
