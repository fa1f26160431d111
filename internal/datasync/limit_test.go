package datasync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
)

// pauses makes the timetable pause whenever the returned switch is on.
func pauses(t testing.TB, c *Config) *atomic.Bool {
	t.Helper()
	var on atomic.Bool
	now := time.Now().UTC()
	c.Rates.Windows = []Window{window(t, now.Add(-2*time.Hour).Format("15:04-")+now.Add(2*time.Hour).Format("15:04"), Rate{}, true)}
	c.zone = func() *time.Location {
		if on.Load() {
			return time.UTC
		}
		return time.FixedZone("", 8*60*60)
	}
	return &on
}

func TestLimitBoundsAllTransfersTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLimits(Timetable{Otherwise: Rate{Upload: 100_000}}, nil)
		start := time.Now()
		done := make(chan error)
		for range 10 {
			go func() {
				for range 10 {
					if err := l.wait(t.Context(), egress, 32<<10); err != nil {
						done <- err
						return
					}
				}
				done <- nil
			}()
		}
		for range 10 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		// 3.2 MB at 100 kB/s, with what may travel in one go.
		if took := time.Since(start); took < 32*time.Second || took > 34*time.Second {
			t.Errorf("took %v", took)
		}
		if err := l.wait(t.Context(), ingress, 1<<30); err != nil || time.Since(start) > 34*time.Second {
			t.Errorf("the other direction is bounded: %v", err)
		}
	})
}

func TestLimitThatChangesCountsAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		// The fake clock begins at midnight UTC.
		l := newLimits(Timetable{
			Otherwise: Rate{Download: Unlimited},
			Windows:   []Window{window(t, "00:00-01:00", Rate{Download: minRate}, false)},
		}, func() *time.Location { return time.UTC })
		l.look()
		start := time.Now()
		e := &Engine{limits: l}
		done := make(chan error, 1)
		var moved int64
		go func() {
			_, err := io.Copy(io.Discard, e.throttle(t.Context(), ingress, bytes.NewReader(make([]byte, 64<<20)), func(n int64) { moved += n }))
			done <- err
		}()
		for time.Since(start) < time.Hour {
			time.Sleep(lookEach)
			l.look()
		}
		if err := <-done; err != nil || moved != 64<<20 {
			t.Errorf("%d bytes, %v", moved, err)
		}
		if took := time.Since(start); took > time.Hour+lookEach {
			t.Errorf("took %v", took)
		}
		// A clock that is set counts too: here it is another time zone.
		l.zone = func() *time.Location { return time.FixedZone("", -7200) }
		l.look()
		if l.now.Load().rate.Download != Unlimited {
			t.Error("limited although it is late there")
		}
		l.zone = func() *time.Location { return time.FixedZone("", -3600) }
		l.look()
		if l.now.Load().rate.Download != minRate {
			t.Error("not limited although it is early there")
		}
	})
}

func TestLimitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLimits(Timetable{Otherwise: Rate{Upload: minRate}}, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := l.wait(ctx, egress, 1<<30); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("wait: %v", err)
		}
	})
}

func TestPauseEndsWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	store := newGated()
	var on *atomic.Bool
	b := newBench(t, store, paths(up(), nil), func(c *Config) {
		c.Interval = 20 * time.Millisecond
		on = pauses(t, c)
	})
	store.gate("up/large")
	b.large("out/large")
	eventually(t, "it is under way", func() bool { return len(b.status(egress).Flying) == 1 })
	on.Store(true)
	b.engine.limits.look()
	b.engine.lanes.ground()
	eventually(t, "it is not under way any more", func() bool {
		s := b.status(egress)
		return len(s.Flying) == 0 && strings.HasPrefix(s.Paused, "paused until") && s.Blocked == "" && s.LastError == ""
	})
	if b.reported(reasonFailing, "") != 0 || b.reported(reasonDiskFull, "") != 0 {
		t.Errorf("events: %+v", b.events)
	}
	b.write("out/small", "x")
	begun := len(store.order())
	time.Sleep(100 * time.Millisecond) // several intervals
	if store.has("up/small") || len(store.order()) != begun {
		t.Errorf("sent in spite of the pause: %q", store.order())
	}
	// Somebody asks for it, and then the pause is over.
	gate := store.gate("up/large")
	done := make(chan error, 1)
	go func() { done <- b.sync(egress) }()
	eventually(t, "what was asked for is sent", func() bool { return store.has("up/small") && len(b.status(egress).Flying) == 1 })
	b.engine.lanes.ground()
	gate <- nil
	if err := <-done; err != nil || !store.has("up/large") {
		t.Errorf("sync: %v", err)
	}
	b.write("out/later", "y")
	on.Store(false)
	b.engine.limits.look()
	eventually(t, "it goes on by itself", func() bool { return store.has("up/later") && b.status(egress).Paused == "" })
}

func TestEngineKeepsTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		b := newBench(t, store, paths(up(), down()), func(c *Config) {
			c.Interval, c.Walk = defaultInterval, -1
			c.zone = func() *time.Location { return time.UTC }
			c.Rates = Timetable{Windows: []Window{window(t, "00:05-00:10", Rate{}, true)}}
		})
		defer b.stop()
		start := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
		time.Sleep(time.Until(start.Add(6 * time.Minute)))
		b.write("out/f", "x")
		store.taken()
		time.Sleep(time.Until(start.Add(9*time.Minute + 50*time.Second)))
		if got := store.taken(); len(got) != 0 || b.status(egress).Paused != "paused until 00:10" {
			t.Errorf("in the pause: %q, %+v", got, b.status(egress))
		}
		time.Sleep(time.Minute)
		if got := store.contents()["up/f"]; got != "x" || b.status(egress).Paused != "" || b.status(ingress).Paused != "" {
			t.Errorf("after it: %q, %+v", got, b.engine.Status())
		}
	})
}

func TestUploadsAreLimited(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, paceStore{store}, paths(up(), nil), func(c *Config) { c.Rates.Otherwise.Upload = 64 << 10 })
	b.write("out/f", strings.Repeat("x", 80<<10))
	start := time.Now()
	b.mustSync(egress)
	if took := time.Since(start); took < time.Second || took > 20*time.Second {
		t.Errorf("80 KiB at 64 KiB/s took %v", took)
	}
}

// paceStore tells of what it reads, as the real one does.
type paceStore struct{ *memStore }

func (p paceStore) Put(ctx context.Context, u s3.Upload) (string, error) {
	buf := make([]byte, 8<<10)
	for src := io.NewSectionReader(u.Body, 0, u.Size); ; {
		n, err := src.Read(buf)
		u.Moved(int64(n))
		if err != nil {
			break
		}
	}
	if ctx.Err() != nil {
		return "", fmt.Errorf("put %q: %w", u.Key, ctx.Err())
	}
	return p.memStore.Put(ctx, u)
}
