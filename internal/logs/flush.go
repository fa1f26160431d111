package logs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Flush delivers what there is to be read and what waits: it returns nil when
// all spools are empty and no line came for a second, and otherwise an error
// that says how many lines wait, when ctx ends. Run has to run meanwhile.
func (e *Engine) Flush(ctx context.Context) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	began := time.Now()
	for {
		lines, last := e.waiting()
		if last.Before(began) {
			last = began
		}
		if lines == 0 && time.Since(last) >= quiet {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("deliver logs: %d lines wait: %w", lines, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// waiting counts what is on its way to targets that are configured.
func (e *Engine) waiting() (lines int, last time.Time) {
	e.mu.Lock()
	spool := e.spool
	var targets []*target
	for name := range e.configured {
		if t := e.targets[name]; t != nil {
			targets = append(targets, t)
		}
	}
	e.mu.Unlock()
	if spool != nil {
		lines, last = spool.waiting()
	}
	for _, t := range targets {
		lines += int(t.queue.Stats().Entries) //nolint:gosec // a count
	}
	return lines, last
}

// Forget drops what waits, for a device that is no longer managed. It is not
// counted. What the containers still write comes after it.
func (e *Engine) Forget() error {
	open := map[string]bool{}
	e.mu.Lock()
	targets := slices.Collect(maps.Values(e.targets))
	e.mu.Unlock()
	var errs []error
	for _, t := range targets {
		open[folderOf(t.name)] = true
		errs = append(errs, t.queue.Clear())
	}
	folders, err := os.ReadDir(filepath.Join(e.cfg.Dir, spoolsDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	for _, f := range folders {
		if !open[f.Name()] {
			errs = append(errs, os.RemoveAll(filepath.Join(e.cfg.Dir, spoolsDir, f.Name())))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("forget logs: %w", err)
	}
	return nil
}
