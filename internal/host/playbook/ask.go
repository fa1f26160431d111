package playbook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/transport"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// askTimeout is longer than yggd's own 20 s and what a slow link adds.
const askTimeout = 60 * time.Second

// maxAnswer is how much of a refusal is repeated.
const maxAnswer = 200

// ErrNonsense says that the control plane answered, and with something that is no
// list of playbooks.
var ErrNonsense = errors.New("not a list of playbooks")

// Sender posts one message and waits for the answer; a transport.Transport.
type Sender interface {
	Send(ctx context.Context, m transport.Message) (transport.Reply, error)
}

// Asker asks the control plane for playbooks.
type Asker struct{ Sender Sender }

// Ask returns the playbooks that the device is to run. The error is ErrNonsense
// when the answer makes no sense.
func (a Asker) Ask(ctx context.Context) ([]protocol.PlaybookExecution, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	reply, err := a.Sender.Send(ctx, transport.Message{ID: uuid.NewString(), Directive: protocol.DirectiveAnsible})
	if err != nil {
		return nil, fmt.Errorf("ask for playbooks: %w", err)
	}
	if reply.Status != 200 {
		text := first(strings.TrimSpace(string(reply.Body)), maxAnswer)
		return nil, fmt.Errorf("ask for playbooks: refused with status %d: %q", reply.Status, text)
	}
	list, err := decode(reply.Body)
	if err != nil {
		return nil, fmt.Errorf("ask for playbooks: the answer is %w: %w", ErrNonsense, err)
	}
	return list, nil
}

// decode reads the list in the body of an answer: JSON in a text in JSON. Nothing
// else of the answer is looked at, and of what the list holds that is not known
// neither.
func decode(body []byte) ([]protocol.PlaybookExecution, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil, errors.New("it is empty")
	}
	var answer struct {
		Content *json.RawMessage `json:"content"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("message: %w", err)
	}
	if answer.Content == nil {
		return nil, errors.New("it has no content")
	}
	var text *string
	if err := json.Unmarshal(*answer.Content, &text); err != nil {
		return nil, fmt.Errorf("content: %w", err)
	}
	if text == nil {
		return nil, errors.New("it has no content")
	}
	var list []protocol.PlaybookExecution
	if err := json.Unmarshal([]byte(*text), &list); err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	return list, nil // null is an empty list
}

// asking asks until ctx ends.
func (r *Runner) asking(ctx context.Context) {
	if r.cfg.Ready != nil {
		select {
		case <-ctx.Done():
			return
		case <-r.cfg.Ready:
		}
	}
	failures := 0
	due := time.Now().Add(r.cfg.Jitter(firstAsk / 2))
	for ctx.Err() == nil {
		snapshot := r.cfg.Desired.Current()
		if !managed(snapshot) {
			r.complain("")
			select {
			case <-ctx.Done():
			case <-snapshot.Superseded():
				due = time.Now().Add(time.Millisecond)
			}
			continue
		}
		pause := r.period(snapshot)
		timer := time.NewTimer(max(time.Millisecond, min(time.Until(due), 2*maxPause(pause))))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-snapshot.Superseded():
			timer.Stop()
			// A shorter period is in force at once.
			due = earlier(due, time.Now().Add(r.cfg.Jitter(r.period(r.cfg.Desired.Current()))))
			continue
		case <-timer.C:
		}
		if r.ask(ctx) {
			failures = 0
		} else {
			failures++
			pause = min(pause<<min(failures-1, 8), maxPause(pause))
		}
		due = time.Now().Add(r.cfg.Jitter(pause))
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func maxPause(period time.Duration) time.Duration { return max(period, maxAskPause) }

// period is how often to ask.
func (r *Runner) period(snapshot *desired.Snapshot) time.Duration {
	const most = 24 * 60 * 60
	set := snapshot.State().Ansible
	if set == nil || set.PeriodSeconds <= 0 {
		return r.cfg.Period
	}
	return time.Duration(min(set.PeriodSeconds, most)) * time.Second
}

// ask asks once, and reports whether there was an answer that could be used.
// Without one, everything stays as it was told before. That the control plane
// cannot be reached, or does not want to answer, is no problem of playbooks: one
// of flotta v0.2 has no other way to say that there are none.
func (r *Runner) ask(ctx context.Context) bool {
	list, err := r.cfg.Ask(ctx)
	if err == nil {
		if err = r.take(ctx, list); err == nil {
			r.complain("")
			return true
		}
		r.complain("playbooks cannot be taken in: " + err.Error())
	}
	switch {
	case ctx.Err() != nil:
	case errors.Is(err, ErrNonsense):
		r.cfg.Log.Warn("answer about playbooks makes no sense", "err", err)
		r.complain(err.Error())
	case errors.Is(err, transport.ErrUnavailable):
	default:
		r.cfg.Log.Warn("playbooks not taken in", "err", err)
	}
	return false
}
