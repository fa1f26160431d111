package durable

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// LockedError says that another process (or another Lock of this one) holds the
// lock. PID is 0 when the holder is not known.
type LockedError struct {
	Path string
	PID  int
}

func (e *LockedError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("lock %s is held by another process", e.Path)
	}
	return fmt.Sprintf("lock %s is held by process %d", e.Path, e.PID)
}

// Lock takes the exclusive lock of the file path, which it creates if needed,
// and writes the process id into it. It does not wait: when the lock is held
// the error is a *LockedError. The lock ends with Close or with the process,
// however that ends. The file stays, because removing it would let two
// processes hold locks on two files of one name.
func Lock(path string) (io.Closer, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	if err := flock(f); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = &LockedError{Path: path, PID: holder(f)}
		} else {
			err = fmt.Errorf("lock %s: %w", path, err)
		}
		_ = f.Close()
		return nil, err
	}
	// The process id is for people. A full disk must not stop the agent here,
	// so that it is not written is no failure.
	if f.Truncate(0) == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return lockFile{f}, nil
}

// lockFile unlocks explicitly, because closing alone leaves the lock to a child
// that was forked just now and has the descriptor until it executes.
type lockFile struct{ f *os.File }

func (l lockFile) Close() error {
	return errors.Join(unix.Flock(int(l.f.Fd()), unix.LOCK_UN), l.f.Close())
}

func flock(f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func holder(f *os.File) int {
	buf := make([]byte, 16)
	n, _ := f.ReadAt(buf, 0)
	pid, err := strconv.Atoi(strings.TrimSpace(string(buf[:n])))
	if err != nil || pid < 0 {
		return 0
	}
	return pid
}
