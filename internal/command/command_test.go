package command

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// script makes a program, and a runner that finds it and those of the host.
func script(t *testing.T, name, text string) Runner {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	return Runner{Dirs: append([]string{dir}, HostDirs()...), Grace: 100 * time.Millisecond}
}

func TestRun(t *testing.T) {
	t.Parallel()
	r := script(t, "tool", `printf '%s|' "$@" "$LC_ALL" "$X" "$HOME" "$(cat)" "$PWD"`)
	r.Env = []string{"X=1"}
	got, err := r.Run(t.Context(), "in", "tool", "a b", "-c")
	if want := "a b|-c|C.UTF-8|1||in|/|"; err != nil || string(got) != want {
		t.Errorf("it printed %q, %v; want %q", got, err, want)
	}
}

func TestAbsent(t *testing.T) {
	t.Parallel()
	r := Runner{Dirs: []string{t.TempDir()}}
	if err := os.Mkdir(filepath.Join(r.Dirs[0], "folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.Dirs[0], "text"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "folder", "text"} {
		if _, err := r.Run(t.Context(), "", name); !errors.Is(err, ErrAbsent) || r.Has(name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFailure(t *testing.T) {
	t.Parallel()
	r := script(t, "tool", "echo out; printf 'first\\nlast\\377' >&2; exit 3")
	got, err := r.Run(t.Context(), "", "tool", "x")
	var failed *Error
	if !errors.As(err, &failed) || failed.Stderr != "first\nlast?" || err.Error() != "run tool x: exit status 3: first\nlast?" {
		t.Errorf("error %q", err)
	}
	if string(got) != "out\n" {
		t.Errorf("it printed %q", got)
	}
}

func TestMuchOutput(t *testing.T) {
	t.Parallel()
	r := script(t, "tool", "yes | head -c 20000000; yes no | head -c 20000000 >&2")
	r.Limit = 1000
	got, err := r.Run(t.Context(), "", "tool")
	if !errors.Is(err, ErrTooMuch) || len(got) != 1000 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestNothingIsLeft(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"it ends":                "sleep 1000 & echo $! >$1; exit 0",
		"it ignores the end":     "trap '' INT; sleep 1000 & echo $! >$1; wait; sleep 1000",
		"its child has the pipe": "sleep 1000 & echo $! >$1; wait",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := script(t, "tool", text)
			file := filepath.Join(t.TempDir(), "pid")
			ctx, cancel := context.WithTimeoutCause(t.Context(), 500*time.Millisecond, errors.New("it took too long"))
			defer cancel()
			_, err := r.Run(ctx, "", "tool", file)
			if name != "it ends" && (err == nil || !strings.Contains(err.Error(), "it took too long")) {
				t.Errorf("error %v", err)
			}
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
			if err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(10 * time.Second); syscall.Kill(pid, 0) == nil && !zombie(pid); time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("process %d is still there", pid)
				}
			}
		})
	}
}

// zombie reports whether a process has ended and nobody has asked how.
func zombie(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || strings.Contains(string(stat), ") Z ")
}

func TestProxies(t *testing.T) {
	t.Parallel()
	got := Proxies([]string{"PATH=/bin", "https_proxy=http://a:1", "NO_PROXY=b", "MY_PROXY=c", "AWS_SECRET=d", "odd"})
	if want := []string{"https_proxy=http://a:1", "NO_PROXY=b"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
