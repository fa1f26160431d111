package file

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
)

// stateDelay is how long changes of state files are collected before they are
// looked at: an approval is one, and every status that is written here another.
const stateDelay = 50 * time.Millisecond

// Run follows the folder until ctx ends. Open must have returned nil. Notices of
// the kernel make it quick; what they miss is found by looking at all files every
// Config.Rescan.
func (b *Backend) Run(ctx context.Context) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		// No inotify instances left: the periodic scan does without.
		b.log.Warn("folder is not watched, only scanned", "interval", b.cfg.Rescan, "err", err)
		watcher = &fsnotify.Watcher{}
	} else {
		defer func() { _ = watcher.Close() }() // no more notices in any case
	}
	f := &follower{Backend: b, watcher: watcher, watched: err == nil, all: true, paths: make(map[string]bool)}
	// From here on changes are noticed; what changed since Open is seen by a scan.
	f.scan(ctx, true, true)
	rescan := time.NewTicker(b.cfg.Rescan)
	defer rescan.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case event := <-watcher.Events:
			f.note(event.Name)
		case err := <-watcher.Errors:
			f.overflow(err)
		case <-rescan.C:
			f.all = true
			f.scan(ctx, true, true)
		case <-f.manifestTimer:
			f.scan(ctx, true, false)
		case <-f.stateTimer:
			f.scan(ctx, false, true)
		}
	}
}

// follower is the state of Run.
type follower struct {
	*Backend
	watcher *fsnotify.Watcher
	watched bool
	warned  bool // that a folder cannot be watched

	manifestTimer <-chan time.Time // nil when no scan is due
	stateTimer    <-chan time.Time
	paths         map[string]bool // state files to look at
	all           bool            // or all of them
}

// note schedules a look at what changed.
func (f *follower) note(path string) {
	rel := f.relative(path)
	switch dir, _, _ := strings.Cut(rel, string(filepath.Separator)); dir {
	case manifestsDir:
		if f.manifestTimer == nil {
			f.manifestTimer = time.After(f.cfg.Settle)
		}
	case requestsDir, devicesDir:
		if strings.HasPrefix(filepath.Base(path), ".") {
			return // temporary files of our own
		}
		if filepath.Ext(path) != stateExt {
			f.all = true // a namespace
		}
		f.paths[path] = true
		if f.stateTimer == nil {
			f.stateTimer = time.After(stateDelay)
		}
	}
}

// overflow handles a watcher that lost notices.
func (f *follower) overflow(err error) {
	if errors.Is(err, fsnotify.ErrEventOverflow) {
		f.log.Debug("notices of changed files lost, scanning all")
	} else {
		f.log.Warn("watching folder", "err", err)
	}
	f.all = true
	f.manifestTimer = time.After(f.cfg.Settle)
	f.stateTimer = time.After(stateDelay)
}

// scan looks at manifests, state files, or both, and acts on what changed.
func (f *follower) scan(ctx context.Context, manifests, state bool) {
	everything := f.all
	// Watched first and read then: what changes in between is noticed.
	known := f.watchAll()
	if manifests {
		f.manifestTimer = nil
		changed, again, err := f.scanManifests(ctx)
		everything = everything || changed
		if again > 0 {
			f.manifestTimer = time.After(again)
		}
		if err != nil {
			f.log.Error("manifests not read", "err", err)
		}
	}
	paths := f.paths
	if state {
		if f.all {
			paths = nil
		}
		f.stateTimer, f.paths, f.all = nil, make(map[string]bool), false
		again, err := f.scanState(ctx, paths)
		if again > 0 {
			f.stateTimer, f.all = time.After(again), true
		}
		if err != nil && ctx.Err() == nil {
			f.log.Error("state not read", "err", err)
		}
	}
	if dirs := f.watchAll(); !slices.Equal(dirs, known) {
		f.all = true
		f.manifestTimer, f.stateTimer = time.After(f.cfg.Settle), time.After(stateDelay)
	}
	list := f.list()
	if !everything {
		list = slices.DeleteFunc(list, func(d edgeapi.Device) bool { return !paths[f.devicePath(d)] })
	}
	f.refreshAll(ctx, list)
	f.writeProblems()
}

// watchAll watches every folder there is, and returns them. Adding one again
// changes nothing.
func (f *follower) watchAll() []string {
	if !f.watched {
		return nil
	}
	dirs := f.folders()
	for _, dir := range dirs {
		if err := f.watcher.Add(dir); err != nil && !f.warned {
			f.warned = true
			f.log.Warn("folder is not watched, only scanned", "path", dir, "interval", f.cfg.Rescan, "err", err)
		}
	}
	return dirs
}

// scanManifests reads manifests that changed and puts them in force. It returns
// whether anything changed, and when to look again, if that is known.
func (b *Backend) scanManifests(ctx context.Context) (changed bool, again time.Duration, err error) {
	result, err := b.manifests.scan(time.Now())
	if err != nil {
		err = fmt.Errorf("scan %s: %w", b.cfg.Dir, err)
	}
	b.mu.Lock()
	b.scanErr, b.scanned = err, true
	b.mu.Unlock()
	if err != nil || !result.changed {
		return false, result.again, err
	}
	next := newCatalog(b.manifests.sorted())
	b.mu.Lock()
	diff := b.catalog.changed(next)
	b.catalog = next
	b.invalidate(diff)
	b.mu.Unlock()
	if len(diff) > 0 {
		b.log.Info("manifests read", "objects", len(next.objects), "changed", len(diff))
	}
	// A manifest may approve a device that waits.
	return true, result.again, b.settleRequests(ctx)
}
