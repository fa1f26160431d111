package remote

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// tolerance is how many failures in a row open the circuit. One call that is
	// repeated makes three, and several are under way at once.
	tolerance = 10
	// firstPause lets a service restart; maxPause is how late its return may be
	// noticed.
	firstPause = time.Second
	maxPause   = 30 * time.Second
)

// errOpen is wrapped by what calls fail with while the circuit is open.
var errOpen = errors.New("service is left alone")

// circuit keeps calls from a service that does not work. Closed, it lets all
// pass; after tolerance failures in a row it is open, and nothing passes for a
// pause; then one call passes as a probe, whose outcome closes it, or opens it
// for a longer pause.
type circuit struct {
	log *slog.Logger

	mu       sync.Mutex
	open     bool
	failures int           // in a row, while closed
	since    time.Time     // of the first of the failures
	reason   string        // of the last of them
	until    time.Time     // while open: end of the pause
	pause    time.Duration // the present one, before jitter
	probing  bool          // while open: the probe is under way
	round    uint64        // changes with open and probing; outcomes of earlier rounds say nothing
	contact  time.Time     // last sign of life
}

func newCircuit(log *slog.Logger) *circuit { return &circuit{log: log} }

// pass is what a call got in with, and reports its outcome to.
type pass struct {
	c     *circuit
	round uint64
}

// enter asks whether a call may be made. The caller reports the outcome to the
// pass, once.
func (c *circuit) enter() (pass, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open {
		if c.probing || time.Now().Before(c.until) {
			return pass{}, c.refusal()
		}
		c.probing = true
		c.round++
	}
	return pass{c: c, round: c.round}, nil
}

// refusal says why calls fail at once.
func (c *circuit) refusal() error {
	return fmt.Errorf("%w until %s, it fails since %s: %s",
		errOpen, c.until.UTC().Format(time.TimeOnly), c.since.UTC().Format(time.RFC3339), c.reason)
}

// answered reports that the service did its part.
func (p pass) answered() {
	c := p.c
	c.mu.Lock()
	c.contact = time.Now()
	if p.round != c.round {
		c.mu.Unlock()
		return
	}
	closed, since := c.open, c.since
	c.open, c.probing, c.failures, c.pause = false, false, 0, 0
	if closed {
		c.round++
	}
	c.mu.Unlock()
	if closed {
		c.log.Info("remote backend works again", "since", since, "duration", time.Since(since))
	}
}

// failed reports that the service did not, and how long it asked to be left
// alone, if it did.
func (p pass) failed(reason error, wish time.Duration) {
	c := p.c
	c.mu.Lock()
	if p.round != c.round {
		c.mu.Unlock()
		return
	}
	if c.failures == 0 && !c.open {
		c.since = time.Now()
	}
	c.failures++
	c.reason = reason.Error()
	opened := !c.open && c.failures >= tolerance
	if opened || c.open {
		c.open, c.probing = true, false
		c.round++
		c.pause = min(max(2*c.pause, firstPause), maxPause)
		c.until = time.Now().Add(max(jitter(c.pause), min(wish, maxPause)))
	}
	failures, since := c.failures, c.since
	c.mu.Unlock()
	if opened {
		c.log.Error("remote backend does not work and is left alone for a while", "since", since, "failures", failures, "err", reason)
	}
}

// abandoned reports that the outcome is not known: whoever asked went away.
func (p pass) abandoned() {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	if p.round == p.c.round {
		p.c.probing = false
	}
}

// State of a circuit, for metrics and readiness.
type circuitState struct {
	open    bool
	due     bool // open, and a probe may be made
	contact time.Time
	err     error // while open
}

func (c *circuit) state() circuitState {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := circuitState{open: c.open, contact: c.contact}
	if c.open {
		s.err = c.refusal()
		s.due = !c.probing && !time.Now().Before(c.until)
	}
	return s
}

// jitter spreads d over three quarters to five quarters of it, so that replicas
// do not act at once.
func jitter(d time.Duration) time.Duration {
	return d*3/4 + rand.N(d/2+1)
}
