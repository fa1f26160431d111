package datasync

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
)

// noise is content without holes.
func noise(n int) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{9}).Read(data)
	return data
}

func (b *bench) quota() *usage {
	b.engine.mu.Lock()
	defer b.engine.mu.Unlock()
	return &b.engine.groups[groupKey{testWorkload, ingress}].inflow.quota
}

// forget makes the next download look at the volume.
func (u *usage) forget() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.at = time.Time{}
}

func TestQuotaHoldsDownloadsBack(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(nil, down()), func(c *Config) { c.Quota = 1 << 20 })
	b.write("mine", string(noise(600<<10)))
	store.set("down/large", noise(800<<10), s3.Upload{})
	store.set("down/small", []byte("small"), s3.Upload{})
	for range 2 {
		if err := b.sync(ingress); err == nil {
			t.Error("no error")
		}
	}
	s := b.status(ingress)
	if !strings.Contains(s.Blocked, fmt.Sprint(1<<20)) || !strings.Contains(s.Blocked, fmt.Sprint(800<<10)) || s.Pending != 1 {
		t.Errorf("status: %+v", s)
	}
	if diff := cmp.Diff(map[string]string{"small": "small"}, b.files("in")); diff != "" {
		t.Error(diff)
	}
	if b.reported(reasonQuotaReached, "") != 1 || b.reported(reasonDiskFull, "") != 0 {
		t.Error("not reported once")
	}
	// It goes on by itself, as soon as the volume is looked at.
	must(t, os.Remove(b.path("mine")))
	b.quota().forget()
	b.mustSync(ingress)
	if s := b.status(ingress); s.Blocked != "" || len(b.read("in/large")) != 800<<10 {
		t.Errorf("status: %+v", s)
	}
	if b.reported(reasonQuotaFreed, "") != 1 || b.reported(reasonDiskFreed, "") != 0 {
		t.Error("that it goes on was not reported once")
	}
	// A new version replaces the old one, and needs no more room than that.
	data := noise(900 << 10)
	data[0]++
	store.set("down/large", data, s3.Upload{})
	b.mustSync(ingress)
	if got := b.read("in/large"); got != string(data) {
		t.Error("not replaced")
	}
	// What came down since counts without another look.
	store.set("down/more", noise(300<<10), s3.Upload{})
	if err := b.sync(ingress); err == nil {
		t.Error("more than the quota came down")
	}
}

func TestQuotaOfTheWorkloadComesFirstAndMayChange(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	told := paths(up(), down())
	b := newBench(t, store, told, func(c *Config) { c.Quota = 1 })
	store.set("down/f", noise(100<<10), s3.Upload{})
	if err := b.sync(ingress); err == nil {
		t.Fatal("a quota of one byte has room")
	}
	b.engine.mu.Lock()
	out := b.engine.groups[groupKey{testWorkload, egress}]
	b.engine.mu.Unlock()
	told.workloads[0].Data.QuotaBytes = 1 << 30
	b.tell(told)
	eventually(t, "the quota is another one", func() bool { return b.quota().limit.Load() == 1<<30 })
	b.mustSync(ingress)
	b.engine.mu.Lock()
	defer b.engine.mu.Unlock()
	if out != b.engine.groups[groupKey{testWorkload, egress}] {
		t.Error("the other direction was disturbed")
	}
}

func TestVolumeUsageIsWhatDuSays(t *testing.T) {
	t.Parallel()
	root, err := os.OpenRoot(t.TempDir())
	must(t, err)
	v := volume{root: root}
	defer v.close()
	name := func(s string) string { return filepath.Join(root.Name(), s) }
	must(t, os.MkdirAll(name("a/b/c"), 0o700))
	must(t, os.WriteFile(name("a/f"), noise(100_000), 0o600))
	must(t, os.Link(name("a/f"), name("a/b/same")))
	must(t, os.WriteFile(name("sparse"), nil, 0o600))
	must(t, os.Truncate(name("sparse"), 1<<40))
	must(t, os.Symlink("/usr", name("link")))
	must(t, unix.Mkfifo(name("fifo"), 0o600))
	must(t, os.Mkdir(name("closed"), 0))
	got, err := v.usage(t.Context())
	if err != nil && os.Geteuid() == 0 {
		t.Fatal(err)
	}
	if err == nil && (got < 100_000 || got > 200_000) {
		t.Errorf("got %d bytes", got)
	}
}
