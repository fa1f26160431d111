package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/internal/edgeapi"
)

// relative returns path as it is named in logs and problems.
func (b *Backend) relative(path string) string {
	rel, err := filepath.Rel(b.cfg.Dir, path)
	if err != nil {
		return path
	}
	return rel
}

// stateFile is a file of requests or devices. Its id is empty when the name is
// not one of a state file.
type stateFile struct {
	path   string
	device edgeapi.Device // without namespace: a request
}

// parseStatePath says whose state a path holds.
func (b *Backend) parseStatePath(path string) (stateFile, bool) {
	name, ok := strings.CutSuffix(filepath.Base(path), stateExt)
	if !ok || name == "" || strings.HasPrefix(name, ".") {
		return stateFile{}, false
	}
	parts := strings.Split(b.relative(path), string(filepath.Separator))
	switch {
	case len(parts) == 2 && parts[0] == requestsDir:
		return stateFile{path: path, device: edgeapi.Device{ID: name}}, true
	case len(parts) == 3 && parts[0] == devicesDir:
		return stateFile{path: path, device: edgeapi.Device{Namespace: parts[1], ID: name}}, true
	}
	return stateFile{}, false
}

// scanState looks at the state files of paths, or at all when paths is nil, takes
// over what the user changed, and does what follows from it. It returns when to
// look again, if that is known.
func (b *Backend) scanState(ctx context.Context, paths map[string]bool) (time.Duration, error) {
	release, err := b.disk.acquire(ctx)
	if err != nil {
		return 0, err
	}
	defer release()
	var files []stateFile
	if paths == nil {
		if files, err = b.listState(); err != nil {
			return 0, err
		}
	}
	for path := range paths {
		if file, ok := b.parseStatePath(path); ok {
			files = append(files, file)
		}
	}
	var again time.Duration
	now := time.Now()
	for _, file := range files {
		if wait := b.visitState(file, now); wait > 0 {
			again = max(again, wait)
		}
	}
	return again, b.settleAll(now)
}

// listState returns the files there are and those there were.
func (b *Backend) listState() ([]stateFile, error) {
	found := make(map[string]stateFile)
	for _, pattern := range []string{requestsDir, devicesDir} {
		root := filepath.Join(b.cfg.Dir, pattern)
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err // what cannot be listed is not known to be gone
			}
			if file, ok := b.parseStatePath(path); ok && !entry.IsDir() {
				found[path] = file
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("list state: %w", err)
		}
	}
	b.mu.RLock()
	for d := range b.devices {
		path := b.devicePath(d)
		found[path] = stateFile{path: path, device: d}
	}
	for id := range b.requests {
		path := b.requestPath(id)
		found[path] = stateFile{path: path, device: edgeapi.Device{ID: id}}
	}
	b.mu.RUnlock()
	files := make([]stateFile, 0, len(found))
	for _, file := range found {
		files = append(files, file)
	}
	return files, nil
}

// visitState looks at one state file. It returns when to look again.
func (b *Backend) visitState(file stateFile, now time.Time) time.Duration {
	info, err := os.Stat(file.path)
	if errors.Is(err, fs.ErrNotExist) {
		return b.missing(file, now)
	}
	var current stamp
	var data []byte
	if err == nil {
		current = stampOf(info)
		if b.unchanged(file, current) {
			return 0
		}
		if wait := current.settled(now, b.cfg.Settle); wait > 0 && !b.ownText(file) {
			return wait
		}
		data, err = readManifest(file.path, info, nil)
	}
	if err == nil {
		err = b.takeState(file, data)
	}
	rel := b.relative(file.path)
	if err != nil {
		b.refuseState(file, rel, err)
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.state, rel)
	if file.device.Namespace == "" {
		if entry, ok := b.requests[file.device.ID]; ok {
			entry.stamp, entry.gone = current, time.Time{}
		}
	} else if entry, ok := b.devices[file.device]; ok {
		entry.stamp, entry.gone = current, time.Time{}
	}
	return 0
}

// unchanged reports whether a file is the one that was looked at last.
func (b *Backend) unchanged(file stateFile, current stamp) bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if file.device.Namespace == "" {
		entry, ok := b.requests[file.device.ID]
		return ok && entry.stamp == current && entry.gone.IsZero()
	}
	entry, ok := b.devices[file.device]
	return ok && entry.stamp == current && entry.gone.IsZero()
}

// ownText reports whether a file holds what was written here last: then it needs
// no time to settle.
func (b *Backend) ownText(file stateFile) bool {
	data, err := os.ReadFile(file.path)
	if err != nil {
		return false
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	if file.device.Namespace == "" {
		entry, ok := b.requests[file.device.ID]
		return ok && entry.raw == string(data)
	}
	entry, ok := b.devices[file.device]
	return ok && entry.raw == string(data)
}

// takeState puts the content of a state file in force.
func (b *Backend) takeState(file stateFile, data []byte) error {
	d := file.device
	if d.Namespace == "" {
		b.mu.RLock()
		entry, ok := b.requests[d.ID]
		same := ok && entry.raw == string(data)
		b.mu.RUnlock()
		if same {
			return nil
		}
		r, err := decodeRequest(d.ID, data)
		if err != nil {
			return err
		}
		b.setRequest(d.ID, r, string(data))
		return nil
	}
	b.mu.RLock()
	entry, ok := b.devices[d]
	same := ok && entry.raw == string(data)
	b.mu.RUnlock()
	if same {
		return nil
	}
	object, err := decodeDevice(d, data)
	if err != nil {
		return err
	}
	b.setDevice(d, object, string(data))
	return nil
}

// refuseState records that a state file cannot be used. What it said before
// counts; if it never could be read, the device or request is known to exist and
// nothing else.
func (b *Backend) refuseState(file stateFile, rel string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state[rel] = err.Error()
	d := file.device
	if d.Namespace == "" {
		if _, ok := b.requests[d.ID]; !ok {
			b.requests[d.ID] = &requestEntry{}
		}
	} else if _, ok := b.devices[d]; !ok {
		b.devices[d] = &deviceEntry{}
	}
}

// missing handles a file that is not there: it counts for a moment longer, then
// the request is forgotten, or the device is not managed any more.
func (b *Backend) missing(file stateFile, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.state, b.relative(file.path))
	d := file.device
	var gone *time.Time
	if d.Namespace == "" {
		if entry, ok := b.requests[d.ID]; ok {
			gone = &entry.gone
		}
	} else if entry, ok := b.devices[d]; ok {
		gone = &entry.gone
	}
	if gone == nil {
		return 0
	}
	if gone.IsZero() {
		*gone = now
	}
	if left := goneAfter - now.Sub(*gone); left > 0 {
		return left
	}
	if d.Namespace == "" {
		delete(b.requests, d.ID)
		return 0
	}
	delete(b.devices, d)
	b.log.Info("device removed", "device", d.String())
	return 0
}

// settleRequests does what follows from all requests.
func (b *Backend) settleRequests(ctx context.Context) error {
	release, err := b.disk.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	return b.settleAll(time.Now())
}

// settleAll is settleRequests under the disk lock.
func (b *Backend) settleAll(now time.Time) error {
	b.mu.RLock()
	ids := make([]string, 0, len(b.requests))
	for id := range b.requests {
		ids = append(ids, id)
	}
	b.mu.RUnlock()
	var errs []error
	for _, id := range ids {
		if err := b.settleRequest(id, now); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// folders returns what is to be watched.
func (b *Backend) folders() []string {
	dirs := []string{filepath.Join(b.cfg.Dir, requestsDir)}
	for _, sub := range []string{manifestsDir, devicesDir} {
		root := filepath.Join(b.cfg.Dir, sub)
		// A folder that cannot be listed is scanned again later.
		_ = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return nil
			case !entry.IsDir():
				return nil
			case path != root && strings.HasPrefix(entry.Name(), "."):
				return filepath.SkipDir
			}
			dirs = append(dirs, path)
			return nil
		})
	}
	return dirs
}

// sweep removes what a crash left of files being written.
func (b *Backend) sweep() error {
	for _, dir := range b.folders() {
		if strings.HasPrefix(b.relative(dir), manifestsDir) {
			continue // the user's
		}
		if err := durable.Sweep(dir); err != nil {
			return err
		}
	}
	return durable.Sweep(filepath.Join(b.cfg.Dir, statusDir))
}
