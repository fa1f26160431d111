package datasync

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// beingWritten reports whether somebody has the file open for writing, or has it
// mapped so.
//
// It asks for a read lease, which the kernel grants only when nobody does, and
// gives it back at once. Who opens the file for writing in the few microseconds
// between is held up for as long by the kernel, and only who does so without
// blocking, which for a regular file is odd, is refused. The kernel also sends
// SIGIO then, which Go ignores. Where leases are not to be had, as on some
// network file systems, or for a file of somebody else without CAP_LEASE, the
// answer is no, and the time that a file has to rest has to do. A file on
// overlayfs that is mapped for writing and not open is not noticed.
func (v volume) beingWritten(name string) bool {
	f, _, err := v.openRegular(name)
	if err != nil {
		return false // whoever sends it will see why
	}
	defer f.Close() //nolint:errcheck // read only.
	return hasWriter(f)
}

// hasWriter is beingWritten for an open file.
func hasWriter(f *os.File) bool {
	_, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_RDLCK)
	if err == nil {
		_, _ = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
	}
	return errors.Is(err, unix.EAGAIN)
}

// mayBeWritten reports whether it is worth asking for a writer: a file that has
// not changed for as long as it would be held back need not be.
func (s settle) mayBeWritten(now, changed, since time.Time) bool {
	if s.rest <= 0 || !since.IsZero() && now.Sub(since) >= s.atMost {
		return false
	}
	return now.Sub(changed) < s.atMost
}
