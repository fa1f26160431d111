package logs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/diskq"
	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/internal/logs/follow"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Engine brings the lines of all workloads to their targets.
type Engine struct {
	cfg     Config
	journal *cell[map[string]follow.Origin]
	files   *cell[map[string]follow.Source]

	mu         sync.Mutex
	spool      *spooler // nil until the places were read
	targets    map[string]*target
	configured map[string]bool
	problems   map[string]string    // message by reason
	told       map[string]time.Time // when there was an event last, by reason
	unknown    map[string]string    // by workload
	unread     map[string]string    // by Podman's name of a container
	skips      uint64
	changed    chan struct{}
}

// New returns an engine. It does no I/O.
func New(cfg Config) (*Engine, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Engine{
		cfg:     cfg.withDefaults(),
		journal: newCell(map[string]follow.Origin{}),
		files:   newCell(map[string]follow.Source{}),
		targets: map[string]*target{}, configured: map[string]bool{},
		problems: map[string]string{}, told: map[string]time.Time{}, unknown: map[string]string{}, changed: make(chan struct{}),
	}, nil
}

// Changed returns a channel that is closed when Problems of Status change. Take
// it before Status.
func (e *Engine) Changed() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.changed
}

func (e *Engine) tell() {
	close(e.changed)
	e.changed = make(chan struct{})
}

// tellEvery is how often there is an event of one reason.
const tellEvery = 10 * time.Minute

// problem sets what is wrong, and "" that nothing is.
func (e *Engine) problem(reason, message string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.problems[reason] == message {
		return
	}
	// What comes and goes is told now and then; Status always has it.
	tell := e.problems[reason] == "" && message != "" && (e.told[reason].IsZero() || time.Since(e.told[reason]) >= tellEvery)
	e.problems[reason] = message
	if message == "" {
		delete(e.problems, reason)
	}
	e.tell()
	if tell {
		e.told[reason] = time.Now()
		e.cfg.Log.Warn("logs are not collected as they should be", slog.String("reason", reason), slog.String("message", message))
		e.cfg.Event(protocol.EventInfo{Reason: reason, Type: protocol.EventWarnType, Message: message})
	}
}

// trouble makes a problem of an error, and none of nil.
func (e *Engine) trouble(reason, what string) func(error) {
	return func(err error) {
		message := ""
		if err != nil {
			message = what + ": " + clip(err.Error())
		}
		e.problem(reason, message)
	}
}

// skipped counts and tells that lines may be missing.
func (e *Engine) skipped(reason string) {
	e.mu.Lock()
	e.skips++
	e.mu.Unlock()
	e.cfg.Log.Warn("lines of logs were skipped", slog.String("reason", reason))
	e.cfg.Event(protocol.EventInfo{Reason: reasonSkipped, Type: protocol.EventWarnType, Message: reason})
}

// Run collects and delivers until ctx ends, and returns nil then.
func (e *Engine) Run(ctx context.Context) error {
	p, ok := e.open(ctx)
	if !ok {
		return nil
	}
	spool := newSpooler(e.cfg, p, e.trouble(reasonSpool, "lines of logs cannot be kept on the disk; the containers' own logs keep them"), e.skipped)
	e.mu.Lock()
	e.spool = spool
	e.mu.Unlock()
	defer e.closeTargets()

	// What was read is written after those that read have ended.
	writing, stopWriting := context.WithCancel(context.WithoutCancel(ctx))
	var writer sync.WaitGroup
	defer writer.Wait()
	defer stopWriting()

	var readers sync.WaitGroup
	defer readers.Wait()
	started, failures := false, 0
	before := p.routing()
	for {
		changed := e.cfg.Containers.Changed()
		list, known := e.cfg.Containers.Current()
		snapshot := e.cfg.Desired.Current()
		before = plan(snapshot.State(), list, known, before, time.Now())
		next := before.next
		if e.apply(ctx, spool, snapshot.State(), before) {
			failures = 0
		} else {
			next = sooner(next, time.Now().Add(backoff(e.cfg.retry, failures)))
			failures++
		}
		if known && !started {
			// Before that, nobody knows where a log begins that was never read.
			if err := e.read(ctx, spool, p, &readers); err != nil {
				return err
			}
			writer.Go(func() { spool.run(writing) })
			started = true
		}
		if !wait(ctx, next, changed, snapshot.Superseded()) {
			return nil
		}
	}
}

// sooner returns the first of two times; a zero one never comes.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// wait returns false when ctx ended.
func wait(ctx context.Context, next time.Time, changes ...<-chan struct{}) bool {
	var due <-chan time.Time
	if !next.IsZero() {
		timer := time.NewTimer(max(time.Until(next), time.Millisecond))
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-ctx.Done():
		return false
	case <-due:
	case <-changes[0]:
	case <-changes[1]:
	}
	return true
}

// open reads the places, and tries until that works.
func (e *Engine) open(ctx context.Context) (places, bool) {
	for failures := 0; ; failures++ {
		err := os.MkdirAll(filepath.Join(e.cfg.Dir, spoolsDir), 0o700)
		if err == nil {
			err = durable.Sweep(e.cfg.Dir)
		}
		var p places
		var damaged string
		if err == nil {
			p, damaged, err = loadPlaces(e.cfg.Dir)
		}
		if damaged != "" {
			e.placesDamaged(damaged)
		}
		if err == nil {
			e.problem(reasonSpool, "")
			e.sweep()
			return p, true
		}
		e.problem(reasonSpool, "logs cannot be collected: "+clip(err.Error()))
		select {
		case <-ctx.Done():
			return places{}, false
		case <-time.After(backoff(e.cfg.retry, failures)):
		}
	}
}

// placesDamaged tells what is over when it is told: there are new places now.
func (e *Engine) placesDamaged(why string) {
	message := "the record of how far logs were read is damaged; what the containers' logs still have is sent again: " + clip(why)
	e.cfg.Log.Warn("the record of how far logs were read is damaged", slog.String("err", why))
	e.cfg.Event(protocol.EventInfo{Reason: reasonPlaces, Type: protocol.EventWarnType, Message: message})
}

// read starts the readers.
func (e *Engine) read(ctx context.Context, spool *spooler, p places, readers *sync.WaitGroup) error {
	journal, err := follow.NewJournal(follow.JournalConfig{
		UID: e.cfg.OwnerUID, Wanted: e.journal.get, Sink: spool, Command: e.cfg.Journalctl, Log: e.cfg.Log,
		Trouble: e.trouble(reasonJournal, "the journal cannot be read"),
	}, p.Journal)
	if err != nil {
		return fmt.Errorf("read logs: %w", err)
	}
	files, err := follow.NewFiles(follow.FilesConfig{
		Wanted: e.files.get, Sink: spool, Left: spool.left, OwnerUID: e.cfg.OwnerUID, Log: e.cfg.Log,
	}, p.Files)
	if err != nil {
		return fmt.Errorf("read logs: %w", err)
	}
	readers.Go(func() { _ = journal.Run(ctx) }) // nil, always
	readers.Go(func() { _ = files.Run(ctx) })
	return nil
}

// apply puts a routing into force. It returns false when that is to be tried
// again, because a spool cannot be opened.
func (e *Engine) apply(ctx context.Context, spool *spooler, state desired.State, r routing) bool {
	failed := e.configure(ctx, state)
	e.trouble(reasonInvalid, "the spool of a log target cannot be opened")(failed)
	e.mu.Lock()
	targets := maps.Clone(e.targets)
	if !maps.Equal(e.unknown, r.unknown) || !maps.Equal(e.unread, r.unread) {
		e.unknown, e.unread = r.unknown, r.unread
		e.tell()
	}
	e.mu.Unlock()
	spool.use(targets, r)
	// A target whose spool is not open takes nothing; its workloads wait.
	for name, o := range r.journal {
		if targets[r.routes[o.Workload]] == nil {
			o.Paused = true
			r.journal[name] = o
		}
	}
	for id, s := range r.files {
		if targets[r.routes[s.Workload]] == nil {
			s.Paused = true
			r.files[id] = s
		}
	}
	if now, _ := e.journal.get(); followed(now, r.journal) {
		e.journal.set(r.journal)
	}
	if now, _ := e.files.get(); !maps.Equal(now, r.files) {
		e.files.set(r.files)
	}
	return failed == nil
}

// configure opens spools and starts senders. A target that is configured no more
// stays open and takes what its workloads still write; it sends nothing.
func (e *Engine) configure(ctx context.Context, state desired.State) error {
	var errs []error
	configured := map[string]bool{}
	e.haltOld(state)
	for name, info := range state.LogCollection {
		configured[name] = true
		e.mu.Lock()
		t := e.targets[name]
		e.mu.Unlock()
		if t == nil {
			var err error
			if t, err = e.openTarget(name); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		e.spool.resize(t, bufferBytes(info))
		t.configure(ctx, info)
	}
	e.mu.Lock()
	if !maps.Equal(e.configured, configured) {
		e.configured = configured
		e.tell()
	}
	e.mu.Unlock()
	return errors.Join(errs...)
}

// haltOld ends the senders of targets that are gone or are configured otherwise.
func (e *Engine) haltOld(state desired.State) {
	var old []*target
	e.mu.Lock()
	for name, t := range e.targets {
		if info, ok := state.LogCollection[name]; !ok || !t.is(info) {
			old = append(old, t)
		}
	}
	e.mu.Unlock()
	halt(old)
}

// halt ends senders at once: each of them may wait for its receiver.
func halt(targets []*target) {
	var all sync.WaitGroup
	for _, t := range targets {
		all.Go(t.halt)
	}
	all.Wait()
}

func (e *Engine) openTarget(name string) (*target, error) {
	dir := filepath.Join(e.cfg.Dir, spoolsDir, folderOf(name))
	queue, err := diskq.Open(diskq.Config{
		Dir: dir, MaxBytes: e.cfg.SpoolBytes, MaxAge: e.cfg.SpoolAge, SyncEvery: e.cfg.SyncEvery, Log: e.cfg.Log,
	})
	if err != nil {
		return nil, fmt.Errorf("open log spool: %w", err)
	}
	dropped := queue.Stats().Dropped
	t := &target{name: name, cfg: e.cfg, queue: queue, bound: defaultBufferKiB << 10, dropped: dropped.Size + dropped.Age}
	e.mu.Lock()
	e.targets[name] = t
	e.mu.Unlock()
	return t, nil
}

func (e *Engine) closeTargets() {
	e.mu.Lock()
	targets := maps.Clone(e.targets)
	e.mu.Unlock()
	halt(slices.Collect(maps.Values(targets)))
	for _, t := range targets {
		if err := t.queue.Close(); err != nil {
			e.cfg.Log.Error("close log spool", slog.String("target", t.name), slog.Any("err", err))
		}
	}
}
