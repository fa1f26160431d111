package diskq

import "time"

const (
	// clockStep is how far the wall clock may go astray from the time that passes
	// before that is taken for somebody setting it.
	clockStep = time.Minute
	// implausible is how much older than MaxAge an entry may be. What is older
	// was appended by a clock that was not set, or is looked at by one.
	implausible = 365 * 24 * time.Hour
	maxEpochs   = 16
)

// reading is one look at the clocks: the wall's, which anybody may set, and the
// time that passed since the queue was opened.
type reading struct {
	wall   time.Time
	passed time.Duration
}

// readClock returns a source of readings that begins now. Time in which the
// machine is suspended does not pass.
func readClock() func() reading {
	start := time.Now()
	return func() reading {
		now := time.Now()
		return reading{wall: now.Round(0), passed: now.Sub(start)}
	}
}

// epoch is a time in which the wall clock was not set: at any moment of it, the
// wall clock was at zero plus what had passed.
type epoch struct {
	first uint64 // sequence number of the first entry that may be of it
	zero  time.Time
}

// ages tells how old entries are, on a device whose clock is wrong until there
// is a network. An entry of this process is as old as the time that passed,
// whatever was done to the clock meanwhile. For one of an earlier process it
// asks the slowest clock that this process has seen: when in doubt, an entry is
// young, as MaxBytes bounds the queue in any case.
type ages struct {
	epochs []epoch
	slow   time.Time // the earliest zero
	last   reading
}

// look notes the clocks before an entry numbered next is appended.
func (a *ages) look(r reading, next uint64) {
	a.last = r
	zero := r.wall.Add(-r.passed)
	if n := len(a.epochs); n > 0 && zero.Sub(a.epochs[n-1].zero).Abs() < clockStep {
		return
	}
	if len(a.epochs) == 0 || zero.Before(a.slow) {
		a.slow = zero
	}
	if a.epochs = append(a.epochs, epoch{first: next, zero: zero}); len(a.epochs) > maxEpochs {
		a.epochs = a.epochs[1:]
	}
}

// age returns how old the entry is that was appended at the time at of the wall
// clock. It is negative when the clock says that the entry comes from the future.
func (a *ages) age(seq uint64, at time.Time) time.Duration {
	zero := a.slow
	for _, e := range a.epochs {
		if e.first <= seq {
			zero = e.zero
		}
	}
	return zero.Add(a.last.passed).Sub(at)
}

// tooOld reports whether the entry is beyond maxAge; 0: never.
func (a *ages) tooOld(seq uint64, at time.Time, maxAge time.Duration) bool {
	age := a.age(seq, at)
	return maxAge > 0 && age > maxAge && age-maxAge < implausible
}
