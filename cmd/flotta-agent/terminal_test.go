package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/project-flotta/flotta-agent/internal/console"
)

// pseudoTerminal returns both ends of a terminal of 100 columns and 30 lines.
func pseudoTerminal(t *testing.T) (user, program *os.File) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = user.Close() })
	fd := int(user.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = program.Close() })
	resize(t, user, 100, 30)
	return user, program
}

func resize(t *testing.T, user *os.File, width, height uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(user.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: width, Row: height}); err != nil {
		t.Fatal(err)
	}
}

func environment(pairs map[string]string) func(string) string {
	return func(name string) string { return pairs[name] }
}

func TestTerminalSize(t *testing.T) {
	t.Parallel()
	user, program := pseudoTerminal(t)
	xterm := environment(map[string]string{"TERM": "xterm"})
	size := terminalSize(program, xterm)
	if size == nil {
		t.Fatal("a terminal is none")
	}
	if w, h := size(); w != 100 || h != 30 {
		t.Errorf("%d by %d", w, h)
	}
	resize(t, user, 40, 10)
	if w, h := size(); w != 40 || h != 10 {
		t.Errorf("after a change %d by %d", w, h)
	}
	resize(t, user, 0, 0)
	if w, h := size(); w != 80 || h != 24 {
		t.Errorf("unknown is %d by %d", w, h)
	}
	file, err := os.Create(t.TempDir() + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	if terminalSize(file, xterm) != nil || terminalSize(io.Discard, xterm) != nil ||
		terminalSize(program, environment(nil)) != nil || terminalSize(program, environment(map[string]string{"TERM": "dumb"})) != nil {
		t.Error("what is none is a terminal")
	}
}

// On a real terminal the picture is drawn until the user interrupts, and the
// terminal is then as it was.
func TestWatchOnATerminal(t *testing.T) {
	t.Parallel()
	socket := agentSaying(t, console.Document{Device: console.Device{ID: "edge-7"}, DataSync: []console.DataSync{{
		Workload: "camera",
		Egress:   &console.DataDirection{InFlight: []console.Transfer{{Path: "clip.mp4", Size: 4, Done: 1, Rate: 1}}},
	}}})
	for name, tt := range map[string]struct {
		env   map[string]string
		color bool
	}{
		"colour":   {map[string]string{"TERM": "xterm"}, true},
		"NO_COLOR": {map[string]string{"TERM": "xterm", "NO_COLOR": "1"}, false},
	} {
		user, program := pseudoTerminal(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan int, 1)
		go func() {
			cmd := command(environment(tt.env), program, io.Discard)
			cmd.SetArgs([]string{"status", "--watch=100ms", "--socket", socket})
			done <- exitCode(cmd.ExecuteContext(ctx), io.Discard)
		}()
		var seen strings.Builder
		buffer := make([]byte, 4096)
		until := func(text string, times int) {
			for end := time.Now().Add(20 * time.Second); strings.Count(seen.String(), text) < times; {
				if time.Now().After(end) {
					t.Fatalf("%s: no %q in %q", name, text, seen.String())
				}
				n, err := user.Read(buffer)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				seen.Write(buffer[:n])
			}
		}
		until("clip.mp4", 3)
		cancel()
		until("\x1b[?25h", 1)
		if code := <-done; code != 0 {
			t.Errorf("%s: interrupted, it ends with %d", name, code)
		}
		text := seen.String()
		if !strings.HasSuffix(text, "\x1b[?7h\x1b[?25h") || !strings.Contains(text, "[=") || strings.Contains(text, "\x1b[1m") != tt.color {
			t.Errorf("%s: the terminal got %q", name, text)
		}
	}
}
