package remote

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var errDown = errors.New("it is down")

func openCircuit(t *testing.T) *circuit {
	t.Helper()
	c := newCircuit(slog.New(slog.DiscardHandler))
	for range tolerance {
		p, err := c.enter()
		must(t, err)
		p.failed(errDown, 0)
	}
	return c
}

func TestCircuitOpensAfterFailuresInARow(t *testing.T) {
	t.Parallel()
	c := newCircuit(slog.New(slog.DiscardHandler))
	for i := range 10 * tolerance {
		p, err := c.enter()
		must(t, err)
		if i%tolerance == tolerance-1 {
			p.answered()
		} else {
			p.failed(errDown, 0)
		}
	}
	if c = openCircuit(t); !c.state().open {
		t.Fatal("closed after failures in a row")
	}
	_, err := c.enter()
	if !errors.Is(err, errOpen) || !strings.Contains(err.Error(), errDown.Error()) {
		t.Errorf("error is %v", err)
	}
}

func TestCircuitPausesLongerEveryTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := openCircuit(t)
		for want := firstPause; ; want = min(2*want, maxPause) {
			start := time.Now()
			p, err := c.enter()
			for ; err != nil; p, err = c.enter() {
				time.Sleep(time.Millisecond)
			}
			took := time.Since(start)
			if took < want*3/4 || took > want*5/4+2*time.Millisecond {
				t.Errorf("probe after %s, want about %s", took, want)
			}
			if _, err := c.enter(); !errors.Is(err, errOpen) {
				t.Errorf("a second call beside the probe: %v", err)
			}
			if want == maxPause {
				p.answered()
				break
			}
			p.failed(errDown, 0)
		}
		if c.state().open {
			t.Error("open after a probe that was answered")
		}
		// The next trouble begins with a short pause.
		for range tolerance {
			p, err := c.enter()
			must(t, err)
			p.failed(errDown, 0)
		}
		time.Sleep(firstPause * 5 / 4)
		if _, err := c.enter(); err != nil {
			t.Errorf("after the pause: %v", err)
		}
	})
}

func TestCircuitGrantsAWish(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := openCircuit(t)
		time.Sleep(2 * firstPause)
		p, err := c.enter()
		must(t, err)
		p.failed(errDown, time.Hour)
		time.Sleep(maxPause - time.Second)
		if _, err := c.enter(); err == nil {
			t.Error("asked before the time that the service named")
		}
		time.Sleep(time.Second)
		if _, err := c.enter(); err != nil {
			t.Errorf("an hour was granted: %v", err)
		}
	})
}

func TestCircuitAbandonedProbe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := openCircuit(t)
		time.Sleep(2 * firstPause)
		p, err := c.enter()
		must(t, err)
		p.abandoned()
		p, err = c.enter()
		must(t, err)
		p.answered()
		if c.state().open {
			t.Error("still open")
		}
	})
}

// TestCircuitLateOutcomes: a call from before says nothing about now.
func TestCircuitLateOutcomes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCircuit(slog.New(slog.DiscardHandler))
		late, err := c.enter()
		must(t, err)
		for range tolerance {
			p, err := c.enter()
			must(t, err)
			p.failed(errDown, 0)
		}
		late.answered()
		late.failed(errDown, 0)
		late.abandoned()
		if !c.state().open {
			t.Error("closed by a call from before")
		}
		time.Sleep(2 * firstPause)
		p, err := c.enter()
		must(t, err)
		late.failed(errDown, 0)
		late.abandoned()
		if _, err := c.enter(); err == nil {
			t.Error("a second probe")
		}
		p.answered()
		if c.state().open {
			t.Error("still open")
		}
	})
}

func TestLRU(t *testing.T) {
	t.Parallel()
	l := newLRU[int, string](10)
	put := func(k, weight int) { l.update(k, func(string) (string, int) { return "x", weight }) }
	put(1, 4)
	put(2, 4)
	l.get(1)
	put(3, 4)
	if _, ok := l.get(2); ok {
		t.Error("the one not used for longest is still there")
	}
	if _, ok := l.get(1); !ok {
		t.Error("one in use was forgotten")
	}
	put(4, 11)
	if _, ok := l.get(4); ok {
		t.Error("one that is too heavy was kept")
	}
	put(5, 6)
	put(5, 2)
	l.remove(5)
	l.remove(5)
	if l.used != 0 || l.order.Len() != 0 || len(l.items) != 0 {
		t.Errorf("used %d, %d in order, %d items; want none", l.used, l.order.Len(), len(l.items))
	}
}
