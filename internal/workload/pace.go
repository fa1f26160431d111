package workload

import (
	"context"
	"math/rand/v2"
	"time"
)

// limit bounds how many do something at once.
type limit chan struct{}

func (l limit) acquire(ctx context.Context) error {
	select {
	case l <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l limit) release() { <-l }

// jitter returns d, up to a fifth shorter or longer, so that many devices that
// failed together do not come back together.
func jitter(d time.Duration) time.Duration {
	return d + time.Duration((rand.Float64()-0.5)*0.4*float64(d))
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(max(1, d))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// retry is the memory of a target that failed. It belongs to one digest: a new
// one starts without a past.
type retry struct {
	digest   string
	failures int
	next     time.Time
	last     failure
	healed   bool // the last attempt worked; the pause is for its not lasting
	// disruptive says that the last attempt took down what ran before.
	disruptive bool
	// rolledBack says that what ran before then ran again.
	rolledBack bool
}

// pending reports whether something waits to be tried again.
func (t *retry) pending() bool { return t.failures > 0 && !t.healed }

// fail notes a failure of digest and returns the pause until the next attempt.
func (t *retry) fail(digest string, f failure, shortest, longest time.Duration) time.Duration {
	if t.digest != digest {
		*t = retry{digest: digest}
	}
	pause := longest
	if t.failures < 20 { // beyond it, shifting would overflow
		pause = min(shortest<<t.failures, longest)
	}
	pause = jitter(pause)
	t.failures++
	t.last, t.healed, t.disruptive, t.rolledBack = f, false, false, false
	t.next = time.Now().Add(pause)
	return pause
}
