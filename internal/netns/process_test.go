package netns

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestFind(t *testing.T) {
	t.Parallel()
	self, err := Find(os.Getpid())
	if err != nil || self.pid != os.Getpid() || self.began == 0 {
		t.Errorf("this process: %+v, %v", self, err)
	}
	for _, pid := range []int{0, -1} {
		if _, err := Find(pid); err == nil {
			t.Errorf("Find(%d) found a process", pid)
		}
	}
	cmd := exec.Command("true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(cmd.Process.Pid); !errors.Is(err, ErrGone) {
		t.Errorf("an ended process: %v, want ErrGone", err)
	}
}

// TestAnotherProcess goes nowhere when the number has been given away.
func TestAnotherProcess(t *testing.T) {
	t.Parallel()
	self, err := Find(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	self.began--
	for _, p := range []Process{self, {}} {
		if _, err := p.DialContext(t.Context(), "tcp", "127.0.0.1:1"); !errors.Is(err, ErrGone) {
			t.Errorf("%+v: %v, want ErrGone", p, err)
		}
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	self, err := Find(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ network, address string }{
		{"tcp", "localhost:80"},
		{"tcp", "127.0.0.1"},
		{"tcp", "127.0.0.1:http"},
		{"tcp", "127.0.0.1:70000"},
		{"tcp", ""},
		{"tcp", "[fe80::1%lo]:80"},
		{"tcp4", "[::1]:80"},
		{"tcp6", "127.0.0.1:80"},
		{"udp", "127.0.0.1:80"},
		{"", "127.0.0.1:80"},
	} {
		conn, err := self.DialContext(t.Context(), c.network, c.address)
		switch {
		case err == nil:
			_ = conn.Close()
			t.Errorf("%q %q was dialled", c.network, c.address)
		case errors.Is(err, ErrHome):
			t.Errorf("%q %q was taken for an address", c.network, c.address)
		}
	}
}

func stat(name, state, began string) string {
	return fmt.Sprintf("42 (%s) %s %s%s 0 0", name, state, strings.Repeat("7 ", 18), began)
}

func TestParseStat(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]uint64{
		stat("sleep", "S", "123456"): 123456,
		stat(") Z (a b", "R", "9"):   9,
	} {
		if got, err := parseStat([]byte(text)); err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", text, got, err, want)
		}
	}
	if _, err := parseStat([]byte(stat("x", "Z", "9"))); !errors.Is(err, ErrGone) {
		t.Errorf("a zombie: %v, want ErrGone", err)
	}
	for _, text := range []string{"", "42", "42 (x)", "42 (x) ", stat("x", "S", "-1"), stat("x", "S", "")[:40]} {
		if _, err := parseStat([]byte(text)); err == nil || errors.Is(err, ErrGone) {
			t.Errorf("%q: %v, want another error", text, err)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte(stat("sleep", "S", "123456")))
	f.Add([]byte(") "))
	f.Fuzz(func(_ *testing.T, raw []byte) { _, _ = parseStat(raw) })
}

func TestTheNetworkOfThisProcessIsRefused(t *testing.T) {
	t.Parallel()
	p, err := Find(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.DialContext(t.Context(), "tcp", "127.0.0.1:1"); !errors.Is(err, ErrHome) {
		t.Errorf("dial by way of this process: %v", err)
	}
}
