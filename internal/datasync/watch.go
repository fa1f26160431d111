package datasync

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// watchRest is how long notifications are left to collect: the kernel
	// merges equal ones that follow each other, so that a file that is written
	// all the time costs one for each rest.
	watchRest = 250 * time.Millisecond
	// watchBusy is how many bytes of them shorten the next rest, so that the
	// kernel's queue of 16,384 does not overflow so soon.
	watchBusy = 64 << 10

	watchMask = unix.IN_CREATE | unix.IN_MODIFY | unix.IN_CLOSE_WRITE | unix.IN_ATTRIB | unix.IN_DELETE |
		unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_ONLYDIR | unix.IN_EXCL_UNLINK

	noWatch = int32(-1)
)

// watcher turns the kernel's notifications into marks. There is one for all
// groups, because the kernel gives a user few of them.
//
// It never touches the file system: it knows folders by the number of their
// watch. Only a walk adds watches, and it does so before it reads a folder. What
// happens before is seen by the walk then, and what happens after is notified. A
// folder that appears or moves is marked, and the walk over it that follows
// watches it, or learns its new place: the kernel knows it by its inode and
// answers with the same number.
//
// It is safe for concurrent use.
type watcher struct {
	// The kernel, but for tests.
	open func() (int, error)
	add  func(fd int, path string, mask uint32) (int, error)
	read func(fd int, b []byte) (int, error)
	rest time.Duration

	mu    sync.Mutex
	file  *os.File // of the notifications; nil: nobody needed them yet
	fd    int
	ended chan struct{} // closed when the reader has to end
	gone  chan struct{} // closed when it did
	trees map[*tree]struct{}
	buf   []byte
	path  []byte
	lost  bool // in the newest drain
}

func newWatcher() *watcher {
	return &watcher{
		open: func() (int, error) { return unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK) },
		add:  unix.InotifyAddWatch, read: unix.Read, rest: watchRest,
		trees: map[*tree]struct{}{},
	}
}

// tree is what is watched for one route. Its fields belong to the watcher.
type tree struct {
	local string // the route's folder
	marks *marks

	root    int32 // watch of the route's folder; 0: it is not watched
	device  uint64
	inode   uint64
	round   uint32 // of the newest walk over everything
	folders map[int32]watched
}

// watched is one watched folder.
type watched struct {
	parent int32 // its watch
	round  uint32
	name   string // in the parent
}

func (w *watcher) plant(local string, m *marks) *tree {
	t := &tree{local: local, marks: m, folders: map[int32]watched{}}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trees[t] = struct{}{}
	return t
}

// fell forgets a tree and what is watched of it.
func (w *watcher) fell(t *tree) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.trees, t)
	for wd := range t.folders {
		w.drop(t, wd)
	}
}

// drop ends a watch, unless another tree needs it too.
func (w *watcher) drop(t *tree, wd int32) {
	delete(t.folders, wd)
	if wd == t.root {
		t.root = 0
	}
	for other := range w.trees {
		if _, ok := other.folders[wd]; ok {
			return
		}
	}
	if w.file != nil {
		_, _ = unix.InotifyRmWatch(w.fd, uint32(wd)) //nolint:gosec // it came from there.
	}
}

// start asks the kernel for notifications; w.mu is held.
func (w *watcher) start() error {
	if w.file != nil {
		return nil
	}
	fd, err := w.open()
	if err != nil {
		return fmt.Errorf("begin notifications: %w", err)
	}
	file := os.NewFile(uintptr(fd), "inotify")
	raw, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return fmt.Errorf("begin notifications: %w", err)
	}
	w.file, w.fd, w.buf = file, fd, make([]byte, 64<<10)
	w.ended, w.gone = make(chan struct{}), make(chan struct{})
	go w.collect(raw, w.ended, w.gone)
	return nil
}

// close ends the notifications, and the goroutine that reads them.
func (w *watcher) close() {
	w.mu.Lock()
	file, ended, gone := w.file, w.ended, w.gone
	w.file = nil
	w.mu.Unlock()
	if file == nil {
		return
	}
	close(ended)
	_ = file.Close() // wakes the reader up
	<-gone
}

// collect reads when there is something, and rests.
func (w *watcher) collect(raw syscall.RawConn, ended <-chan struct{}, gone chan<- struct{}) {
	defer close(gone)
	for {
		read, lost := 0, false
		err := raw.Read(func(uintptr) bool {
			read, lost = w.drain()
			return read > 0
		})
		if err != nil {
			return // closed
		}
		rest := w.rest
		if read > watchBusy && !lost { // else a walk will find it all, and haste gains nothing
			rest /= 4
		}
		select {
		case <-ended:
			return
		case <-time.After(rest):
		}
	}
}

// drain marks what was notified until now. It returns how many bytes that were,
// and whether more was lost.
func (w *watcher) drain() (total int, lost bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost = false
	defer func() { lost = w.lost }()
	// Bounded, in case somebody makes more as fast as this reads.
	for range 64 {
		if w.file == nil {
			return total, false
		}
		n, err := w.read(w.fd, w.buf)
		if err != nil || n <= 0 {
			return total, false
		}
		total += n
		w.take(w.buf[:n])
	}
	return total, false
}

// take marks what a buffer of notifications tells.
func (w *watcher) take(b []byte) {
	for len(b) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(b)) //nolint:gosec // it is one.
		mask := binary.NativeEndian.Uint32(b[4:])
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
		if end > len(b) {
			break
		}
		name := b[unix.SizeofInotifyEvent:end]
		if i := bytes.IndexByte(name, 0); i >= 0 {
			name = name[:i]
		}
		b = b[end:]
		for t := range w.trees {
			w.notice(t, wd, mask, name)
		}
	}
}

// notice marks what one notification means for one tree.
func (w *watcher) notice(t *tree, wd int32, mask uint32, name []byte) {
	if mask&unix.IN_Q_OVERFLOW != 0 {
		w.lost = true
		t.marks.touchAll()
		return
	}
	if _, ok := t.folders[wd]; !ok {
		return
	}
	switch {
	case mask&(unix.IN_IGNORED|unix.IN_DELETE_SELF|unix.IN_UNMOUNT) != 0:
		delete(t.folders, wd)
		if wd == t.root {
			t.root = 0
		}
		// Where it was is marked by its parent, if there is one to tell.
		if t.root == 0 || mask&unix.IN_UNMOUNT != 0 {
			t.marks.touchAll()
		}
		return
	case len(name) == 0:
		if wd == t.root {
			t.marks.touchAll() // it may have become readable
		}
		return
	case isTempName(name):
		return // nobody's but ours
	}
	path, ok := t.appendPath(w.path[:0], wd, 0)
	if !ok {
		t.marks.touchAll()
		return
	}
	if len(path) > 0 {
		path = append(path, '/')
	}
	w.path = append(path, name...)
	t.marks.touch(w.path)
}

func isTempName(name []byte) bool {
	return len(name) == len(tempPrefix)+tempDigits && isTemp(string(name))
}

// appendPath appends where a folder is; false: it has lost its parent.
func (t *tree) appendPath(b []byte, wd int32, depth int) ([]byte, bool) {
	if wd == t.root {
		if t.local == "." {
			return b, true
		}
		return append(b, t.local...), true
	}
	f, ok := t.folders[wd]
	if !ok || depth > 2*maxDepth {
		return b, false
	}
	if b, ok = t.appendPath(b, f.parent, depth+1); !ok {
		return b, false
	}
	if len(b) > 0 {
		b = append(b, '/')
	}
	return append(b, f.name...), true
}

// begin says that a walk over everything begins.
func (w *watcher) begin(t *tree) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t.round++
}

// end says that a walk over everything has ended, and drops what it did not
// find: what was moved out of the route, or was lost in an overflow.
func (w *watcher) end(t *tree) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for wd, f := range t.folders {
		if f.round != t.round {
			w.drop(t, wd)
		}
	}
}

// enter watches an open folder, which is called name in the folder that is
// watched as parent. It has to be called before the folder is read.
//
// The folder is named to the kernel by its descriptor, which was opened without
// leaving the volume: the path that leads to it belongs to an untrusted workload,
// which could put a link in it between a look and a watch, and have the watch, and
// through its notifications names, of any folder of the host.
func (w *watcher) enter(t *tree, dir *os.File, parent int32, name string) (int32, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.start(); err != nil {
		return noWatch, err
	}
	wd, err := w.watch(dir)
	if err != nil {
		return noWatch, err
	}
	t.folders[wd] = watched{parent: parent, round: t.round, name: strings.Clone(name)}
	return wd, nil
}

// enterRoot is enter for the folder of the route.
func (w *watcher) enterRoot(t *tree, dir *os.File) (int32, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return noWatch, err
	}
	wd, err := w.enter(t, dir, 0, "")
	w.mu.Lock()
	defer w.mu.Unlock()
	t.root, t.device, t.inode = max(wd, 0), uint64(st.Dev), st.Ino //nolint:unconvert // not everywhere.
	return wd, err
}

func (w *watcher) watch(dir *os.File) (int32, error) {
	wd, err := w.add(w.fd, fmt.Sprintf("/proc/self/fd/%d", dir.Fd()), watchMask)
	if err != nil {
		return noWatch, fmt.Errorf("watch folder: %w", err)
	}
	return int32(wd), nil //nolint:gosec // it is one in the kernel.
}

// known returns the watch of an open folder, or noWatch when there is none: it
// came after the last walk over its parent, and will be walked over.
func (w *watcher) known(t *tree, dir *os.File) int32 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		return noWatch
	}
	wd, err := w.watch(dir)
	if err != nil {
		return noWatch
	}
	if _, ok := t.folders[wd]; !ok {
		w.drop(t, wd)
		return noWatch
	}
	return wd
}

// rooted reports whether the route's folder is the one that is watched.
func (w *watcher) rooted(t *tree, v volume) bool {
	w.mu.Lock()
	root, device, inode := t.root, t.device, t.inode
	w.mu.Unlock()
	if root == 0 {
		return false
	}
	info, err := v.root.Lstat(t.local)
	if err != nil || !info.IsDir() {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && uint64(st.Dev) == device && st.Ino == inode //nolint:unconvert // not everywhere.
}
