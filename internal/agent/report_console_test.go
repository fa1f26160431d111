package agent

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/console"
	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/diskq"
	"github.com/project-flotta/flotta-agent/internal/pki"
	"github.com/project-flotta/flotta-agent/internal/workload"
)

func TestCertificateIn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	authority, err := pki.NewAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	both := filepath.Join(dir, "both.pem")
	key := "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
	write(t, both, key+string(authority.CertificatePEM()))
	got := certificateIn(both)
	if got == nil || got.Issuer != got.Subject || !got.Expires.Equal(authority.NotAfter()) {
		t.Errorf("certificate: %+v", got)
	}
	for name, text := range map[string]string{
		"key.pem": key, "empty.pem": "", "noise.pem": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
	} {
		write(t, filepath.Join(dir, name), text)
		if got := certificateIn(filepath.Join(dir, name)); got != nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if got := certificateIn(filepath.Join(dir, "none")); got != nil {
		t.Errorf("no file: %+v", got)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestOperatingSystem(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	if got := operatingSystem(root); got.Name != "" || got.Kernel != "" || !got.Booted.IsZero() || got.Architecture == "" {
		t.Errorf("nothing there: %+v", got)
	}
	write(t, filepath.Join(root, "usr/lib/os-release"), "NAME=Fedora\nVERSION='44 (IoT)'\n")
	if got := operatingSystem(root).Name; got != "Fedora 44 (IoT)" {
		t.Errorf("name: %q", got)
	}
	write(t, filepath.Join(root, "etc/os-release"), "# x\nPRETTY_NAME=\"Red Hat\"\nNAME=RHEL")
	write(t, filepath.Join(root, "proc/sys/kernel/osrelease"), "6.1.0\n")
	write(t, filepath.Join(root, "proc/stat"), "cpu 1 2\nbtime 1767225600\n")
	got := operatingSystem(root)
	got.Architecture = ""
	if diff := cmp.Diff(console.OS{Name: "Red Hat", Kernel: "6.1.0", Booted: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}, got); diff != "" {
		t.Errorf("system (-want +got):\n%s", diff)
	}
	if got := bootTime([]byte("btime soon\n")); !got.IsZero() {
		t.Errorf("boot time: %s", got)
	}
}

func TestStorage(t *testing.T) {
	t.Parallel()
	places := measured([]console.Storage{{Name: "here", Path: t.TempDir()}, {Name: "gone", Path: "/does/not/exist"}})
	if here := places[0]; here.Total <= 0 || here.Free <= 0 || here.Free > here.Total || here.Error != "" {
		t.Errorf("here: %+v", here)
	}
	if places[1].Error == "" || places[1].Total != 0 {
		t.Errorf("gone: %+v", places[1])
	}
	for want, s := range map[string]console.Storage{
		"":                      {Path: "/x", Total: 1000, Free: 10, Inodes: 1000, FreeInodes: 10},
		"less than 1% of the d": {Path: "/x", Total: 1000, Free: 9},
		"less than 1% of the i": {Path: "/x", Total: 1000, Free: 1000, Inodes: 1000, FreeInodes: 9},
	} {
		got := strings.Join(storageProblems([]console.Storage{s, {Error: "x"}}), "|")
		if (got == "") != (want == "") || !strings.HasPrefix(got, want) {
			t.Errorf("%+v: %q, want %q", s, got, want)
		}
	}
}

func TestPhase(t *testing.T) {
	t.Parallel()
	registered, not := make(chan struct{}), make(chan struct{})
	close(registered)
	for _, tt := range []struct {
		state desired.State
		c     chan struct{}
		want  string
	}{
		{desired.State{}, not, console.PhaseRegistering},
		{desired.State{}, registered, console.PhaseManaged},
		{desired.State{Leaving: true}, registered, console.PhaseLeaving},
		{desired.State{Withdrawn: true}, not, console.PhaseLeaving},
	} {
		if got := phase(tt.state, tt.c); got != tt.want {
			t.Errorf("%+v: %s, want %s", tt.state, got, tt.want)
		}
	}
}

func TestConsoleQueue(t *testing.T) {
	t.Parallel()
	got := consoleQueue("events", diskq.Stats{Entries: 3, Bytes: 300, DiskBytes: 400, MaxBytes: 1000, Dropped: diskq.Dropped{Size: 1, Age: 2, Damage: 3}})
	want := console.Queue{Name: "events", Waiting: 3, Bytes: 300, Limit: 1000, Dropped: console.Dropped{Size: 1, Age: 2, Damage: 3}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("queue (-want +got):\n%s", diff)
	}
}

// board is a source of statuses that tests change.
type board struct {
	mu      sync.Mutex
	status  workload.Status
	changed chan struct{}
}

func (b *board) Status() workload.Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.status
}

func (b *board) Changed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed
}

func (b *board) set(s workload.Status) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.status = s
	close(b.changed)
	b.changed = make(chan struct{})
}

// The time at which a configuration was applied survives restarts, and is not
// that of another one.
func TestWhenItWasApplied(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "applied.json")
	source := &board{changed: make(chan struct{})}
	var withdrawn atomic.Bool
	wanted := func() *desired.Snapshot {
		return desired.NewSnapshot(desired.State{Withdrawn: withdrawn.Load()}, source.Status().ConfigDigest)
	}
	begin := func() (*applied, func()) {
		a := &applied{path: path, log: slog.New(slog.DiscardHandler)}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- a.run(ctx, source, wanted) }()
		return a, func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: never", what)
			}
		}
	}
	first, stop := begin()
	source.set(workload.Status{ConfigDigest: "c1"})
	source.set(workload.Status{ConfigDigest: "c1", Settled: true})
	until("applied", func() bool { return !first.at("c1").IsZero() })
	was := first.at("c1")
	source.set(workload.Status{ConfigDigest: "c2"})
	stop()
	if !first.at("c2").IsZero() || !first.at("").IsZero() {
		t.Error("another configuration is taken for applied")
	}
	second, stop := begin()
	until("known after a restart", func() bool { return second.at("c1").Equal(was) })
	source.set(workload.Status{ConfigDigest: "c2", Settled: true})
	until("applied", func() bool { return !second.at("c2").IsZero() && second.at("c1").IsZero() })
	stop()
	write(t, path, "no document")
	third, stop := begin()
	until("known in spite of a broken file", func() bool { return !third.at("c2").IsZero() })
	stop()
	// Nothing of a device that is no longer managed is to be left behind.
	withdrawn.Store(true)
	source.set(workload.Status{ConfigDigest: "c3", Settled: true})
	fourth, stop := begin()
	stop()
	if !fourth.at("c3").IsZero() {
		t.Error("that a device leaves is taken for a configuration")
	}
}

func TestContainerStore(t *testing.T) {
	t.Parallel()
	for uid, want := range map[int]string{
		0: "/var/lib/containers/storage", 1<<31 - 7: "/var/home/flotta/.local/share/containers/storage",
	} {
		if got := (account{uid: uid}).containerStore(); got != want {
			t.Errorf("%d: %s, want %s", uid, got, want)
		}
	}
}
