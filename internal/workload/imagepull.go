package workload

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/project-flotta/flotta-agent/internal/secret"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

const (
	// pullTell is how often the progress of a pull becomes part of the status,
	// which travels: not with each line.
	pullTell = 10 * time.Second
	// pullLog is how often it is logged.
	pullLog = time.Minute
	// pullTick is how exactly quiet pulls are noticed.
	pullTick = time.Second
)

// errPullStalled ends a pull that does not get on.
var errPullStalled = errors.New("no progress")

// pull pulls one image. Only so many run at once, not counting those that are
// quiet: a registry that hangs must not hold up other registries.
func (a *attempt) pull(ctx context.Context, reference string, auth secret.Value) error {
	a.progress(protocol.ReasonPulling, "waiting to pull "+reference)
	if err := a.r.pulls.acquire(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, a.r.cfg.PullTimeout,
		fmt.Errorf("took longer than %s: %w", a.r.cfg.PullTimeout, context.DeadlineExceeded))
	defer cancel()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	now := time.Now()
	w := &pullWatch{
		reference: reference, slots: a.r.pulls, quiet: a.r.cfg.Images.PullQuiet, stall: a.r.cfg.Images.PullStall,
		tell: func(text string) { a.progress(protocol.ReasonPulling, text) }, end: end, log: a.log.With("image", reference),
		began: now, last: now, told: now, logged: now, holds: true,
	}
	w.log.Info("pulling image")
	w.tell("pulling " + reference)
	known := a.r.images.gc.before(ctx)
	watchCtx, stop := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	watcher.Go(func() { w.run(watchCtx) })
	err := a.r.cfg.Runtime.PullImage(ctx, reference, auth, w.line)
	stop()
	watcher.Wait()
	w.release()
	if err != nil {
		return w.failure(ctx, err)
	}
	w.log.Info("image pulled", "duration", time.Since(w.began))
	a.r.images.gc.pulled(ctx, reference, known)
	return nil
}

// pullWatch watches one pull.
type pullWatch struct {
	reference    string
	slots        limit
	quiet, stall time.Duration
	tell         func(string)
	end          context.CancelCauseFunc
	log          *slog.Logger
	began        time.Time

	mu           sync.Mutex
	text         string    // of the last progress
	last         time.Time // when that was
	told, logged time.Time
	holds        bool // one of the slots
}

// line takes a line of progress.
func (w *pullWatch) line(text string) {
	w.mu.Lock()
	first := w.text == ""
	w.text, w.last = text, time.Now()
	if !w.holds {
		// If there is none free, one more than so many run.
		select {
		case w.slots <- struct{}{}:
			w.holds = true
		default:
		}
	}
	w.mu.Unlock()
	w.log.Debug("pull progress", "line", text)
	if first {
		w.tell(w.message(text))
	}
}

func (w *pullWatch) message(text string) string { return "pulling " + w.reference + ": " + text }

// run tells of progress, and of there being none.
func (w *pullWatch) run(ctx context.Context) {
	ticker := time.NewTicker(min(pullTick, w.quiet, w.stall))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			w.look()
		}
	}
}

func (w *pullWatch) look() {
	w.mu.Lock()
	now := time.Now()
	silence := now.Sub(w.last)
	text := w.text
	if silence >= w.quiet {
		text = fmt.Sprintf("%s (no progress for %s)", text, silence.Truncate(time.Second))
		w.giveBack()
	}
	tell, log := now.Sub(w.told) >= pullTell && text != "", now.Sub(w.logged) >= pullLog
	if tell {
		w.told = now
	}
	if log {
		w.logged = now
	}
	w.mu.Unlock()
	if tell {
		w.tell(w.message(text))
	}
	if log {
		w.log.Info("still pulling image", "duration", now.Sub(w.began), "progress", text)
	}
	if silence >= w.stall {
		w.end(errPullStalled)
	}
}

// giveBack lets somebody else pull. The caller holds mu.
func (w *pullWatch) giveBack() {
	if w.holds {
		w.holds = false
		w.slots.release()
	}
}

func (w *pullWatch) release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.giveBack()
}

// failure says why the pull ended, which Podman does not know when it was us.
func (w *pullWatch) failure(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	switch {
	case errors.Is(cause, errPullStalled):
		return fmt.Errorf("pull image %s: %w for %s, after %s; what has arrived is kept",
			w.reference, errPullStalled, w.stall, time.Since(w.began).Truncate(time.Second))
	case errors.Is(cause, context.DeadlineExceeded):
		return fmt.Errorf("pull image %s: %w", w.reference, cause)
	default:
		return err
	}
}
