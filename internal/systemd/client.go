package systemd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// SystemSocket is where the system's manager listens.
const SystemSocket = "/run/systemd/private"

const defaultTimeout = 30 * time.Second

// UserSocket is where the manager of the user with that UID listens while the
// user is logged in or lingers.
func UserSocket(uid int) string {
	return filepath.Join("/run/user", strconv.Itoa(uid), "systemd", "private")
}

// Config names the manager. Socket is required.
type Config struct {
	Socket string // absolute path: SystemSocket or a UserSocket

	// Timeout bounds each call that comes without an earlier deadline, except
	// the waiting for a job; zero is 30 seconds.
	Timeout time.Duration
}

// Client talks to one manager. Methods may be called from any goroutine; they
// fail with ErrUnavailable while the manager is not there.
type Client struct {
	socket  string
	timeout time.Duration

	mu   sync.Mutex
	link *link
}

// New returns a client; it does not connect.
func New(cfg Config) (*Client, error) {
	if !filepath.IsAbs(cfg.Socket) {
		return nil, fmt.Errorf("systemd config: socket %q is not an absolute path", cfg.Socket)
	}
	if cfg.Timeout < 0 {
		return nil, fmt.Errorf("systemd config: timeout %s is negative", cfg.Timeout)
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	return &Client{socket: cfg.Socket, timeout: cfg.Timeout}, nil
}

// Close drops the connection. The client stays usable.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link != nil {
		c.link.close()
		c.link = nil
	}
}

// link is one connection, which go-systemd makes of two.
type link struct {
	*sd.Conn
	life  context.Context
	close context.CancelFunc // ends life, and with it both connections
}

// lost returns a channel that is closed when the connection is.
func (l *link) lost() <-chan struct{} { return l.life.Done() }

// dial connects. The connection outlives ctx, which bounds the dialling.
func dial(ctx context.Context, socket string) (*link, error) {
	life, end := context.WithCancel(context.Background())
	abort := context.AfterFunc(ctx, end)
	conn, err := sd.NewConnection(func() (*dbus.Conn, error) {
		raw, err := dbus.Dial("unix:path="+socket, dbus.WithContext(life))
		if err != nil {
			return nil, err
		}
		// The manager takes root for any user's instance, and the user.
		if err := raw.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Getuid()))}); err != nil {
			_ = raw.Close()
			return nil, err
		}
		// Whichever half breaks takes the other one along.
		context.AfterFunc(raw.Context(), end)
		return raw, nil
	})
	if err != nil || !abort() {
		end()
		if conn != nil {
			conn.Close()
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return &link{Conn: conn, life: life, close: func() { end(); conn.Close() }}, nil
}

// connected returns the connection, made anew when it was lost.
func (c *Client) connected(ctx context.Context) (*link, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link != nil && c.link.life.Err() == nil && c.link.Connected() {
		return c.link, nil
	}
	if c.link != nil {
		c.link.close()
		c.link = nil
	}
	l, err := dial(ctx, c.socket)
	if err != nil {
		return nil, err
	}
	c.link = l
	return l, nil
}

// call runs f on the connection under the client's time limit.
func (c *Client) call(ctx context.Context, f func(context.Context, *link) error) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	l, err := c.connected(ctx)
	if err != nil {
		return err
	}
	return translate(ctx, l, f(ctx, l))
}

// translate makes the errors of D-Bus this package's.
func translate(ctx context.Context, l *link, err error) error {
	if err == nil {
		return nil
	}
	if refused, ok := errors.AsType[dbus.Error](err); ok {
		return &CallError{Name: refused.Name, Message: refused.Error()}
	}
	if ctx.Err() != nil {
		return err
	}
	// A write may find out before the reader does.
	if _, broken := errors.AsType[*net.OpError](err); broken || errors.Is(err, dbus.ErrClosed) || l.life.Err() != nil {
		l.close()
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}
