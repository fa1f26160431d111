//go:build device

package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/device"
	"github.com/project-flotta/flotta-agent/test/site"
	"github.com/project-flotta/flotta-agent/test/testenv"
)

// TestLogsReachRsyslog counts the lines of a container at a syslog receiver that
// cannot be reached for a while, in which the agent is killed.
func TestLogsReachRsyslog(t *testing.T) {
	t.Parallel()
	r := newRig(t, site.EdgeConfig{})
	syslog := startRsyslog(r)
	r.save("receiver.yaml", fmt.Sprintf(`apiVersion: v1
kind: ConfigMap
metadata: {name: receiver}
data: {Address: "%s:%d", Protocol: tcp}
`, site.S3Name, syslog.path.Port()))
	r.device("", "  logCollection: {central: {kind: syslog, syslogConfig: {name: receiver}}}\n")
	r.save("w.yaml", r.workload("talker", `args: [write, /export/n, "{n}", 50ms]`, "logCollection: central"))
	r.running("talker", "app")
	r.until("lines arrive", func() error { return syslog.has(20) })

	syslog.path.Cut()
	began := time.Now()
	r.until("some is written in the outage", func() error {
		if time.Since(began) < 5*time.Second {
			return errors.New("the outage is to go on")
		}
		return nil
	})
	r.run("systemctl", "kill", "--signal=KILL", "--kill-whom=all", r.edge.Service()) // and the agent with it
	r.restartService()
	syslog.path.Mend()
	// At 20 lines a second this one is of the time after the agent came back.
	after := 20 * int(time.Since(began)/time.Second+10)
	r.until("the lines of the outage arrive", func() error { return syslog.has(after) })

	// Again and again, at any moment of its life.
	for range 30 {
		time.Sleep(rand.N(1500 * time.Millisecond))
		r.run("systemctl", "kill", "--signal=KILL", "--kill-whom=all", r.edge.Service())
		r.restartService()
	}
	last := 20 * int(time.Since(began)/time.Second)
	r.until("the lines of all its lives arrive", func() error { return syslog.has(last) })
}

// rsyslog is a receiver that a device reaches by way of path.
type rsyslog struct {
	file string
	path *device.Proxy
}

func startRsyslog(r *rig) *rsyslog {
	r.Helper()
	dir := r.TempDir()
	port, err := testenv.FreePort("127.0.0.1")
	must(r.T, err)
	s := &rsyslog{file: filepath.Join(dir, "out")}
	must(r.T, os.WriteFile(filepath.Join(dir, "conf"), fmt.Appendf(nil, `global(workDirectory=%[1]q)
module(load="builtin:omfile")
template(name="line" type="string" string="%%hostname%% %%app-name%% %%procid%% %%msg%%\n")
*.* action(type="omfile" file=%[2]q template="line" asyncWriting="off")
module(load="imptcp")
input(type="imptcp" address="127.0.0.1" port="%[3]d")
`, dir, s.file, port), 0o600))
	log, err := os.Create(filepath.Join(dir, "log"))
	must(r.T, err)
	cmd := exec.Command("rsyslogd", "-n", "-i", filepath.Join(dir, "pid"), "-f", filepath.Join(dir, "conf"))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(r.T, cmd.Start())
	r.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if text, _ := os.ReadFile(log.Name()); r.Failed() {
			r.Logf("rsyslogd says:\n%s", lastLines(string(text), 20))
		}
		_ = log.Close()
	})
	s.path, err = device.StartProxy(r.ctx, "0.0.0.0:0", fmt.Sprintf("127.0.0.1:%d", port))
	must(r.T, err)
	r.Cleanup(s.path.Close)
	return s
}

// has says whether all lines from the first one to that number are there, in their
// order; some may be there twice.
func (s *rsyslog) has(number int) error {
	raw, err := os.ReadFile(s.file)
	if err != nil {
		return err
	}
	next := 1
	for line := range strings.Lines(string(raw)) {
		var host, pod, container, path string
		var n int
		if _, err := fmt.Sscanf(line, "%s %s %s wrote %s %d", &host, &pod, &container, &path, &n); err != nil || pod != "talker" || container != "app" {
			continue
		}
		switch {
		case n == next:
			next++
		case n > next:
			return fmt.Errorf("line %d is followed by line %d", next-1, n)
		}
	}
	if next <= number {
		return fmt.Errorf("the last line is number %d", next-1)
	}
	return nil
}
