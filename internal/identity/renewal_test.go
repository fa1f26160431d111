package identity

import (
	"crypto/x509"
	"math/big"
	"testing"
	"time"
)

// leafOf returns a certificate of that validity; number makes it another one.
func leafOf(from, to time.Time, number int64) *x509.Certificate {
	return &x509.Certificate{NotBefore: from, NotAfter: to, Raw: big.NewInt(number).Bytes()}
}

const day = 24 * time.Hour

func same(d time.Duration) time.Duration { return d }

func TestDueIsSpreadOverTheFleet(t *testing.T) {
	t.Parallel()
	from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	to := from.Add(300 * day)
	first, last := to, from
	seen := map[time.Time]int{}
	for n := range int64(2000) {
		due := dueAt(leafOf(from, to, n+1), defaultRenewAt)
		if again := dueAt(leafOf(from, to, n+1), defaultRenewAt); !again.Equal(due) {
			t.Fatal("the same certificate is due at two times")
		}
		if due.Before(first) {
			first = due
		}
		if due.After(last) {
			last = due
		}
		seen[due.Truncate(day)]++
	}
	if first.Sub(from) < 200*day || last.Sub(from) > 231*day {
		t.Errorf("due between day %d and day %d of 300, want 200 to 230", first.Sub(from)/day, last.Sub(from)/day)
	}
	for on, n := range seen {
		if n > 120 { // 67 on average
			t.Errorf("%d of 2000 devices renew on %s", n, on)
		}
	}
	// However late the setting: there is time left for failures.
	if late := dueAt(leafOf(from, to, 7), maxRenewAt); to.Sub(late) < 9*day {
		t.Errorf("only %s left at the latest setting", to.Sub(late))
	}
}

func TestWait(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, c := range map[string]struct {
		leaf *x509.Certificate
		want time.Duration
	}{
		"fresh":         {leafOf(now.Add(-day), now.Add(30*day), 1), lookAgain},
		"due":           {leafOf(now.Add(-28*day), now.Add(2*day), 1), 0},
		"expired":       {leafOf(now.Add(-30*day), now.Add(-time.Second), 1), 0},
		"not yet valid": {leafOf(now.Add(day), now.Add(31*day), 1), lookAgain},
		"nonsense":      {leafOf(now.Add(day), now.Add(-day), 1), 0},
		"for ever":      {leafOf(time.Time{}, time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC), 1), 0},
		"at 1970":       {leafOf(time.Unix(0, 0), time.Unix(1, 0), 1), 0},
	} {
		var r renewal
		if name == "for ever" {
			_ = r.wait(now, c.leaf, defaultRenewAt) // no panic is all that is asked
			continue
		}
		if got := r.wait(now, c.leaf, defaultRenewAt); got != c.want {
			t.Errorf("%s: wait %s, want %s", name, got, c.want)
		}
	}
}

func TestPausesAfterFailuresGrowAndShrinkTowardsTheEnd(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, c := range map[string]struct {
		left time.Duration
		last time.Duration // pause that is reached
	}{
		"ten days left": {10 * day, maxPause},
		"hours left":    {4 * time.Hour, 30 * time.Minute},
		"minutes left":  {10 * time.Minute, latePause},
		"expired":       {-day, latePause},
	} {
		var r renewal
		leaf := leafOf(now.Add(-30*day), now.Add(c.left), 1)
		var before time.Duration
		for n := range 100 {
			r.failed(now, leaf, same)
			pause := r.retry.Sub(now)
			if n == 0 && pause != firstPause || pause < before || pause > c.last {
				t.Fatalf("%s: pause %d is %s after %s", name, n, pause, before)
			}
			if got := r.wait(now, leaf, defaultRenewAt); got != min(pause, lookAgain) {
				t.Fatalf("%s: wait %s, want the pause %s", name, got, pause)
			}
			before = pause
		}
		if before != c.last {
			t.Errorf("%s: longest pause %s, want %s", name, before, c.last)
		}
	}
}

func TestASuccessIsNotRepeatedWhateverTheClockSays(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, leaf := range map[string]*x509.Certificate{
		"clock far ahead": leafOf(now.Add(-400*day), now.Add(-370*day), 1),
		"ends soon":       leafOf(now.Add(-day), now.Add(time.Minute), 1),
		"nonsense":        leafOf(now.Add(day), now.Add(-day), 1),
	} {
		var r renewal
		r.failed(now, leaf, same)
		r.succeeded(now, leaf)
		if got := r.wait(now, leaf, defaultRenewAt); got < firstPause {
			t.Errorf("%s: renewed again after %s", name, got)
		}
	}
	// A right clock is not held up.
	var r renewal
	leaf := leafOf(now.Add(-day), now.Add(30*day), 1)
	r.succeeded(now, leaf)
	if due := dueAt(leaf, defaultRenewAt); r.settled.After(due) {
		t.Errorf("settled until %s, due at %s", r.settled, due)
	}
}

func TestRefusalsAreRateLimited(t *testing.T) {
	t.Parallel()
	now := time.Now()
	leaf := leafOf(now.Add(-day), now.Add(30*day), 1)
	var r renewal
	renewals := 0
	for end := now.Add(day); now.Before(end); now = now.Add(10 * time.Second) {
		if r.refused(now) {
			renewals++
			r.succeeded(now, leaf) // and it is refused all the same
		}
	}
	if renewals < 20 || renewals > 32 {
		t.Errorf("%d renewals in a day for a server that refuses what it issues, want about one in an hour", renewals)
	}
	now = now.Add(3 * day)
	if !r.refused(now) {
		t.Error("not renewed after days without a refusal")
	}
	if r.refused(now.Add(firstPause / 2)) {
		t.Error("renewed twice within a minute")
	}
	if !r.refused(now.Add(firstPause)) {
		t.Error("a second refusal is not heard after the first pause")
	}
	var f renewal
	f.failed(now, leaf, same)
	if f.refused(now.Add(firstPause / 2)) {
		t.Error("a refusal shortens the pause after a failure")
	}
}
