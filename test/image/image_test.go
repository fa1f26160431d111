package image

import (
	"archive/tar"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestArchiveIsStableAndStampsTheVersion(t *testing.T) {
	ctx := t.Context()
	first, err := Archive(ctx, Spec{Ref: "localhost/flotta-test:v1"})
	if err != nil {
		t.Fatal(err)
	}
	again, err := Archive(ctx, Spec{Ref: "localhost/flotta-test:v1", Version: "v1"})
	if err != nil {
		t.Fatal(err)
	}
	if first != again {
		t.Errorf("the same image was made twice: %s and %s", first, again)
	}
	second, err := Archive(ctx, Spec{Ref: "localhost/flotta-test:v2"})
	if err != nil {
		t.Fatal(err)
	}
	if first == second {
		t.Errorf("v1 and v2 share an archive")
	}
	if got, want := archivedEnv(t, second), "VERSION=v2"; !strings.Contains(got, want) {
		t.Errorf("environment %q, want %q in it", got, want)
	}
}

func TestArchiveRefusesAReferenceWithoutTag(t *testing.T) {
	for _, ref := range []string{"", "localhost/x", "localhost:5000/x", "localhost/:v1", "localhost/x:"} {
		if path, err := Archive(t.Context(), Spec{Ref: ref}); err == nil {
			t.Errorf("reference %q gave %s", ref, path)
		}
	}
}

func TestProgramStopsAtOnceAndServes(t *testing.T) {
	program, err := Program(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "sub", "a.txt")
	cmd := exec.CommandContext(t.Context(), program, "write", file, "hello {n}")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { data, _ := os.ReadFile(file); return string(data) == "hello 1\n" })
	start := time.Now()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("took %s to stop", took)
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	_ = l.Close()
	server := exec.CommandContext(t.Context(), program)
	server.Env = []string{"APP_ARGS=serve " + port, "VERSION=v9", "SECRET=s"}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })
	base := "http://127.0.0.1:" + port
	waitFor(t, func() bool { status, _ := get(base + "/version"); return status == http.StatusOK })
	for _, c := range []struct {
		path   string
		status int
		body   string
	}{
		{"/version", 200, "v9"},
		{"/env?name=SECRET", 200, "s"},
		{"/env?name=NONE", 404, ""},
		{"/file?path=" + url.QueryEscape("../../etc/hostname"), 404, ""},
	} {
		status, body := get(base + c.path)
		if status != c.status || (c.body != "" && body != c.body) {
			t.Errorf("%s answered %d %q, want %d %q", c.path, status, body, c.status, c.body)
		}
	}
}

func TestProgramExitsWithTheCodeAskedFor(t *testing.T) {
	program, err := Program(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "exit", "7", "10ms")
	_ = cmd.Run()
	if got := cmd.ProcessState.ExitCode(); got != 7 {
		t.Errorf("exit code %d, want 7", got)
	}
}

func get(address string) (int, string) {
	client := http.Client{Timeout: 2 * time.Second}
	resp, err := client.Get(address)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("gave up waiting")
		}
	}
}

// archivedEnv returns the environment in the configuration of the image.
func archivedEnv(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for r := tar.NewReader(f); ; {
		header, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(header.Name, ".json") || header.Name == "manifest.json" {
			continue
		}
		var config struct {
			Config struct{ Env []string }
		}
		if err := json.NewDecoder(r).Decode(&config); err != nil {
			t.Fatal(err)
		}
		return strings.Join(config.Config.Env, " ")
	}
}
