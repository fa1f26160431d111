package heartbeat

import "time"

// outcome is what became of a beat.
type outcome int

const (
	accepted    outcome = iota
	refused             // the control plane answered with an error
	unreachable         // nothing can have arrived
)

// pace decides when the next beat is due. It is only a value: it waits for
// nothing.
type pace struct {
	last     time.Time // end of the last beat
	due      time.Time
	failures int
}

// after takes the outcome of the beat that ended at now.
func (p *pace) after(now time.Time, o outcome, period time.Duration, jitter func(time.Duration) time.Duration) {
	p.last = now
	if o == accepted {
		p.failures = 0
		p.due = now.Add(period)
		return
	}
	// Doubling stops far below the overflow.
	retry := firstRetry << min(p.failures, 10)
	p.failures++
	limit := maxRetry
	if o == unreachable {
		limit = maxUnreachable
	}
	p.due = now.Add(jitter(min(retry, limit)))
}

// news brings the next beat forward, except after failures: then there is
// nobody to tell.
func (p *pace) news(now time.Time) {
	if p.failures > 0 {
		return
	}
	soon := now.Add(settle)
	if first := p.last.Add(minGap); soon.Before(first) {
		soon = first
	}
	if soon.Before(p.due) {
		p.due = soon
	}
}

// period applies a changed period from the last beat on.
func (p *pace) period(d time.Duration) {
	if p.failures == 0 {
		p.due = p.last.Add(d)
	}
}
