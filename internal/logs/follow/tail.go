package follow

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// readBytes is read of a file at once, and bounds a record: those of conmon
	// have at most 8 KiB of text.
	readBytes = 256 << 10
	// headBytes at the beginning of a file tell it from another one that came
	// into its place; the first record has the time in it.
	headBytes = 256
)

// logFile is a file that is read; an *os.File.
type logFile interface {
	io.ReaderAt
	io.Closer
	Stat() (fs.FileInfo, error)
}

// tail reads the log file of one container.
type tail struct {
	source Source
	sink   Sink
	log    *slog.Logger
	owner  int
	start  FileMark // where to begin, until the file was opened
	joiner *joiner[FileMark]

	file   logFile
	inode  uint64
	offset int64  // of the next record
	head   []byte // the first bytes, at most headBytes
	digest string // of head
	failed string // what was complained of last
}

func (t *tail) close() {
	if t.file != nil {
		_ = t.file.Close() // it was only read
		t.file = nil
	}
}

// complain logs an error once, until another one comes.
func (t *tail) complain(err error) {
	if said := err.Error(); said != t.failed {
		t.failed = said
		t.log.Warn("read container log", slog.String("container", t.source.Name), slog.Any("err", err))
	}
}

// mark is the place behind everything that was handed on.
func (t *tail) mark() FileMark {
	if first, ok := t.joiner.held(func(a, b FileMark) bool { return a.Offset < b.Offset }); ok && first.Offset <= t.offset {
		return first
	}
	if t.inode == 0 {
		return t.start
	}
	return t.here()
}

func (t *tail) here() FileMark {
	return FileMark{ID: t.source.ID, Inode: t.inode, Offset: t.offset, Head: t.digest}
}

// read hands on what is new, at most one buffer of it. More says that there is
// more. With last, what is left of a line is handed on as well.
func (t *tail) read(ctx context.Context, buffer []byte, last bool) (more bool, err error) {
	if t.file == nil {
		if err := t.open(); err != nil || t.file == nil {
			return false, err
		}
	}
	// Nobody writes any more to a file that was replaced before it is read, and
	// what was read of one that was not cut until then is what followed.
	replaced, err := t.replaced()
	if err != nil {
		return false, err
	}
	n, err := t.file.ReadAt(buffer, t.offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("read %s: %w", t.source.Path, err)
	}
	if t.cut() {
		return true, nil
	}
	took, err := t.records(ctx, buffer[:n])
	if err != nil {
		return false, err
	}
	if took > 0 {
		return true, nil
	}
	// What has no line feed yet is read again, but for what can't be a record.
	if n == len(buffer) || n > 0 && (replaced || last) {
		t.sink.Skipped("something in the log of container " + t.source.Name + " is no record")
		t.pass(buffer[:n])
		return true, nil
	}
	wait := patience
	if replaced || last {
		wait = 0
	}
	for p := t.joiner.overdue(time.Now(), wait); p != nil; p = t.joiner.overdue(time.Now(), wait) {
		if err := t.emit(ctx, p); err != nil {
			return false, err
		}
	}
	if replaced {
		t.close()
		t.begin(FileMark{})
		return true, nil
	}
	return false, nil
}

// records hands on the whole records at the beginning of b, and returns their
// length.
func (t *tail) records(ctx context.Context, b []byte) (took int, err error) {
	for {
		end := bytes.IndexByte(b[took:], '\n')
		if end < 0 {
			return took, nil
		}
		raw := b[took : took+end+1]
		took += len(raw)
		if err := t.record(ctx, raw); err != nil {
			return took, err
		}
	}
}

// record hands on what one record has. A text that is too long is added in pieces,
// and the tail stands behind the record with the last of them only.
func (t *tail) record(ctx context.Context, raw []byte) error {
	r, err := parseRecord(raw[:len(raw)-1])
	if err != nil {
		t.pass(raw)
		t.sink.Skipped("something in the log of container " + t.source.Name + " is no record")
		return nil
	}
	before := t.here()
	for text, last := r.text, false; !last; {
		n := min(len(text), MaxLine)
		last = n == len(text)
		if last {
			t.pass(raw)
		}
		whole := t.joiner.add(Line{
			ID: t.source.ID, Name: t.source.Name, Workload: t.source.Workload, Container: t.source.Container,
			Time: r.time, Stderr: r.stderr, Text: bytes.Clone(text[:n]),
		}, r.partial || !last, before, time.Now())
		text = text[n:]
		if whole == nil {
			continue
		}
		if err := t.emit(ctx, whole); err != nil {
			return err
		}
	}
	return nil
}

// emit hands a line on. After one that was refused the tail stands in front of
// it, and is of no more use but for its mark.
func (t *tail) emit(ctx context.Context, p *piece[FileMark]) error {
	mark := t.mark()
	err := t.sink.Take(ctx, p.line, Mark{File: &mark})
	if errors.Is(err, ErrRefused) {
		t.offset, t.digest = p.before.Offset, p.before.Head
	}
	return err
}

// pass moves on behind bytes that were read, and remembers the first ones.
func (t *tail) pass(raw []byte) {
	t.offset += int64(len(raw))
	if room := headBytes - len(t.head); room > 0 {
		t.head = append(t.head, raw[:min(room, len(raw))]...)
		t.digest = digest(t.head)
	}
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// begin sets the place, without looking at the file.
func (t *tail) begin(m FileMark) {
	t.offset, t.digest, t.head, t.inode = m.Offset, m.Head, nil, 0
	t.start = FileMark{}
}

// open opens the file at the place where it was read to last: the file itself,
// or the one that was put aside when there is a new one in its place.
func (t *tail) open() error {
	file, inode, err := openLog(t.source.Path, t.owner)
	if err != nil || file == nil {
		return err
	}
	m := t.start
	t.begin(FileMark{})
	t.file, t.inode = file, inode
	if m.ID == "" {
		return nil
	}
	if inode == m.Inode {
		if head, ok := headOf(file, m); ok {
			t.begin(m)
			t.inode, t.head = inode, head
			return nil
		}
		t.sink.Skipped("the log of container " + t.source.Name + " was cut while nobody read it; what was cut off is lost")
		return nil
	}
	if aside := findAside(t.source.Path, t.owner, m); aside != nil {
		head, _ := headOf(aside, m)
		t.close()
		t.begin(m)
		t.file, t.inode, t.head = aside, m.Inode, head
		return nil
	}
	t.sink.Skipped("the log of container " + t.source.Name + " was replaced while nobody read it; the end of the former one is lost")
	return nil
}

// openLog returns no file and no error when there is none. Neither the file's name
// nor what is in its folder can be trusted: they are the owner's, who may be
// nobody to read what the agent can. So it is looked at through a descriptor that
// cannot read, which opens nothing (neither a pipe nor a device), and the very
// file that was looked at is opened then.
func openLog(path string, owner int) (*os.File, uint64, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("open container log %s: %w", path, err)
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	var stat unix.Stat_t
	switch err := unix.Fstat(fd, &stat); {
	case err != nil:
		return nil, 0, fmt.Errorf("look at container log %s: %w", path, err)
	case stat.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, 0, fmt.Errorf("open container log: %s is no regular file", path)
	case int64(stat.Uid) != int64(owner):
		return nil, 0, fmt.Errorf("open container log: %s belongs to user %d, not to user %d, whose containers these are", path, stat.Uid, owner)
	}
	file, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), os.O_RDONLY, 0)
	if err != nil {
		return nil, 0, fmt.Errorf("open container log %s: %w", path, err)
	}
	return file, stat.Ino, nil
}

func inodeOf(info fs.FileInfo) uint64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Ino
	}
	return 0
}

// headOf returns the beginning of a file if it is the one that was read to m.
func headOf(file logFile, m FileMark) ([]byte, bool) {
	if info, err := file.Stat(); err != nil || info.Size() < m.Offset || m.Offset < 0 {
		return nil, false
	}
	head := make([]byte, min(m.Offset, headBytes))
	if _, err := file.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, false
	}
	return head, m.Offset == 0 || digest(head) == m.Head
}

// findAside finds a file that was renamed: <path>.1, <path>-20261121 and the like.
func findAside(path string, owner int, m FileMark) *os.File {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), filepath.Base(path)) || e.Name() == filepath.Base(path) {
			continue
		}
		file, inode, err := openLog(filepath.Join(filepath.Dir(path), e.Name()), owner)
		if err != nil || file == nil {
			continue
		}
		if _, ok := headOf(file, m); ok && inode == m.Inode {
			return file
		}
		_ = file.Close() // another one's
	}
	return nil
}

// replaced reports whether there is another file in the place of the one that is
// read.
func (t *tail) replaced() (bool, error) {
	info, err := os.Lstat(t.source.Path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("look at container log: %w", err)
	}
	return err == nil && inodeOf(info) != t.inode, nil
}

// cut reports whether the file was cut, and begins with it anew if so.
func (t *tail) cut() bool {
	if _, ok := headOf(t.file, t.here()); ok {
		return false
	}
	t.sink.Skipped("the log of container " + t.source.Name + " was cut; what was not read yet is lost")
	inode := t.inode
	t.begin(FileMark{})
	t.inode = inode
	return true
}
