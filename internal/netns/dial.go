package netns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// DialContext connects to an address, an IP literal with a port, from inside the
// network namespace of p. The network is tcp, tcp4 or tcp6. The error is ErrGone
// when p has ended, ErrHome when p is where this process is, and syscall.ECONNREFUSED and the like when nobody answers.
func (p Process) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := p.dial(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("dial %s in the network of process %d: %w", address, p.pid, err)
	}
	return conn, nil
}

func (p Process) dial(ctx context.Context, network, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil || to.Addr().Zone() != "" {
		return nil, errors.New("the address is no IP literal, without a zone, with a port")
	}
	family, sockaddr := sockaddrOf(to)
	switch {
	case network == "tcp", network == "tcp4" && family == unix.AF_INET, network == "tcp6" && family == unix.AF_INET6:
	default:
		return nil, fmt.Errorf("network %q is none for this address", network)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	fd, err := p.socket(family)
	if err != nil {
		return nil, err
	}
	// Connecting starts before the runtime watches the socket: one that was never
	// connected counts as hung up.
	err = unix.Connect(fd, sockaddr)
	file := os.NewFile(uintptr(fd), "socket")
	defer func() { _ = file.Close() }() // the connection has a descriptor of its own
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return nil, os.NewSyscallError("connect", err)
	}
	if err := await(ctx, file); err != nil {
		return nil, err
	}
	return net.FileConn(file)
}

func sockaddrOf(to netip.AddrPort) (int, unix.Sockaddr) {
	if addr := to.Addr().Unmap(); addr.Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: addr.As4()}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
}

// await waits until the socket is connected, or ctx ends.
func await(ctx context.Context, file *os.File) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = file.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	var failure error
	err = raw.Write(func(fd uintptr) bool {
		var done bool
		done, failure = connected(int(fd))
		return done
	})
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return err
	default:
		return os.NewSyscallError("connect", failure)
	}
}

// connected reports whether connecting has come to an end, and to which.
func connected(fd int) (done bool, failure error) {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return true, err
	}
	if code != 0 {
		return true, syscall.Errno(code)
	}
	// No error yet is no connection yet: a socket may look writable too early.
	switch _, err := unix.Getpeername(fd); {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.ENOTCONN):
		return false, nil
	default:
		return true, err
	}
}

// socket makes a socket in the network namespace of p.
func (p Process) socket(family int) (int, error) {
	there, err := p.namespace()
	if err != nil {
		return -1, err
	}
	defer func() { _ = there.Close() }()
	type result struct {
		fd  int
		err error
	}
	made := make(chan result)
	go func() {
		fd, err := socketIn(int(there.Fd()), family)
		made <- result{fd, err}
	}()
	r := <-made
	return r.fd, r.err
}

// namespace opens the network namespace of p, if p still is what it was.
func (p Process) namespace() (*os.File, error) {
	if p.pid <= 0 {
		return nil, ErrGone
	}
	f, err := os.Open("/proc/" + strconv.Itoa(p.pid) + "/ns/net")
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
		return nil, err
	}
	// Looked at after it was opened: the number may have been given to another
	// process before, but not to another one and back.
	if began, gone := beginning(p.pid); err != nil || gone != nil || began != p.began {
		if err == nil {
			_ = f.Close()
		}
		return nil, ErrGone
	}
	return f, nil
}

func sameFile(a, b int) (bool, error) {
	var x, y unix.Stat_t
	if err := errors.Join(unix.Fstat(a, &x), unix.Fstat(b, &y)); err != nil {
		return false, err
	}
	return x.Dev == y.Dev && x.Ino == y.Ino, nil
}

// socketIn goes into a namespace, makes a socket there and comes back. It is for
// a goroutine that does nothing else.
func socketIn(namespace, family int) (int, error) {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return -1, err
	}
	defer func() { _ = home.Close() }()
	if same, err := sameFile(namespace, int(home.Fd())); err != nil || same {
		runtime.UnlockOSThread()
		return -1, cmp.Or(err, ErrHome)
	}
	if err := unix.Setns(namespace, unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return -1, os.NewSyscallError("setns", err)
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		// Still locked to its thread, the goroutine takes the thread with it.
		if err == nil {
			_ = unix.Close(fd)
		}
		return -1, fmt.Errorf("come back from a network namespace: %w", back)
	}
	runtime.UnlockOSThread()
	return fd, os.NewSyscallError("socket", err)
}
