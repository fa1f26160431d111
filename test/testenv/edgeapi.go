package testenv

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// EdgeAPIConfig says how an Edge API with the file backend is started.
type EdgeAPIConfig struct {
	Binary string // the flotta-edge-api program
	Dir    string // existing folder of its backend; kept over restarts
	Host   string // address to bind checks to; the server itself listens on all
	Port   int    // a free one when zero
	IPs    []string
	// AutoApprove lets every device in that asks.
	AutoApprove bool
	// Env is added to the program's environment, as NAME=value.
	Env []string
	Log io.Writer // may be nil
}

// EdgeAPI is a running Edge API.
type EdgeAPI struct {
	Dir  string
	Port int

	cfg  EdgeAPIConfig
	ctx  context.Context //nolint:containedctx // the life of the program, which outlives each call
	proc *process
}

// edgeAPIReady is how long the program may take to answer: it takes 100 ms.
const edgeAPIReady = 30 * time.Second

// StartEdgeAPI starts an Edge API and returns when it accepts connections. It
// runs until Stop is called or ctx ends.
func StartEdgeAPI(ctx context.Context, cfg EdgeAPIConfig) (*EdgeAPI, error) {
	if cfg.Host == "" {
		cfg.Host = "127.0.0.1"
	}
	if cfg.Port == 0 {
		port, err := FreePort("0.0.0.0")
		if err != nil {
			return nil, err
		}
		cfg.Port = port
	}
	e := &EdgeAPI{Dir: cfg.Dir, Port: cfg.Port, cfg: cfg, ctx: ctx}
	return e, e.Start()
}

// Start starts the program again after Stop or Kill, on the same port and folder.
func (e *EdgeAPI) Start() error {
	proc, err := startProcess(e.ctx, e.cfg.Log, e.cfg.Binary, nil, func(cmd *exec.Cmd) { cmd.Env = e.environment() })
	if err != nil {
		return err
	}
	e.proc = proc
	address := net.JoinHostPort(e.cfg.Host, strconv.Itoa(e.Port))
	return proc.wait(e.ctx, edgeAPIReady, func(ctx context.Context) error {
		// The handshake fails for want of a client certificate; an answer of
		// TLS is all that is asked for.
		dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}} //nolint:gosec // nothing is sent
		conn, err := dialer.DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// Stop ends the program in order and waits for it.
func (e *EdgeAPI) Stop() { e.proc.Stop() }

// Kill ends the program at once.
func (e *EdgeAPI) Kill() { e.proc.Kill() }

// Command runs one of the program's own subcommands on the same folder and
// returns what it printed.
func (e *EdgeAPI) Command(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, e.cfg.Binary, args...)
	cmd.Env = e.environment()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("run %s %s: %w: %s", filepath.Base(e.cfg.Binary), strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

func (e *EdgeAPI) environment() []string {
	env := []string{
		"PATH=" + os.Getenv("PATH"),
		"BACKEND=file",
		"FILE_BACKEND_DIR=" + e.Dir,
		"HTTPS_PORT=" + strconv.Itoa(e.Port),
		"METRICS_ADDR=0",
		"LOG_LEVEL=debug",
		"TLS_IPS=" + strings.Join(e.cfg.IPs, ","),
		"AUTO_APPROVAL_PROCESS=" + strconv.FormatBool(e.cfg.AutoApprove),
	}
	return append(env, e.cfg.Env...)
}
