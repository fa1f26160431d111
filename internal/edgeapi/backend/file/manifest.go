package file

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// maxManifestBytes bounds one manifest: etcd refuses objects above 1.5 MiB, and a
// file may hold a few.
const maxManifestBytes = 8 << 20

// manifest is one file of manifests.
type manifest struct {
	path     string // relative to the backend's folder
	stamp    stamp
	objects  []object // in force
	problems []Problem
	gone     time.Time // since when the file is missing; zero while it is there
}

// stamp tells two versions of a file apart without reading them.
type stamp struct {
	size          int64
	mtime, ctime  int64 // nanoseconds
	inode, device uint64
}

func stampOf(info fs.FileInfo) stamp {
	s := stamp{size: info.Size(), mtime: info.ModTime().UnixNano()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		s.ctime = sys.Ctim.Nano()
		s.inode, s.device = sys.Ino, sys.Dev
	}
	return s
}

// settled returns how long to wait until a file counts as written: its last
// change is settle ago. Programs that write in place truncate first, so a fresh
// file may be half of one.
func (s stamp) settled(now time.Time, settle time.Duration) time.Duration {
	age := now.Sub(time.Unix(0, max(s.ctime, s.mtime)))
	if age < 0 || age >= settle {
		return 0 // a time in the future says nothing
	}
	return settle - age
}

// manifests is the folder of manifests as it was last seen. It belongs to the
// goroutine that scans.
type manifests struct {
	root   string // the backend's folder
	sub    string // the manifests within it
	settle time.Duration
	files  map[string]*manifest
	keep   keeper
}

// scanResult is what a scan saw.
type scanResult struct {
	changed bool          // the objects or problems differ from the last time
	again   time.Duration // scan again after this time, if positive
	dirs    []string      // folders to watch
}

// scan looks at all files and reads those that changed. Files that vanish count
// for a little longer, because editors replace files by removing them first.
func (m *manifests) scan(now time.Time) (scanResult, error) {
	var result scanResult
	seen := make(map[string]bool, len(m.files))
	top := filepath.Join(m.root, m.sub)
	err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			if path == top || !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return nil // removed while we looked
		}
		if path != top && strings.HasPrefix(entry.Name(), ".") {
			if entry.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		if entry.IsDir() {
			result.dirs = append(result.dirs, path)
			return nil
		}
		if !isManifest(entry.Name()) {
			return nil
		}
		rel, err := filepath.Rel(m.root, path)
		if err != nil {
			return err
		}
		changed, again := m.visit(path, rel, now)
		seen[rel] = true
		result.merge(changed, again)
		return nil
	})
	if err != nil {
		// What cannot be listed is not known to be gone.
		return result, fmt.Errorf("list manifests: %w", err)
	}
	for rel, f := range m.files {
		if !seen[rel] {
			result.merge(m.vanish(rel, f, now))
		}
	}
	return result, nil
}

func (r *scanResult) merge(changed bool, again time.Duration) {
	r.changed = r.changed || changed
	if again > 0 && (r.again == 0 || again < r.again) {
		r.again = again
	}
}

// vanish forgets a file that is missing for some time.
func (m *manifests) vanish(rel string, f *manifest, now time.Time) (changed bool, again time.Duration) {
	if f.gone.IsZero() {
		f.gone = now
	}
	if left := goneAfter - now.Sub(f.gone); left > 0 {
		return false, left
	}
	delete(m.files, rel)
	m.keep.forget(rel)
	return true, 0
}

// visit reads one file if it changed.
func (m *manifests) visit(path, rel string, now time.Time) (changed bool, again time.Duration) {
	f, known := m.files[rel]
	if !known {
		f = &manifest{path: rel}
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, m.settle // vanished, or a link to nowhere
	}
	var current stamp
	if err == nil {
		current = stampOf(info)
		if known && f.gone.IsZero() && current == f.stamp {
			return false, 0
		}
		if wait := current.settled(now, m.settle); wait > 0 {
			return false, wait
		}
	}
	m.files[rel], f.gone = f, time.Time{}
	data, err := readManifest(path, info, err)
	if err != nil {
		f.stamp = stamp{} // read again at the next scan
		return f.refuse(err), 0
	}
	f.stamp = current
	if !known {
		// Objects of an earlier run stand in for documents that are broken now.
		f.objects = m.keep.recall(rel)
	}
	m.take(f, data)
	return true, 0
}

// refuse records that a file cannot be read, and reports whether that is news.
func (f *manifest) refuse(err error) bool {
	problems := []Problem{{File: f.path, Message: err.Error()}}
	same := slices.EqualFunc(problems, f.problems, Problem.same)
	problems[0].holds = f.keys()
	f.problems = problems
	return !same
}

// take puts the content of a file in force.
func (m *manifests) take(f *manifest, data []byte) {
	f.problems = nil
	if len(bytes.TrimSpace(data)) == 0 && len(f.objects) > 0 {
		// Emptied, or about to be written: nobody means "remove all" by that.
		f.problems = []Problem{{
			File: f.path, holds: f.keys(),
			Message: "the file is empty; what it held before counts until the file is written or removed",
		}}
		return
	}
	objects, broken := decodeManifest(f.path, data)
	f.objects = inForce(f.objects, objects, broken)
	for _, b := range broken {
		p := Problem{File: f.path, Line: b.line, Object: b.key.String(), Message: b.err.Error(), key: b.key, meant: b.meant}
		if p.key == (objectKey{}) {
			p.holds = f.keys()
		}
		f.problems = append(f.problems, p)
	}
	if len(broken) == 0 {
		m.keep.remember(f.path, data)
	}
}

// keys names what the file holds.
func (f *manifest) keys() []objectKey {
	keys := make([]objectKey, 0, len(f.objects))
	for _, o := range f.objects {
		keys = append(keys, o.key)
	}
	return keys
}

// sorted returns the files in the order of their paths.
func (m *manifests) sorted() []*manifest {
	list := make([]*manifest, 0, len(m.files))
	for _, f := range m.files {
		list = append(list, f)
	}
	slices.SortFunc(list, func(a, b *manifest) int { return strings.Compare(a.path, b.path) })
	return list
}

func readManifest(path string, info fs.FileInfo, err error) ([]byte, error) {
	switch {
	case err != nil:
		return nil, fmt.Errorf("look at file: %w", err)
	case !info.Mode().IsRegular():
		return nil, errors.New("not a regular file")
	case info.Size() > maxManifestBytes:
		return nil, fmt.Errorf("file of %d bytes, at most %d are read", info.Size(), maxManifestBytes)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read file: %w", err)
	}
	defer func() { _ = f.Close() }() // nothing was written
	data, err := io.ReadAll(io.LimitReader(f, maxManifestBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read file: %w", err)
	}
	if len(data) > maxManifestBytes {
		return nil, fmt.Errorf("file of more than %d bytes", maxManifestBytes)
	}
	return data, nil
}

func isManifest(name string) bool {
	switch filepath.Ext(name) {
	case ".yaml", ".yml", ".json":
		return !strings.HasPrefix(name, ".")
	}
	return false
}
