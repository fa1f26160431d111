package yggdtest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
	"github.com/project-flotta/flotta-agent/test/testenv"
)

// Config is what a Daemon runs with.
type Config struct {
	Server   *Server
	ClientID string
	Worker   []string // command of the handler "device"; none: yggd starts no worker
	Env      []string // the worker's
}

// Daemon is a yggd with a folder of its own, started and ended at will.
type Daemon struct {
	Dir      string // its working directory
	Socket   string // of the dispatcher, as YGG_SOCKET_ADDR
	CertFile string
	KeyFile  string
	CAFile   string

	tb  testing.TB
	log logBuffer
	cmd *exec.Cmd
}

// NewDaemon writes the configuration, with a fresh register credential, and
// starts nothing yet.
func NewDaemon(tb testing.TB, c Config) *Daemon {
	tb.Helper()
	dir := tb.TempDir()
	etc := filepath.Join(dir, "etc", "yggdrasil")
	d := &Daemon{
		Dir:      dir,
		Socket:   fmt.Sprintf("unix:@flotta-test-%d-%d", os.Getpid(), time.Now().UnixNano()),
		CertFile: filepath.Join(etc, "client.pem"),
		KeyFile:  filepath.Join(etc, "key.pem"),
		CAFile:   filepath.Join(etc, "ca.pem"),
		tb:       tb,
	}
	for _, sub := range []string{"etc/yggdrasil/workers", "var/yggdrasil", "var/run/yggdrasil/workers"} {
		d.must(os.MkdirAll(filepath.Join(dir, sub), 0o755))
	}
	pair, err := c.Server.CA.IssueRegister(0, time.Now())
	d.must(err)
	d.write(d.CertFile, pair.CertPEM)
	d.write(d.KeyFile, pair.KeyPEM)
	d.write(d.CAFile, c.Server.CA.CertificatePEM())
	d.write(filepath.Join(etc, "config.toml"), fmt.Appendf(nil,
		"protocol = \"http\"\nserver = %q\npath-prefix = %q\ncert-file = %q\nkey-file = %q\nca-root = [%q]\nclient-id = %q\nlog-level = \"debug\"\n",
		c.Server.Addr(), strings.TrimPrefix(protocol.BasePath, "/"), d.CertFile, d.KeyFile, d.CAFile, c.ClientID))
	if len(c.Worker) > 0 {
		env := make([]string, len(c.Env))
		for i, one := range c.Env {
			env[i] = fmt.Sprintf("%q", one)
		}
		d.write(filepath.Join(etc, "workers", "device.toml"), fmt.Appendf(nil,
			"exec = %q\nprotocol = \"grpc\"\nenv = [%s]\n", strings.Join(c.Worker, " "), strings.Join(env, ", ")))
	}
	tb.Cleanup(func() {
		d.Kill()
		d.killWorker()
		if tb.Failed() {
			tb.Logf("yggd said:\n%s", d.Log())
		}
	})
	return d
}

// PIDFile returns the path of yggd's record of the worker's process.
func (d *Daemon) PIDFile() string {
	return filepath.Join(d.Dir, "var", "run", "yggdrasil", "workers", "device.pid")
}

// Start runs yggd.
func (d *Daemon) Start() {
	d.tb.Helper()
	cmd := exec.Command(testenv.Tool(d.tb, "yggd-local"), "--config", "etc/yggdrasil/config.toml", "--socket-addr", strings.TrimPrefix(d.Socket, "unix:"))
	cmd.Dir = d.Dir
	cmd.Stdout, cmd.Stderr = &d.log, &d.log
	// What the worker inherits of yggd's pipes must not keep Wait from returning.
	cmd.WaitDelay = 100 * time.Millisecond
	d.must(cmd.Start())
	d.cmd = cmd
}

// Kill ends yggd as a crash would; its worker stays.
func (d *Daemon) Kill() { d.end(syscall.SIGKILL) }

// Stop ends yggd as a service manager would.
func (d *Daemon) Stop() { d.end(syscall.SIGTERM) }

func (d *Daemon) end(signal os.Signal) {
	if d.cmd == nil {
		return
	}
	_ = d.cmd.Process.Signal(signal)
	_ = d.cmd.Wait()
	d.cmd = nil
}

// WorkerPID returns the process of yggd's worker, 0 when there is none.
func (d *Daemon) WorkerPID() int {
	raw, err := os.ReadFile(d.PIDFile())
	if err != nil {
		return 0
	}
	var pid int
	_, _ = fmt.Sscan(string(raw), &pid)
	return pid
}

// killWorker ends a worker that a killed yggd left behind.
func (d *Daemon) killWorker() {
	pid := d.WorkerPID()
	if pid <= 1 {
		return
	}
	// The pid may be somebody else's by now; the working directory tells.
	if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err == nil && cwd == d.Dir {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// Log returns everything yggd wrote so far.
func (d *Daemon) Log() string { return d.log.String() }

func (d *Daemon) write(path string, data []byte) {
	d.tb.Helper()
	d.must(os.WriteFile(path, data, 0o600))
}

func (d *Daemon) must(err error) {
	d.tb.Helper()
	if err != nil {
		d.tb.Fatal(err)
	}
}

// logBuffer collects output while others read it.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// Eventually waits until ok holds, for at most limit.
func Eventually(tb testing.TB, limit time.Duration, what string, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if ok() {
			return
		}
	}
	tb.Fatalf("not within %v: %s", limit, what)
}
