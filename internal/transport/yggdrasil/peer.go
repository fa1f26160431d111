package yggdrasil

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// errPeerRefused says that the other end of a socket belongs to a user who has
// no business here.
var errPeerRefused = errors.New("peer refused")

// checkPeer returns the credentials of the process at the other end of c, which
// has to run as root or as this process's own user. On a connection that was
// dialled they are those of the process that listens.
func checkPeer(c net.Conn) (*unix.Ucred, error) {
	cred, err := peerCredentials(c)
	if err != nil {
		return nil, fmt.Errorf("read peer credentials: %w", err)
	}
	return cred, allowPeer(cred, os.Geteuid())
}

func allowPeer(cred *unix.Ucred, self int) error {
	if cred.Uid != 0 && int(cred.Uid) != self {
		return fmt.Errorf("uid %d, pid %d: %w", cred.Uid, cred.Pid, errPeerRefused)
	}
	return nil
}

func peerCredentials(c net.Conn) (*unix.Ucred, error) {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return nil, fmt.Errorf("%T is not a unix socket", c)
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, err
	}
	return cred, credErr
}

// guardedListener accepts only peers that checkPeer lets pass. Any local user
// can dial an abstract socket, and whoever can send a configuration owns the
// device.
type guardedListener struct {
	net.Listener
	check   func(net.Conn) error
	log     *slog.Logger
	refused int64
	logged  time.Time
}

// Accept returns the next allowed connection. It is called by one goroutine.
func (l *guardedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if err := l.check(c); err != nil {
			_ = c.Close()
			l.report(err)
			continue
		}
		return c, nil
	}
}

// report logs a refusal, but not more than once a minute: the stranger decides
// how often it dials.
func (l *guardedListener) report(err error) {
	l.refused++
	if now := time.Now(); now.Sub(l.logged) >= time.Minute {
		l.logged = now
		l.log.Warn("connection to the worker socket refused", slog.Any("err", err), slog.Int64("refused", l.refused))
	}
}
