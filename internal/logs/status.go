package logs

import (
	"cmp"
	"slices"
	"time"

	"github.com/project-flotta/flotta-agent/internal/diskq"
)

// Reasons of events and problems.
const (
	reasonFailing   = "LogTargetFailing"
	reasonRecovered = "LogTargetRecovered"
	reasonInvalid   = "LogTargetInvalid"
	reasonUnknown   = "LogTargetUnknown"
	reasonDriver    = "LogDriverUnreadable"
	reasonSkipped   = "LogLinesSkipped"
	reasonSpool     = "LogSpoolFailing"
	reasonJournal   = "JournalUnreadable"
	reasonPlaces    = "LogPlacesDamaged"
	reasonDropped   = "LogLinesDropped"
)

// Status is what an Engine does.
type Status struct {
	Targets  []TargetStatus // by name
	Problems []Problem      // what is wrong now; by reason and message
	Skipped  uint64         // how often lines may have been missed, since the start
}

// TargetStatus is one target.
type TargetStatus struct {
	Name      string
	Address   string // host:port; empty when it is invalid
	Protocol  string // tcp, udp or tls
	Connected bool
	Queue     diskq.Stats
	Sent      uint64 // lines that arrived, since the start
	Dropped   uint64 // lines that were never sent, over the life of the spool
	LastError string // since something arrived
}

// Problem is something that somebody should look at.
type Problem struct{ Reason, Message string }

// Status returns what is going on. It never blocks for long.
func (e *Engine) Status() Status {
	e.mu.Lock()
	s := Status{Skipped: e.skips}
	var targets []*target
	for name := range e.configured {
		if t := e.targets[name]; t != nil {
			targets = append(targets, t)
		}
	}
	for reason, message := range e.problems {
		s.Problems = append(s.Problems, Problem{reason, message})
	}
	for _, message := range e.unknown {
		s.Problems = append(s.Problems, Problem{reasonUnknown, message})
	}
	for _, message := range e.unread {
		s.Problems = append(s.Problems, Problem{reasonDriver, message})
	}
	e.mu.Unlock()
	for _, t := range targets {
		status, problem := t.status()
		s.Targets = append(s.Targets, status)
		if problem.Reason != "" {
			s.Problems = append(s.Problems, problem)
		}
	}
	slices.SortFunc(s.Targets, func(a, b TargetStatus) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(s.Problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Message, b.Message))
	})
	return s
}

func (t *target) status() (TargetStatus, Problem) {
	stats := t.queue.Stats()
	t.mu.Lock()
	defer t.mu.Unlock()
	s := TargetStatus{
		Name: t.name, Address: t.to.Address, Protocol: string(t.to.Protocol), Connected: t.connected,
		Queue: stats, Sent: t.sent, Dropped: stats.Dropped.Size + stats.Dropped.Age + stats.Dropped.Damage, LastError: t.lastError,
	}
	var p Problem
	switch {
	case t.invalid != "":
		p = Problem{reasonInvalid, "log target " + t.name + ": " + t.invalid}
	case t.failures >= tellAfter:
		p = Problem{reasonFailing, "log target " + t.name + ": " + t.lastError}
	}
	return s, p
}

// quiet is how long no line may have come for Flush to believe that there are
// no more.
const quiet = time.Second
