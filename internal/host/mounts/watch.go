package mounts

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Watch calls changed after it began to watch, and then whenever something was
// mounted, unmounted or mounted anew. It returns nil when ctx ended.
func (t *Table) Watch(ctx context.Context, changed func()) error {
	// Not an os.File: Go's runtime would poll it as well, and whoever polls first
	// takes the word of a change away from the other.
	table, err := unix.Open(t.file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("watch mounts: open %s: %w", t.file, err)
	}
	defer func() { _ = unix.Close(table) }()
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watch mounts: %w", err)
	}
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		_, _ = unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // any number but zero
	})
	defer func() {
		if !stop() {
			<-woken
		}
		_ = unix.Close(wake)
	}()
	changed()
	for {
		fds := []unix.PollFd{
			{Fd: int32(table), Events: unix.POLLPRI}, //nolint:gosec // a descriptor fits
			{Fd: int32(wake), Events: unix.POLLIN},   //nolint:gosec // a descriptor fits
		}
		_, err := unix.Poll(fds, -1)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("watch mounts: %w", err)
		case fds[0].Revents&unix.POLLPRI != 0:
			changed()
		case fds[0].Revents != 0:
			return errors.New("watch mounts: the table cannot be watched")
		}
	}
}
