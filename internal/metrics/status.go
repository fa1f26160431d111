package metrics

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/project-flotta/flotta-agent/internal/diskq"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Reasons of problems and events.
const (
	ReasonReceiverInvalid = "MetricsReceiverInvalid" // the configuration names none that makes sense
	ReasonReceiverRefuses = "MetricsReceiverRefuses" // it takes no samples from this device
	ReasonTooOld          = "MetricsTooOld"          // it takes no samples of the time that waits
	ReasonSpoolFails      = "MetricsSpoolFails"      // the disk does not take samples
	ReasonDropped         = "MetricsDropped"         // the spool is full; an event only
)

// Status is what the engine did and what it has before it, at one moment. Counts
// are of samples since Open, unless they say otherwise.
type Status struct {
	Queue    diskq.Stats // in scrapes; a large one counts as several
	Receiver string      // without user, password and query; empty: none

	Sent     uint64 // the receiver has them
	Replayed uint64 // the receiver had them, or newer ones of the series
	TooOld   uint64 // dropped: the receiver takes none of that time
	Refused  uint64 // dropped: the receiver does not want them
	Unkept   uint64 // dropped: Put could not write them
	Damaged  uint64 // scrapes dropped because they could not be decoded
	Failed   uint64 // requests that were to be sent again

	LastSuccess time.Time // when the receiver last took samples; zero: not since Open
	LastError   string    // of the newest request; empty: it went well
	// FailingSince is when requests began to fail without one that was answered;
	// zero: the newest one was.
	FailingSince time.Time
	// Delivered is when the newest scrape that was dealt with had been put: how
	// late the receiver is. Zero: none since Open.
	Delivered time.Time
	// Problems are what lasts until somebody changes something, by Reason. That a
	// receiver cannot be reached is none: devices are offline.
	Problems []Problem
}

// Problem is a condition that lasts.
type Problem struct {
	Reason  string
	Message string // for a person
}

// Status returns the state of the engine without touching the disk.
func (e *Engine) Status() Status {
	var q diskq.Stats
	if spool := e.spool(); spool != nil {
		q = spool.Stats()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.status
	s.Queue, s.Problems = q, slices.Clone(s.Problems)
	return s
}

// Changed returns a channel that is closed by the next change of the status,
// other than one of the queue because of Put.
func (e *Engine) Changed() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.changed
}

// update lets f change the status.
func (e *Engine) update(f func(*Status)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f(&e.status)
	close(e.changed)
	e.changed = make(chan struct{})
}

// eventEvery bounds the events of one reason: what comes and goes is in the status.
const eventEvery = 10 * time.Minute

// problem says what is wrong; nil: nothing any more. A problem that begins is an
// event, too.
func (e *Engine) problem(reason string, err error) {
	e.mu.Lock()
	at := slices.IndexFunc(e.status.Problems, func(p Problem) bool { return p.Reason == reason })
	e.mu.Unlock()
	if at < 0 && err == nil {
		return
	}
	e.update(func(s *Status) {
		s.Problems = slices.DeleteFunc(slices.Clone(s.Problems), func(p Problem) bool { return p.Reason == reason })
		if err != nil {
			s.Problems = append(s.Problems, Problem{Reason: reason, Message: err.Error()})
			slices.SortFunc(s.Problems, func(a, b Problem) int { return strings.Compare(a.Reason, b.Reason) })
		}
	})
	if at < 0 && e.due(reason) {
		e.cfg.Log.Warn("metrics have a problem", "reason", reason, "err", err)
		e.cfg.Event(protocol.EventInfo{Type: protocol.EventWarnType, Reason: reason, Message: err.Error()})
	}
}

// due reports whether there may be an event of that reason again.
func (e *Engine) due(reason string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if last, known := e.events[reason]; known && time.Since(last) < eventEvery {
		return false
	}
	e.events[reason] = time.Now()
	return true
}

// dropEvery is how often it is told that the spool drops samples.
const dropEvery = time.Hour

// tellDropped makes an event of what the bounds have dropped since the last one.
// Without a receiver, that is what is asked for.
func (e *Engine) tellDropped(now time.Time) {
	wanted := settingsOf(e.cfg.Desired.Current().State()).receiver.url != ""
	q := e.spool()
	if q == nil {
		return
	}
	d := q.Stats().Dropped
	e.mu.Lock()
	n := d.Size + d.Age - min(d.Size+d.Age, e.told)
	due := wanted && n > 0 && (e.toldAt.IsZero() || now.Sub(e.toldAt) >= dropEvery)
	if !wanted {
		e.told = d.Size + d.Age
	}
	if due {
		e.told, e.toldAt = d.Size+d.Age, now
	}
	e.mu.Unlock()
	if due {
		message := fmt.Sprintf("%d scrapes were dropped before they could be delivered: raise the retention, or look why the receiver does not take them", n)
		e.cfg.Event(protocol.EventInfo{Type: protocol.EventWarnType, Reason: ReasonDropped, Message: message})
	}
}
