package logs

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/project-flotta/flotta-agent/internal/logs/follow"
)

// gather is how long lines are collected before they are written together.
const gather = 200 * time.Millisecond

// spooler takes lines from the readers into the spools, and keeps the places.
type spooler struct {
	dir       string
	syncEvery time.Duration
	log       *slog.Logger
	trouble   func(error)          // why nothing can be spooled; nil: it can
	skipped   func(reason string)  // as follow.Sink's
	save      func(p places) error // but for tests, places.save

	mu      sync.Mutex
	places  places
	targets map[string]*target
	routes  map[string]string // target by workload
	dirty   bool              // something of the above is not on disk
	taken   time.Time         // the last line
	room    chan struct{}     // closed when a buffer was emptied
	wake    chan struct{}     // there is something to be written
	full    chan struct{}     // at once

	commits sync.Mutex // one commit at a time
	synced  time.Time  // when places were saved last
	stale   map[*target]bool
}

func newSpooler(cfg Config, p places, trouble func(error), skipped func(string)) *spooler {
	return &spooler{
		dir: cfg.Dir, syncEvery: cfg.SyncEvery, log: cfg.Log, trouble: trouble, skipped: skipped,
		save:   func(p places) error { return p.save(cfg.Dir) },
		places: p, targets: map[string]*target{}, routes: map[string]string{},
		room: make(chan struct{}), wake: make(chan struct{}, 1), full: make(chan struct{}, 1),
		stale: map[*target]bool{},
	}
}

// Take is of follow.Sink. It waits while the buffer of the line's target is full,
// and refuses a line that has none: no place may come to stand behind it.
func (s *spooler) Take(ctx context.Context, line follow.Line, mark follow.Mark) error {
	record := encodeRecord(line)
	for {
		s.mu.Lock()
		t := s.targets[s.routes[line.Workload]]
		if t == nil {
			s.mu.Unlock()
			return follow.ErrRefused
		}
		if t.buffered == 0 || t.buffered+len(record) <= t.bound {
			t.buffer = append(t.buffer, record)
			t.buffered += len(record)
			s.place(mark)
			s.taken = time.Now()
			s.mu.Unlock()
			signal(s.wake)
			return nil
		}
		room := s.room
		s.mu.Unlock()
		signal(s.full)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-room:
		}
	}
}

// Skipped is of follow.Sink.
func (s *spooler) Skipped(reason string) { s.skipped(reason) }

// place records a mark; the caller holds the lock.
func (s *spooler) place(mark follow.Mark) {
	s.dirty = true
	if mark.Journal != nil {
		s.places.Journal = *mark.Journal
	}
	if mark.File != nil {
		s.places.Files[mark.File.ID] = *mark.File
	}
}

// left forgets the place of a container that is gone and was read to its end.
func (s *spooler) left(id string) {
	s.mu.Lock()
	delete(s.places.Files, id)
	s.dirty = true
	s.mu.Unlock()
	signal(s.wake)
}

// use puts another routing into force. Only of the containers in there are places
// of files kept; nil: of all.
func (s *spooler) use(targets map[string]*target, r routing) {
	s.mu.Lock()
	s.targets = targets
	if names := namesOf(r.journal); !maps.Equal(s.places.Routes, r.routes) || !maps.Equal(s.places.Names, names) {
		s.places.Routes, s.places.Names, s.dirty = maps.Clone(r.routes), names, true
	}
	s.routes = r.routes
	if r.there != nil {
		maps.DeleteFunc(s.places.Files, func(id string, _ follow.FileMark) bool {
			s.dirty = s.dirty || !r.there[id]
			return !r.there[id]
		})
	}
	s.freeRoom() // a target may be gone that somebody waits for
	s.mu.Unlock()
	signal(s.wake)
}

// resize bounds the buffer of a target.
func (s *spooler) resize(t *target, bytes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t.bound = bytes
	s.freeRoom()
}

func (s *spooler) freeRoom() {
	close(s.room)
	s.room = make(chan struct{})
}

// run writes until ctx ends, and once more then.
func (s *spooler) run(ctx context.Context) {
	sync := time.NewTimer(time.Hour)
	defer sync.Stop()
	for failures := 0; ; {
		select {
		case <-ctx.Done():
			if _, err := s.commit(true); err != nil {
				// What was not written is read again at the next start.
				s.log.Error("write lines of logs", slog.Any("err", err))
			}
			return
		case <-s.wake:
			s.linger(ctx, failures)
		case <-sync.C:
		}
		due, err := s.commit(false)
		s.trouble(err)
		if err != nil {
			failures++
			signal(s.wake)
			continue
		}
		failures = 0
		if due > 0 {
			sync.Reset(due)
		}
	}
}

// linger waits for more lines, or after failures for the disk.
func (s *spooler) linger(ctx context.Context, failures int) {
	pause, full := gather, s.full
	if failures > 0 {
		pause, full = backoff(time.Second, failures-1), nil
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-full:
	case <-timer.C:
	}
}

// commit appends what is buffered, and when it is time, or with now, makes it
// durable and saves the places. Due is when that is to be done otherwise. A spool
// that fails holds up no other, but the places, which are of all.
func (s *spooler) commit(now bool) (due time.Duration, err error) {
	s.commits.Lock()
	defer s.commits.Unlock()
	s.mu.Lock()
	places, dirty := s.places.clone(), s.dirty
	s.dirty = false
	buffers := map[*target][][]byte{}
	for _, t := range s.targets {
		if len(t.buffer) > 0 {
			buffers[t] = t.buffer
			t.buffer = nil // buffered still counts them
		}
	}
	s.mu.Unlock()
	var errs []error
	for t, records := range buffers {
		if err := t.queue.Append(records...); err != nil {
			errs = append(errs, err)
			continue
		}
		s.stale[t] = true
		delete(buffers, t)
		t.checkDropped()
		s.mu.Lock()
		t.buffered -= sizeOf(records)
		s.freeRoom()
		s.mu.Unlock()
	}
	if len(errs) == 0 && !dirty {
		return 0, nil
	}
	if wait := s.syncEvery - time.Since(s.synced); len(errs) == 0 && !now && wait > 0 {
		s.setDirty()
		return wait, nil
	}
	for t := range s.stale {
		if err := t.queue.Sync(); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(s.stale, t)
	}
	if len(errs) == 0 {
		err := s.save(places)
		if err == nil {
			s.synced = time.Now()
			return 0, nil
		}
		errs = append(errs, err)
	}
	s.giveBack(buffers)
	return 0, errors.Join(errs...)
}

// giveBack puts what was not written in front of what came since.
func (s *spooler) giveBack(buffers map[*target][][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dirty = true
	for t, records := range buffers {
		t.buffer = slices.Concat(records, t.buffer)
	}
}

func (s *spooler) setDirty() {
	s.mu.Lock()
	s.dirty = true
	s.mu.Unlock()
}

// waiting returns how many lines are not in a spool yet, and when the last came.
func (s *spooler) waiting() (lines int, last time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.targets {
		if t.buffered > 0 {
			lines += max(len(t.buffer), 1)
		}
	}
	return lines, s.taken
}

func sizeOf(records [][]byte) int {
	n := 0
	for _, r := range records {
		n += len(r)
	}
	return n
}

// signal leaves a sign in a channel of one place.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
