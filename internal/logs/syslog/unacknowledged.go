package syslog

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// unacknowledged returns how many bytes of a tcp socket the peer's kernel has
// not acknowledged yet, whether they were sent or not.
func unacknowledged(raw syscall.RawConn) (int, error) {
	var n int
	var err error
	if cerr := raw.Control(func(fd uintptr) {
		n, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
	}); cerr != nil {
		err = cerr
	}
	if err != nil {
		return 0, fmt.Errorf("read length of the send queue: %w", err)
	}
	return n, nil
}
