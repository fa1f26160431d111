package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// DefaultSocket is where the agent listens.
const DefaultSocket = "/run/flotta/agent.sock"

const (
	pathStatus  = "/status"
	pathMetrics = "/metrics"
	pathSync    = "/sync"
	pathLevel   = "/log-level"

	// dirMode lets everybody to the socket's door; its own mode decides.
	dirMode    = 0o755
	socketMode = 0o660

	// maxClients bounds how many are served at once: one person, some scripts.
	maxClients = 16
	// clientTime bounds a request and its answer, so that one who does not read
	// holds his place for moments only.
	clientTime = 5 * time.Second
	maxHeader  = 8 << 10
	// retry is the pause before a socket that could not be made is tried again.
	retry = 30 * time.Second
)

// Config is what a Server works with. Collect is required.
type Config struct {
	Socket string // default DefaultSocket
	// Group is the id of the group that may ask, besides root; negative: root's
	// alone.
	Group int
	// Collect returns the document of this moment. It may be called from any
	// goroutine, several at once.
	Collect func() Document
	// Sync looks at data paths now, and returns when it has, or ctx ends. It may
	// be called from any goroutine; nil: nobody can ask for it.
	Sync func(ctx context.Context, r SyncRequest) []SyncResult
	// Level is that of the agent's log; nil: nobody can change it.
	Level *slog.LevelVar
	// MetricsAddress is where the metrics are also served over TCP, and nothing
	// but them: host:port of the loopback interface; empty: nowhere.
	MetricsAddress string
	Log            *slog.Logger // discards when nil
}

// Server answers on the socket.
type Server struct {
	cfg        Config
	clientTime time.Duration
	syncs      chan struct{} // one for each who waits
}

// New returns a server. It does no I/O.
func New(cfg Config) (*Server, error) {
	if cfg.Collect == nil {
		return nil, errors.New("console config: Collect is missing")
	}
	if cfg.Socket == "" {
		cfg.Socket = DefaultSocket
	}
	if !filepath.IsAbs(cfg.Socket) {
		return nil, fmt.Errorf("console config: Socket %q must be an absolute path", cfg.Socket)
	}
	if cfg.MetricsAddress != "" {
		if err := CheckMetricsAddress(cfg.MetricsAddress); err != nil {
			return nil, fmt.Errorf("console config: MetricsAddress %w", err)
		}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{cfg: cfg, clientTime: clientTime, syncs: make(chan struct{}, maxSyncs)}, nil
}

// Run answers until ctx ends, and then returns nil. Without a socket the agent
// does all else, so that one cannot be made is logged, and tried again.
func (s *Server) Run(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	if s.cfg.MetricsAddress != "" {
		all.Go(func() { s.keep(ctx, s.cfg.MetricsAddress, s.listenMetrics, s.attendMetrics) })
	}
	s.keep(ctx, s.cfg.Socket, func() (net.Listener, error) { return s.listen() }, s.attend)
	return nil
}

// keep has the clients of a listener attended until ctx ends, and makes it anew
// when it breaks.
func (s *Server) keep(ctx context.Context, where string, listen func() (net.Listener, error), attend func(context.Context, net.Conn) error) {
	last := ""
	for ctx.Err() == nil {
		l, err := listen()
		if err == nil {
			s.cfg.Log.Debug("listening", "at", where)
			last = ""
			err = s.serve(ctx, l, attend)
		}
		if err == nil {
			continue
		}
		if text := err.Error(); text != last {
			s.cfg.Log.Warn("nobody can ask here for the status or the metrics, will try again", "at", where, "err", err)
			last = text
		}
		select {
		case <-ctx.Done():
		case <-time.After(retry):
		}
	}
}

// socket is a listening socket with a name that is removed with it.
type socket struct {
	*net.UnixListener
	path string
	file fs.FileInfo
}

// listen makes the socket under another name first: what a killed agent left is
// replaced, and nobody meets one with the wrong mode.
func (s *Server) listen() (*socket, error) {
	path := s.cfg.Socket
	if err := os.MkdirAll(filepath.Dir(path), dirMode); err != nil {
		return nil, fmt.Errorf("make folder: %w", err)
	}
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove leftover: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	info, err := s.hand(fresh, path)
	if err != nil {
		return nil, errors.Join(err, l.Close(), os.Remove(fresh))
	}
	return &socket{UnixListener: l, path: path, file: info}, nil
}

// hand gives the new socket to those who may use it, under its name.
func (s *Server) hand(fresh, path string) (fs.FileInfo, error) {
	if s.cfg.Group >= 0 {
		if err := os.Chown(fresh, -1, s.cfg.Group); err != nil {
			return nil, fmt.Errorf("give socket to group: %w", err)
		}
	}
	if err := os.Chmod(fresh, socketMode); err != nil {
		return nil, fmt.Errorf("set mode of socket: %w", err)
	}
	info, err := os.Lstat(fresh)
	if err != nil {
		return nil, fmt.Errorf("look at socket: %w", err)
	}
	if err := os.Rename(fresh, path); err != nil {
		return nil, fmt.Errorf("name socket: %w", err)
	}
	return info, nil
}

// Close removes the name, unless it is somebody else's by now.
func (l *socket) Close() error {
	if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.file) {
		_ = os.Remove(l.path) // the next one replaces it
	}
	return l.UnixListener.Close()
}

// serve answers until ctx ends, then nil, or the socket breaks. Who comes while
// all places are taken waits in the socket's queue.
func (s *Server) serve(ctx context.Context, l net.Listener, attend func(context.Context, net.Conn) error) error {
	var clients sync.WaitGroup
	defer clients.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	closing := sync.OnceFunc(func() { _ = l.Close() })
	context.AfterFunc(ctx, closing)
	defer closing() // waits for the other one
	places := make(chan struct{}, maxClients)
	for {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = conn.Close() // not served
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept client: %w", err)
		}
		clients.Go(func() {
			defer func() { <-places }()
			if err := attend(ctx, conn); err != nil {
				s.cfg.Log.Debug("client not served", "err", err)
			}
		})
	}
}

// attend answers one request. The server of net/http would do it as well, for
// half a megabyte of binary.
func (s *Server) attend(ctx context.Context, conn net.Conn) error {
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	defer func() { _ = conn.Close() }() // all was written, or nobody reads
	request, reader, err := s.receive(conn)
	if err != nil {
		return err
	}
	var status int
	var body []byte
	kind := "application/json"
	if request.URL.Path == pathSync && request.Method == http.MethodPost && s.cfg.Sync != nil {
		status, body = s.synchronise(ctx, conn, reader, request.URL.Query())
		if err := conn.SetWriteDeadline(time.Now().Add(s.clientTime)); err != nil {
			return err
		}
	} else {
		status, kind, body = s.answer(request.Method, request.URL.Path, request.URL.Query())
	}
	return respond(conn, status, kind, body)
}

// answer is what can be asked and is there at once.
func (s *Server) answer(method, path string, query url.Values) (status int, kind string, body []byte) {
	kind = "application/json"
	want := http.MethodGet
	switch path {
	case pathStatus, pathMetrics:
	case pathLevel:
		if method == http.MethodPost && s.cfg.Level != nil {
			status, body = s.setLevel(query.Get("level"))
			return status, kind, body
		}
		want = http.MethodPost
	case pathSync:
		want = http.MethodPost
	default:
		return http.StatusNotFound, kind, failure("there is " + pathStatus + ", " + pathMetrics + ", " + pathSync + " and " + pathLevel)
	}
	switch {
	case method != want:
		return http.StatusMethodNotAllowed, kind, failure("this is for " + want)
	case want == http.MethodPost: // it was not served before
		return http.StatusNotFound, kind, failure("this agent does not do that")
	}
	d := s.document()
	if path == pathMetrics {
		return http.StatusOK, MetricsType, Metrics(d)
	}
	body, err := json.Marshal(d)
	if err != nil { // a time that JSON has not
		s.cfg.Log.Error("status not told", "err", err)
		return http.StatusInternalServerError, kind, failure("the status cannot be encoded")
	}
	return http.StatusOK, kind, body
}

// Well reports whether all is as desired.
func (d Document) Well() bool { return len(d.Problems) == 0 && d.failing() == 0 }

// document collects what is told, with a list also where there is nothing.
func (s *Server) document() Document {
	d := s.cfg.Collect()
	d.Healthy = d.Well()
	d.Problems = append([]string{}, d.Problems...)
	d.Workloads = append([]Workload{}, d.Workloads...)
	d.DataSync = append([]DataSync{}, d.DataSync...)
	return d
}

// failure is the body of an answer that is no success.
func failure(text string) []byte { return []byte(`{"error":` + strconv.Quote(text) + `}`) }
