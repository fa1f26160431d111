package main

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/console"
)

// run runs the program and returns what it writes and its exit code.
func run(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := command(func(string) string { return "" }, &out, &errs)
	cmd.SetArgs(args)
	code = exitCode(cmd.ExecuteContext(t.Context()), &errs)
	return out.String(), errs.String(), code
}

func agentSaying(t *testing.T, d console.Document) (socket string) {
	t.Helper()
	return agentDoing(t, console.Config{Collect: func() console.Document { return d }})
}

func agentDoing(t *testing.T, cfg console.Config) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "agent.sock")
	cfg.Socket, cfg.Group = socket, -1
	s, err := console.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			break
		}
	}
	return socket
}

func TestStatus(t *testing.T) {
	t.Parallel()
	good := console.Workload{Name: "good", Phase: "Running", DesiredDigest: "d", AppliedDigest: "d"}
	bad := console.Workload{Name: "bad", Phase: "Error", Reason: "ImagePullFailed", Message: "no such image"}
	well := agentSaying(t, console.Document{Version: "1", Workloads: []console.Workload{good}})
	ill := agentSaying(t, console.Document{Version: "1", Workloads: []console.Workload{bad, good}})
	fresh := agentSaying(t, console.Document{Version: "1", Device: console.Device{ID: "edge-7", Phase: console.PhaseRegistering}})
	gone := agentSaying(t, console.Document{Version: "1", Device: console.Device{ID: "edge-7", Phase: console.PhaseLeaving}})
	for name, tt := range map[string]struct {
		args   []string
		code   int
		stdout string // that is in it
		stderr string
	}{
		"well":         {[]string{"--socket", well}, 0, "good  Running", ""},
		"ill":          {[]string{"--socket", ill}, 1, "ImagePullFailed", ""},
		"json":         {[]string{"--socket", ill, "-o", "json"}, 1, `"healthy": false`, ""},
		"yaml":         {[]string{"--socket", well, "--output=yaml"}, 0, "healthy: true", ""},
		"not yet":      {[]string{"--socket", fresh}, 3, "edge-7, registering", ""},
		"no more":      {[]string{"--socket", gone}, 3, "edge-7, leaving", ""},
		"nobody":       {[]string{"--socket", well + "x"}, 2, "", "journalctl -u yggd"},
		"bad format":   {[]string{"--socket", well, "-o", "xml"}, 2, "", "xml"},
		"bad flag":     {[]string{"--sockets", well}, 2, "", "sockets"},
		"bad argument": {[]string{"good"}, 2, "", "good"},
		"watch often":  {[]string{"--socket", well, "--watch=1ms"}, 2, "", "--watch=1s"},
		"watch what":   {[]string{"--socket", well, "--watch=now"}, 2, "", "now"},
		"watch json":   {[]string{"--socket", well, "--watch", "-o", "json"}, 2, "", "json"},
		"watch nobody": {[]string{"--socket", well + "x", "--watch"}, 2, "", "journalctl -u yggd"},
	} {
		stdout, stderr, code := run(t, append([]string{"status"}, tt.args...)...)
		if code != tt.code || !strings.Contains(stdout, tt.stdout) || !strings.Contains(stderr, tt.stderr) {
			t.Errorf("%s: code %d, want %d\nstdout: %s\nstderr: %s", name, code, tt.code, stdout, stderr)
		}
		if (stdout == "") != (tt.stdout == "") || (stderr == "") != (tt.stderr == "") {
			t.Errorf("%s: stdout %q, stderr %q", name, stdout, stderr)
		}
	}
}

func TestExitCodeOfOtherCommands(t *testing.T) {
	t.Parallel()
	if _, _, code := run(t, "version"); code != 0 {
		t.Errorf("version ends with %d", code)
	}
	if _, stderr, code := run(t); code != 1 || !strings.Contains(stderr, "YGG_SOCKET_ADDR") {
		t.Errorf("without yggd it ends with %d: %s", code, stderr)
	}
}

func TestSync(t *testing.T) {
	t.Parallel()
	socket := agentDoing(t, console.Config{
		Collect: func() console.Document { return console.Document{} },
		Sync: func(_ context.Context, r console.SyncRequest) (out []console.SyncResult) {
			for _, name := range r.Workloads {
				result := console.SyncResult{Workload: name, Direction: "egress"}
				if name == "bad" {
					result.Error = "no such bucket"
				}
				if r.Audit {
					result.Missing = 3
				}
				out = append(out, result)
			}
			return out
		},
	})
	for name, tt := range map[string]struct {
		args   []string
		code   int
		stdout string
		stderr string
	}{
		"none":     {nil, 0, "no workload has data paths\n", ""},
		"well":     {[]string{"good"}, 0, "good egress: ok\n", ""},
		"ill":      {[]string{"good", "bad"}, 1, "good egress: ok\nbad egress: no such bucket\n", ""},
		"audit":    {[]string{"--audit", "good"}, 0, "good egress: ok, 3 missing in the bucket, sent again\n", ""},
		"bad flag": {[]string{"--audits"}, 2, "", "audits"},
		"nobody":   {[]string{"--socket", socket + "x"}, 2, "", "journalctl -u yggd"},
	} {
		stdout, stderr, code := run(t, append([]string{"sync", "--socket", socket}, tt.args...)...)
		if code != tt.code || stdout != tt.stdout || !strings.Contains(stderr, tt.stderr) || (stderr == "") != (tt.stderr == "") {
			t.Errorf("%s: code %d, want %d\nstdout: %s\nstderr: %s", name, code, tt.code, stdout, stderr)
		}
	}
}

func TestLogLevel(t *testing.T) {
	t.Parallel()
	var level slog.LevelVar
	socket := agentDoing(t, console.Config{
		Level:   &level,
		Collect: func() console.Document { return console.Document{LogLevel: strings.ToLower(level.Level().String())} },
	})
	fixed := agentSaying(t, console.Document{})
	for _, tt := range []struct {
		socket string
		args   []string
		code   int
		stdout string
		stderr string
	}{
		{socket, nil, 0, "info\n", ""},
		{socket, []string{"debug"}, 0, "debug, was info\n", ""},
		{socket, nil, 0, "debug\n", ""},
		{socket, []string{"loud"}, 2, "", "debug, info, warn or error"},
		{socket, []string{"info", "warn"}, 2, "", "accepts at most 1"},
		{fixed, []string{"warn"}, 2, "", "404"},
		{socket + "x", []string{"warn"}, 2, "", "does not run"},
	} {
		stdout, stderr, code := run(t, append([]string{"log-level", "--socket", tt.socket}, tt.args...)...)
		if code != tt.code || stdout != tt.stdout || !strings.Contains(stderr, tt.stderr) || (stderr == "") != (tt.stderr == "") {
			t.Errorf("%v: code %d, stdout %q, stderr %q", tt, code, stdout, stderr)
		}
	}
	if level.Level() != slog.LevelDebug {
		t.Errorf("the level is %s", level.Level())
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	socket := agentSaying(t, console.Document{Version: "7"})
	if stdout, stderr, code := run(t, "metrics", "--socket", socket); code != 0 || stderr != "" || !strings.Contains(stdout, `flotta_agent_info{version="7"} 1`) {
		t.Errorf("code %d\nstdout: %s\nstderr: %s", code, stdout, stderr)
	}
	if stdout, _, code := run(t, "metrics", "--socket", socket+"x"); code != 2 || stdout != "" {
		t.Errorf("nobody: code %d, %s", code, stdout)
	}
}
