package collect

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/metrics/scrape"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// onlySelf is a configuration in which nothing is read but the agent itself.
func onlySelf() desired.State {
	return desired.State{Metrics: &protocol.MetricsConfiguration{
		Receiver: receiver(), System: &protocol.ComponentMetricsConfiguration{Disabled: true},
	}}
}

func counting() (scrape.Source, *int) {
	n := new(int)
	return func(context.Context) (scrape.Page, error) {
		*n++
		return scrape.Page{Text: fmt.Sprintf("n %d\n", *n)}, nil
	}, n
}

// TestRegular reads a target once in each interval, and neither an agent that
// stops nor one that is started again ends any series.
func TestRegular(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBoard(onlySelf())
		source, _ := counting()
		_, stop := start(t, b, func(c *Config) { c.Self = source })
		time.Sleep(3 * time.Minute)
		stop()
		first := b.taken()
		time.Sleep(17 * time.Second)
		_, stop = start(t, b, func(c *Config) { c.Self = source })
		time.Sleep(3 * time.Minute)
		stop()
		all := append(first, b.taken()...)
		if len(first) != 3 || len(all) != 6 {
			t.Fatalf("%d and %d scrapes, want 3 and 3", len(first), len(all)-len(first))
		}
		for i, p := range all {
			if got, want := text(p.samples), fmt.Sprintf("n %d, up 1", i+1); got != want {
				t.Errorf("scrape %d: %s, want %s", i, got, want)
			}
			if since := p.at.Sub(all[0].at); since%time.Minute != 0 {
				t.Errorf("scrape %d is %s after the first one", i, since)
			}
		}
	})
}

// TestGone ends all series of a target that is one no more.
func TestGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBoard(onlySelf())
		source, _ := counting()
		e, _ := start(t, b, func(c *Config) { c.DataTransfer, c.Self = nil, source })
		time.Sleep(time.Minute + time.Second)
		b.taken()
		changed := e.Changed()
		b.mu.Lock()
		b.snapshot = desired.NewSnapshot(desired.State{}, "y")
		b.mu.Unlock()
		b.show() // wakes the engine
		synctest.Wait()
		puts := b.taken()
		if len(puts) != 1 || text(puts[0].samples) != "n end, up end" {
			t.Errorf("put %+v", puts)
		}
		select {
		case <-changed:
		default:
			t.Error("no change was announced")
		}
		if s := e.Status(); len(s.Targets) > 0 {
			t.Errorf("status %+v", s)
		}
		time.Sleep(5 * time.Minute)
		if puts := b.taken(); len(puts) > 0 {
			t.Errorf("put after the end %+v", puts)
		}
	})
}

// TestReconfigured ends what was read in another way and reads it anew.
func TestReconfigured(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		state := onlySelf()
		b := newBoard(state)
		source := func(context.Context) (scrape.Page, error) { return scrape.Page{Text: "n 1\nm 2\n"}, nil }
		e, _ := start(t, b, func(c *Config) { c.DataTransfer = source })
		configure := func(c *protocol.ComponentMetricsConfiguration) {
			metrics := *state.Metrics
			metrics.DataTransfer = c
			b.mu.Lock()
			b.snapshot = desired.NewSnapshot(desired.State{Metrics: &metrics}, "y")
			b.mu.Unlock()
			b.show() // wakes the engine
			synctest.Wait()
		}
		configure(&protocol.ComponentMetricsConfiguration{Interval: 10, AllowList: &protocol.MetricsAllowList{Names: []string{"n"}}})
		time.Sleep(10*time.Second + time.Millisecond)
		if puts := b.taken(); len(puts) != 1 || text(puts[0].samples) != "n 1, up 1" {
			t.Errorf("another interval and list: put %+v", puts)
		}
		before := e.Status().Targets
		configure(&protocol.ComponentMetricsConfiguration{Interval: 10, AllowList: &protocol.MetricsAllowList{Names: []string{"n"}}})
		if puts := b.taken(); len(puts) > 0 || len(before) != 1 || before[0] != e.Status().Targets[0] {
			t.Errorf("nothing else: put %+v, status %+v, then %+v", puts, before, e.Status().Targets)
		}
		configure(&protocol.ComponentMetricsConfiguration{Interval: 10, AllowList: &protocol.MetricsAllowList{Names: []string{"m"}}})
		time.Sleep(10*time.Second + time.Millisecond)
		puts := b.taken()
		if len(puts) != 2 || text(puts[0].samples) != "n end, up end" || text(puts[1].samples) != "m 2, up 1" {
			t.Errorf("another list: put %+v", puts)
		}
	})
}

// TestReconfiguredWhileBusy waits for the old loop of a target that hangs: two
// would read it at once, and the old one would end what the new one began.
func TestReconfiguredWhileBusy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		state := onlySelf()
		b := newBoard(state)
		busy := false
		var count atomic.Int64
		source := func(context.Context) (scrape.Page, error) {
			if busy {
				t.Error("two scrapes of a target at once")
			}
			busy = true
			defer func() { busy = false }()
			n := count.Add(1)
			if n == 2 {
				time.Sleep(5 * time.Minute) // and hears nothing
			}
			return scrape.Page{Text: fmt.Sprintf("n %d\n", n)}, nil
		}
		start(t, b, func(c *Config) {
			c.DataTransfer, c.Timeout = source, 50*time.Second
		})
		metrics := *state.Metrics
		for _, seconds := range []int32{60, 10, 20} {
			metrics := metrics
			metrics.DataTransfer = &protocol.ComponentMetricsConfiguration{Interval: seconds, AllowList: &protocol.MetricsAllowList{Names: []string{"n"}}}
			b.mu.Lock()
			b.snapshot = desired.NewSnapshot(desired.State{Metrics: &metrics}, "y")
			b.mu.Unlock()
			b.show() // wakes the engine
			for seconds == 60 && count.Load() < 2 {
				time.Sleep(time.Second)
			}
			time.Sleep(30 * time.Second)
		}
		if puts := b.taken(); len(puts) != 1 || text(puts[0].samples) != "n 1, up 1" {
			t.Errorf("while it hangs: put %+v", puts)
		}
		time.Sleep(5 * time.Minute)
		puts := b.taken()
		if len(puts) < 3 || text(puts[0].samples) != "n end, up end" || text(puts[1].samples) != "n 3, up 1" || puts[2].at.Sub(puts[1].at) != 20*time.Second {
			t.Errorf("afterwards: put %+v", puts)
		}
	})
}

// TestCalledOff stops the agent, and takes the target away, in the middle of a
// scrape: neither says that the target is down.
func TestCalledOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBoard(onlySelf())
		n := 0
		source := func(ctx context.Context) (scrape.Page, error) {
			if n++; n%2 == 1 {
				return scrape.Page{Text: "n 1\n"}, nil
			}
			<-ctx.Done()
			return scrape.Page{}, ctx.Err()
		}
		e, stop := start(t, b, func(c *Config) { c.Self, c.Timeout = source, 50*time.Second })
		for len(b.taken()) == 0 {
			time.Sleep(time.Second)
		}
		time.Sleep(61 * time.Second) // the second scrape is under way
		stop()
		if puts := b.taken(); n != 2 || len(puts) > 0 {
			t.Errorf("stopped in scrape %d: put %+v", n, puts)
		}
		if s := e.Status(); !s.Targets[0].Up || s.Targets[0].LastError != "" {
			t.Errorf("stopped: status %+v", s)
		}
		start(t, b, func(c *Config) { c.Self, c.Timeout = source, 50*time.Second })
		for len(b.taken()) == 0 {
			time.Sleep(time.Second)
		}
		time.Sleep(61 * time.Second)
		b.mu.Lock()
		b.snapshot = desired.NewSnapshot(desired.State{}, "y")
		b.mu.Unlock()
		b.show() // wakes the engine
		synctest.Wait()
		if puts := b.taken(); n != 4 || len(puts) != 1 || text(puts[0].samples) != "n end, up end" {
			t.Errorf("taken away in scrape %d: put %+v", n, puts)
		}
	})
}

// TestSlow leaves out the instants that a scrape takes, never overlaps, and calls
// a target down that takes too long.
func TestSlow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBoard(onlySelf())
		var at []time.Time
		busy := false
		source := func(ctx context.Context) (scrape.Page, error) {
			if busy {
				t.Error("two scrapes of a target at once")
			}
			busy = true
			defer func() { busy = false }()
			at = append(at, time.Now())
			if len(at) > 1 {
				return scrape.Page{Text: "n 1\n"}, nil
			}
			<-ctx.Done()
			time.Sleep(2 * time.Minute) // and even then it hangs
			return scrape.Page{}, ctx.Err()
		}
		e, stop := start(t, b, func(c *Config) { c.Self = source })
		time.Sleep(4*time.Minute + time.Second)
		stop()
		if len(at) != 2 || at[1].Sub(at[0]) != 3*time.Minute {
			t.Fatalf("scrapes at %v", at)
		}
		puts := b.taken()
		if len(puts) != 2 || text(puts[0].samples) != "up 0" || text(puts[1].samples) != "n 1, up 1" {
			t.Errorf("put %+v", puts)
		}
		if s := e.Status(); len(s.Targets) != 1 || !s.Targets[0].Up || s.Targets[0].LastError != "" || s.Targets[0].Samples != 1 {
			t.Errorf("status %+v", s)
		}
	})
}

// TestChanged announces that a target goes up or down, and not that it is read.
func TestChanged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBoard(onlySelf())
		n := 0
		e, _ := start(t, b, func(c *Config) {
			c.Self = func(context.Context) (scrape.Page, error) {
				if n++; n == 3 || n == 4 {
					return scrape.Page{}, fmt.Errorf("failure %d", n)
				}
				return scrape.Page{Text: "n 1\n"}, nil
			}
		})
		synctest.Wait()
		for i, want := range []bool{true, false, true, false, true, false} {
			changed := e.Changed()
			time.Sleep(time.Minute)
			got := false
			select {
			case <-changed:
				got = true
			default:
			}
			if s := e.Status().Targets[0]; got != want || s.Up != (i != 2 && i != 3) || (s.LastError == "") != s.Up {
				t.Errorf("scrape %d: announced %t, want %t; status %+v", i+1, got, want, s)
			}
		}
	})
}

// TestRefused counts what the disk has no room for, and goes on.
func TestRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBoard(onlySelf())
		b.refuse = errors.New("no space left")
		source, _ := counting()
		e, _ := start(t, b, func(c *Config) { c.Self = source })
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		s := e.Status()
		if len(s.Targets) != 1 || s.Targets[0].Dropped != 10 || s.Targets[0].DropError != "no space left" || !s.Targets[0].Up {
			t.Errorf("status %+v", s)
		}
		b.mu.Lock()
		b.refuse = nil
		b.mu.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		if puts := b.taken(); len(puts) != 1 || text(puts[0].samples) != "n 3, up 1" {
			t.Errorf("put %+v", puts)
		}
	})
}
