package identity

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"time"
)

const (
	firstPause = time.Minute // after the first failure; doubled after each more
	maxPause   = time.Hour
	// latePause bounds the pauses of a certificate that is about to end or has
	// ended: the device is lost to its control plane until it has another one.
	latePause = 5 * time.Minute
	// lookAgain is how often the clock is asked whether a renewal is due: it
	// may be set at any time, and a timer does not notice.
	lookAgain = 10 * time.Minute
	// A fleet that was delivered on one day renews within this part of the
	// certificates' life time, or a third of what is left of it.
	spread = 0.1
	// overtaken is how long after a renewal a refusal is taken for one of the
	// certificate before: of a message that was on its way meanwhile.
	overtaken = 15 * time.Second
	// calm is how long after the last refused certificate a refusal is taken
	// for the first one again.
	calm = 24 * time.Hour
)

// renewal decides when the certificate is renewed. It is only a value: it waits
// for nothing. Its own times are of the monotonic clock; the end of a
// certificate is of the wall clock, which may be wrong.
type renewal struct {
	failures int
	retry    time.Time // not before, after failures
	settled  time.Time // not before, by the clock; since the last success

	refusals  int       // renewals because of a refusal, lately
	listening time.Time // no refusal counts before
}

// wait returns how long nothing is to be done for leaf, at most lookAgain; zero:
// it is to be renewed now. At is the part of the life time.
func (r *renewal) wait(now time.Time, leaf *x509.Certificate, at float64) time.Duration {
	due := dueAt(leaf, at).Sub(now) // a wall-clock time: monotonic readings do not count
	due = max(due, r.settled.Sub(now), r.retry.Sub(now), 0)
	return min(due, lookAgain)
}

// refused takes that the control plane refused the certificate, and reports
// whether it is to be renewed at once.
func (r *renewal) refused(now time.Time) bool {
	if now.Before(r.listening) || now.Before(r.retry) {
		return false
	}
	if now.Sub(r.listening) > calm {
		r.refusals = 0
	}
	// A server that refuses what it issues is not asked more often for that.
	r.listening = now.Add(double(firstPause, r.refusals, maxPause))
	r.refusals++
	return true
}

// failed takes a failure; vary jitters a pause.
func (r *renewal) failed(now time.Time, leaf *x509.Certificate, vary func(time.Duration) time.Duration) {
	limit := min(max(leaf.NotAfter.Sub(now)/8, latePause), maxPause)
	r.retry = now.Add(vary(double(firstPause, r.failures, limit)))
	r.failures++
}

// succeeded takes that leaf is in place since now. By a wrong clock it may look
// as if it were to be renewed at once; it is not, for a third of its life.
func (r *renewal) succeeded(now time.Time, leaf *x509.Certificate) {
	r.failures, r.retry = 0, time.Time{}
	life := leaf.NotAfter.Sub(now)
	if life <= 0 {
		life = leaf.NotAfter.Sub(leaf.NotBefore)
	}
	r.settled = now.Add(max(life/3, firstPause))
	if soon := now.Add(overtaken); r.listening.Before(soon) {
		r.listening = soon
	}
}

// double returns first, doubled n times, at most limit.
func double(first time.Duration, n int, limit time.Duration) time.Duration {
	return min(first<<min(n, 10), limit) // ten doublings are far below the overflow
}

// dueAt returns the time of the renewal: the same for one certificate, however
// often the agent starts, and another one for each certificate.
func dueAt(leaf *x509.Certificate, at float64) time.Time {
	life := float64(leaf.NotAfter.Sub(leaf.NotBefore))
	sum := sha256.Sum256(leaf.Raw)
	share := float64(binary.BigEndian.Uint32(sum[:])) / (1 << 32)
	return leaf.NotBefore.Add(time.Duration(life * (at + share*min(spread, (1-at)/3))))
}
