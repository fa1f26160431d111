package kube

import (
	"context"
	"sync"
	"time"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// chore is what is to be told about a device in the background.
type chore struct {
	status bool // that what is broken changed
	event  bool // an Event of it
	tries  int
}

// tellQueue holds each device once, in no order.
type tellQueue struct {
	mu     sync.Mutex
	chores map[edgeapi.Device]chore
	order  []edgeapi.Device
	wake   chan struct{}
}

func (q *tellQueue) init() {
	q.chores = make(map[edgeapi.Device]chore)
	q.wake = make(chan struct{}, 1)
}

func (q *tellQueue) status(d edgeapi.Device) { q.add(d, chore{status: true}) }

func (q *tellQueue) event(d edgeapi.Device) { q.add(d, chore{event: true}) }

func (q *tellQueue) add(d edgeapi.Device, c chore) {
	q.mu.Lock()
	defer q.mu.Unlock()
	old, ok := q.chores[d]
	if !ok {
		q.order = append(q.order, d)
	}
	q.chores[d] = chore{status: old.status || c.status, event: old.event || c.event, tries: max(old.tries, c.tries)}
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *tellQueue) take() (edgeapi.Device, chore, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.order) == 0 {
		return edgeapi.Device{}, chore{}, false
	}
	d := q.order[0]
	q.order = q.order[1:]
	c := q.chores[d]
	delete(q.chores, d)
	if len(q.order) > 0 {
		select { // for another teller
		case q.wake <- struct{}{}:
		default:
		}
	}
	return d, c, true
}

const (
	// chorePause is the time after a chore that failed.
	chorePause = time.Second
	// maxChoreTries bounds the tries; the next report of the device says the
	// same.
	maxChoreTries = 30
)

// runTeller does what is to be told until ctx ends.
func (b *Backend) runTeller(ctx context.Context) {
	for {
		name, c, ok := b.tell.take()
		if !ok {
			select {
			case <-ctx.Done():
				return
			case <-b.tell.wake:
			}
			continue
		}
		err := b.doChore(ctx, name, c)
		if err == nil {
			continue
		}
		if ctx.Err() != nil {
			return
		}
		b.complain("tell", name, err)
		if c.tries++; c.tries < maxChoreTries {
			b.tell.add(name, c)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(chorePause):
		}
	}
}

func (b *Backend) doChore(ctx context.Context, name edgeapi.Device, c chore) error {
	d := b.devices.find(name)
	if d == nil {
		return nil
	}
	now := d.state()
	if now.rendered == nil {
		return nil
	}
	if c.status {
		_, err := b.update(ctx, d, func(object *v1alpha1.EdgeDevice) error {
			// Another teller may have told of a newer one meanwhile.
			if newest := d.state().rendered; newest != nil {
				fleet.Describe(object, newest.version, newest.problems, time.Now())
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if !c.event {
		return nil
	}
	var list []protocol.EventInfo
	for _, p := range now.rendered.problems {
		message := p.Message
		if p.Workload != "" {
			message = "workload " + p.Workload + ": " + message
		}
		list = append(list, protocol.EventInfo{Type: protocol.EventWarnType, Reason: p.Reason, Message: message})
	}
	return b.events.write(ctx, now.object, list)
}
