package yggdrasil

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/project-flotta/flotta-agent/internal/transport"
)

// Limits and defaults.
const (
	// yggd gives up on the control plane's answer after 20 s and says so with
	// an empty one; waiting longer than that gets the difference between a slow
	// answer and a lost one.
	defaultSendTimeout = 25 * time.Second
	defaultOrphanGrace = 30 * time.Second
	// A configuration with its ConfigMaps and Secrets easily passes gRPC's
	// default of 4 MiB.
	maxMessageBytes = 64 << 20
)

// Config says where yggd is and how the worker presents itself.
type Config struct {
	SocketAddr string            // YGG_SOCKET_ADDR: "unix:" and a path or an abstract name
	Handler    string            // the directive to take; default "device"
	Features   map[string]string // published by yggd with its connection status
	ConfigDir  string            // YGG_CONFIG_DIR; read only when yggd cannot tell its settings
	ClientID   string            // YGG_CLIENT_ID; used only when yggd cannot tell it
	PIDFile    string            // yggd's pid file of this worker; empty: leave it alone
	// OrphanGrace is how long a worker whose yggd died waits for another one at
	// the same address; default 30 s.
	OrphanGrace time.Duration
	Log         *slog.Logger
}

func (c *Config) validate() error {
	name, ok := strings.CutPrefix(c.SocketAddr, "unix:")
	if !ok || name == "" || name == "@" {
		return fmt.Errorf("socket address %q: want unix:PATH or unix:@NAME", c.SocketAddr)
	}
	if c.Log == nil {
		return errors.New("log: missing")
	}
	if c.OrphanGrace < 0 {
		return errors.New("orphan grace: negative")
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.Handler == "" {
		c.Handler = "device"
	}
	if c.OrphanGrace == 0 {
		c.OrphanGrace = defaultOrphanGrace
	}
	return c
}

// Worker is a transport through yggd. Its methods may be called from any
// goroutine; Run once only.
type Worker struct {
	cfg    Config
	socket string // of the dispatcher, without the scheme
	parent int    // the process that started this one

	sending    chan struct{} // held by the one Send that is under way
	delivering chan struct{} // held by the one delivery that is under way

	mu     sync.Mutex
	conn   *grpc.ClientConn // nil until it is first needed
	link   *link            // newest connection to the dispatcher
	child  bool             // the first dispatcher was this process's parent
	closed bool
}

var _ transport.Transport = (*Worker)(nil)

// New checks c and returns a worker that is not connected yet. The caller
// closes it after Run returned.
func New(c Config) (*Worker, error) {
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("yggdrasil worker: %w", err)
	}
	return &Worker{
		cfg:        c.withDefaults(),
		socket:     strings.TrimPrefix(c.SocketAddr, "unix:"),
		parent:     os.Getppid(),
		sending:    make(chan struct{}, 1),
		delivering: make(chan struct{}, 1),
	}, nil
}
