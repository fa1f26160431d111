package diskq

import (
	"sync"
	"testing"
	"time"
)

// testClock is a clock that can be set, as NTP does.
type testClock struct {
	mu sync.Mutex
	r  reading
}

func newTestClock() *testClock {
	return &testClock{r: reading{wall: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)}}
}

func (c *testClock) read() reading {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.r
}

func (c *testClock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.r = reading{wall: c.r.wall.Add(d), passed: c.r.passed + d}
}

func (c *testClock) set(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.r.wall = c.r.wall.Add(by)
}

const year = 365 * 24 * time.Hour

// TestClockIsSet sets the clock in all ways while entries wait that are not old.
func TestClockIsSet(t *testing.T) {
	t.Parallel()
	for name, by := range map[string]time.Duration{
		"from 1970": 56 * year, "twenty years ahead": 20 * year, "twenty years back": -20 * year,
		"from when the image was made": 5 * 30 * 24 * time.Hour, "a day ahead": 24 * time.Hour, "a day back": -24 * time.Hour,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newTestClock()
			cfg := Config{Dir: t.TempDir(), MaxAge: 3 * time.Hour, MaxBytes: 1 << 20, SegmentBytes: 100, clock: c.read}
			q := open(t, cfg)
			appendAll(t, q, "a", "b", "c", "d")
			c.pass(time.Hour)
			q = reopen(t, q) // and of an earlier process
			appendAll(t, q, "e", "f")
			c.set(by)
			c.pass(time.Hour)
			appendAll(t, q, "g")
			if got := texts(read(t, q, 10)); got != "a b c d e f g" {
				t.Errorf("read %q", got)
			}
			c.pass(90 * time.Minute)
			appendAll(t, q, "h")
			got := texts(read(t, q, 10))
			// What this process has appended is as old as it is; what was there
			// before may stay when the clock was behind.
			if want := "e f g h"; got != want && got != "a b c d "+want {
				t.Errorf("later: read %q", got)
			}
			if st := q.Stats(); st.Dropped.Size+st.Dropped.Damage != 0 {
				t.Errorf("stats %+v", st)
			}
		})
	}
}

// TestClockIsWrongAtBoot opens a queue from yesterday under a clock that is years
// wrong, which is then set.
func TestClockIsWrongAtBoot(t *testing.T) {
	t.Parallel()
	for _, wrong := range []time.Duration{-50 * year, -3 * year, 3 * year, 19 * year} {
		c := newTestClock()
		cfg := Config{Dir: t.TempDir(), MaxAge: 72 * time.Hour, MaxBytes: 1 << 20, SegmentBytes: 100, clock: c.read}
		q := open(t, cfg)
		appendAll(t, q, "a", "b", "c")
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
		c.pass(24 * time.Hour)
		c.set(wrong)
		q = open(t, cfg)
		appendAll(t, q, "d")
		c.pass(time.Hour)
		if got := texts(read(t, q, 10)); got != "a b c d" {
			t.Errorf("%s wrong: read %q", wrong, got)
		}
		c.set(-wrong)
		appendAll(t, q, "e")
		if got := texts(read(t, q, 10)); got != "a b c d e" {
			t.Errorf("%s wrong, then set: read %q", wrong, got)
		}
	}
}

// TestAgeCountsWhileOff drops what became too old while the device was off.
func TestAgeCountsWhileOff(t *testing.T) {
	t.Parallel()
	c := newTestClock()
	cfg := Config{Dir: t.TempDir(), MaxAge: 72 * time.Hour, MaxBytes: 1 << 20, clock: c.read}
	q := open(t, cfg)
	appendAll(t, q, "a")
	c.pass(30 * 24 * time.Hour)
	q = reopen(t, q)
	appendAll(t, q, "b")
	if got := texts(read(t, q, 10)); got != "b" {
		t.Errorf("read %q", got)
	}
	if st := q.Stats(); st.Dropped.Age != 1 {
		t.Errorf("stats %+v", st)
	}
}

// TestAgesForgetManySettings sets the clock more often than is remembered.
func TestAgesForgetManySettings(t *testing.T) {
	t.Parallel()
	c := newTestClock()
	var a ages
	at := map[uint64]time.Time{}
	for seq := range uint64(100) {
		a.look(c.read(), seq)
		at[seq] = c.read().wall
		c.set(time.Duration(seq%7) * -time.Hour)
		c.pass(time.Minute)
	}
	a.look(c.read(), 100)
	if len(a.epochs) > maxEpochs {
		t.Errorf("%d epochs are kept", len(a.epochs))
	}
	for seq := range uint64(100) {
		want := time.Duration(100-seq) * time.Minute
		if got := a.age(seq, at[seq]); got > want || seq > 90 && got != want {
			t.Errorf("entry %d is %s old, want %s", seq, got, want)
		}
	}
}
