package datasync

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
)

// lightStore is a bucket that keeps no content and lists what it is told.
type lightStore struct {
	*memStore

	list func(page func([]s3.Object) error) error
}

// tree makes n empty files in folders of 100 or so.
func (b *bench) tree(n int) {
	b.t.Helper()
	for dir := range (n + 99) / 100 {
		path := b.path(fmt.Sprintf("out/d%03d/e%03d", dir/1000, dir%1000))
		b.must(os.MkdirAll(path, 0o755))
		for i := range min(100, n-dir*100) {
			b.must(os.WriteFile(filepath.Join(path, fmt.Sprintf("file-%02d.dat", i)), nil, 0o644))
		}
	}
}

// resident returns how much memory the process has, of its own and of files, in
// bytes.
func resident(t testing.TB) (own, files int64) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		f := strings.Fields(line)
		switch f[0] {
		case "RssAnon:":
			own, _ = strconv.ParseInt(f[1], 10, 64)
		case "RssFile:":
			files, _ = strconv.ParseInt(f[1], 10, 64)
		}
	}
	return own << 10, files << 10
}

// filled starts an engine on a tree whose files are recorded already, as after
// they were sent.
func filled(t testing.TB, n int) *bench {
	t.Helper()
	b := newBench(t, newMemStore(), paths(up(), nil), func(c *Config) { c.Walk, c.Audit = 24*time.Hour, -1 })
	b.tree(n)
	b.engine.mu.Lock()
	g := b.engine.groups[groupKey{testWorkload, egress}]
	b.engine.mu.Unlock()
	id := routeID(testWorkload, egress, g.storeID, g.routes[0])
	v, err := openVolume(b.volumes, testWorkload)
	b.must(err)
	defer v.close()
	records := map[string]record{}
	flush := func() {
		b.must(g.index.put(id, records, time.Now()))
		clear(records)
	}
	b.must(v.walk(t.Context(), "out", func(files []entry) error {
		for _, e := range files {
			records[e.Path] = record{
				fingerprint: e.fingerprint, ETag: "d41d8cd98f00b204e9800998ecf8427e", When: time.Now().Unix() - 3600,
			}
		}
		if len(records) > 20000 {
			flush()
		}
		return nil
	}, func(name string, err error) { t.Fatal(name, err) }))
	flush()
	b.must(g.index.setSeeded(id))
	return b
}

func BenchmarkIdleCycle(b *testing.B) {
	bench := filled(b, 100_000)
	bench.mustSync(egress)
	bench.look()
	b.ReportAllocs()
	for b.Loop() {
		bench.look()
	}
}

func BenchmarkOneChangedOf100000(b *testing.B) {
	bench := filled(b, 100_000)
	bench.mustSync(egress)
	i := 0
	for b.Loop() {
		i++
		bench.write("out/d000/e007/file-07.dat", strconv.Itoa(i))
		bench.look()
	}
}

func BenchmarkWalkOf100000(b *testing.B) {
	bench := filled(b, 100_000)
	bench.mustSync(egress)
	b.ReportAllocs()
	for b.Loop() {
		bench.mustSync(egress)
	}
}

// BenchmarkBusyLog says how much of a processor it takes while somebody else
// writes a log, and two at once, as fast as a shell can.
func BenchmarkBusyLog(b *testing.B) {
	for name, script := range map[string]string{
		"one": `while :; do echo line; done >> a`,
		"two": `while :; do echo line >&3; echo line >&4; done 3>> a 4>> b`,
	} {
		b.Run(name, func(b *testing.B) {
			bench := filled(b, 1000)
			bench.mustSync(egress)
			const lasts = 3 * time.Second
			ctx, cancel := context.WithTimeout(b.Context(), lasts)
			defer cancel()
			cmd := exec.CommandContext(ctx, "sh", "-c", script)
			cmd.Dir = bench.path("out")
			for b.Loop() {
				var before, after unix.Rusage
				bench.must(unix.Getrusage(unix.RUSAGE_SELF, &before))
				_ = cmd.Run()
				bench.must(unix.Getrusage(unix.RUSAGE_SELF, &after))
				used := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
				b.ReportMetric(100*float64(used)/float64(lasts), "%cpu")
			}
			if bench.out().marks.everything() {
				b.Log("the queue overflowed")
			}
		})
	}
}

// BenchmarkMillion needs minutes: it says how much memory a million files take.
func BenchmarkMillion(b *testing.B) {
	bench := filled(b, 1_000_000)
	bench.stop()
	m := newMeter(b)
	defer m.stop()
	m.report("stopped")
	bench.start(bench.engine.cfg)
	eventually(b, "the group runs", func() bool {
		bench.engine.mu.Lock()
		defer bench.engine.mu.Unlock()
		return len(bench.engine.groups) > 0
	})
	m.report("opened")
	bench.mustSync(egress)
	m.report("walked")
	for b.Loop() {
		bench.look()
	}
	m.report("idle")
}

// BenchmarkSeedMillion is an index that was lost, and a bucket of a million
// objects.
func BenchmarkSeedMillion(b *testing.B) {
	store := lightStore{memStore: newMemStore(), list: func(page func([]s3.Object) error) error {
		for i := range 1000 {
			objects := make([]s3.Object, 1000)
			for k := range objects {
				objects[k] = s3.Object{
					Key: fmt.Sprintf("up/d%03d/e%03d/file-%02d.dat", i/10, i%10*10+k/100, k%100), ETag: "d41d8cd98f00b204e9800998ecf8427e",
				}
			}
			if err := page(objects); err != nil {
				return err
			}
		}
		return nil
	}}
	for b.Loop() {
		bench := newBench(b, store, paths(up(), nil), func(c *Config) { c.Walk, c.Audit = 24*time.Hour, -1 })
		m := newMeter(b)
		bench.tree(100)
		bench.mustSync(egress)
		m.report("seeded")
		m.stop()
		for _, r := range store.taken() {
			b.Errorf("request %s", r)
		}
		bench.stop()
	}
}

func (l lightStore) List(_ context.Context, _ string, page func([]s3.Object) error) error {
	return l.list(page)
}

// meter looks at the resident memory all the time.
type meter struct {
	b     *testing.B
	began time.Time
	peak  atomic.Int64
	end   chan struct{}
	done  sync.WaitGroup
}

func newMeter(b *testing.B) *meter {
	m := &meter{b: b, began: time.Now(), end: make(chan struct{})}
	m.done.Go(func() {
		for {
			select {
			case <-m.end:
				return
			case <-time.After(50 * time.Millisecond):
				own, files := resident(b)
				m.peak.Store(max(m.peak.Load(), own+files))
			}
		}
	})
	return m
}

func (m *meter) stop() {
	close(m.end)
	m.done.Wait()
}

// report reports what the last step took.
func (m *meter) report(what string) {
	took := time.Since(m.began)
	own, files := resident(m.b)
	m.b.ReportMetric(float64(own+files)/(1<<20), what+"-MB")
	m.b.ReportMetric(float64(max(m.peak.Load(), own+files))/(1<<20), what+"-peak-MB")
	m.b.Logf("%s in %v: %d MB own, %d MB of files, %d MB at its peak", what, took, own>>20, files>>20, m.peak.Load()>>20)
	runtime.GC()
	debug.FreeOSMemory()
	m.peak.Store(0)
	m.began = time.Now()
}
