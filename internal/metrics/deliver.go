package metrics

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/project-flotta/flotta-agent/internal/metrics/remotewrite"
	"github.com/project-flotta/flotta-agent/internal/metrics/series"
)

const (
	// maxRequestBytes is when a request is full, before compression.
	maxRequestBytes = 2 << 20
	maxEntries      = 4096 // in a request
	firstReach      = 16   // entries that are read for the first request

	backlogEvery = time.Second     // for full requests, but for what grows fast:
	backlogSpeed = 8               // so many times as fast as it grew, it is sent at least
	restAtMost   = 5 * time.Second // between them, however slow the line
	freshEvery   = 5 * time.Second // for requests when nothing is left to catch up
	splitAfter   = 30 * time.Millisecond
	backOffFirst = 30 * time.Millisecond
	backOffMost  = 5 * time.Minute
	hurriedMost  = time.Second // of a pause after a failure, while somebody waits for the end
)

// delivery sends what is in the spool to one receiver.
type delivery struct {
	e     *Engine
	to    sender
	most  int // samples in a request
	batch remotewrite.Batch

	reach   int // entries to read for the next request
	limit   int // entries that a request may have, less after a complaint
	ceiling int // of limit, less on a slow line

	newest   time.Time // when the last entry was put that is dealt with; zero: none is
	head     uint64    // the entry that offset is about
	offset   int       // samples of it that are dealt with
	failures int       // in a row
	refusals int       // in a row
}

// deliver sends until the context ends.
func (e *Engine) deliver(ctx context.Context, r receiver) {
	var to sender
	var err error
	if r.url != "" {
		to, err = e.cfg.connect(remotewrite.Config{URL: r.url, CA: []byte(r.ca), Timeout: r.timeout, UserAgent: e.cfg.UserAgent})
	}
	e.problem(ReasonReceiverInvalid, err)
	e.problem(ReasonReceiverRefuses, nil)
	e.problem(ReasonTooOld, nil)
	if err != nil || to == nil {
		e.update(func(s *Status) { s.Receiver, s.LastError, s.FailingSince = "", "", time.Time{} })
		<-ctx.Done()
		return
	}
	defer to.Close()
	e.update(func(s *Status) { s.Receiver, s.LastError, s.FailingSince = to.Address(), "", time.Time{} })
	d := &delivery{e: e, to: to, most: r.samples, reach: firstReach, limit: maxEntries, ceiling: maxEntries}
	for ctx.Err() == nil {
		d.step(ctx)
	}
}

// request is what a batch holds of the spool.
type request struct {
	entries int
	last    uint64        // newest entry of it
	put     time.Time     // when that was put
	span    time.Duration // in which it grew, from the request before on
	part    bool          // there is more of the one entry in it
	damaged []uint64      // entries of it that could not be decoded
	more    bool          // there is more that waits
}

// step makes one request, or waits for there to be something to send.
func (d *delivery) step(ctx context.Context) {
	wake := d.e.spool().Wait()
	r, err := d.fill()
	if err != nil {
		d.e.cfg.Log.Error("spool of metrics not read", "err", err)
		d.failures++
		d.e.pause(ctx, backOff(d.failures), hurriedMost)
		return
	}
	if r.entries == 0 {
		select {
		case <-wake:
		case <-ctx.Done():
		}
		return
	}
	if d.batch.Samples() == 0 { // nothing of it was readable
		d.ack(r)
		return
	}
	began := time.Now()
	answer := d.to.Send(ctx, d.batch.Encode())
	if answer.Outcome == remotewrite.Failed && ctx.Err() != nil {
		return // nobody waited for the answer
	}
	d.settle(ctx, r, answer, time.Since(began))
}

// fill makes a request of the oldest entries: whole ones, or a part of the first
// when that alone is too large.
func (d *delivery) fill() (request, error) {
	d.batch.Reset()
	n := min(d.reach, d.limit)
	entries, err := d.e.spool().Read(n)
	if err != nil {
		return request{}, err
	}
	r := request{more: len(entries) == n, span: backlogSpeed * backlogEvery}
	for _, entry := range entries {
		samples, err := series.Decode(entry.Data)
		if err != nil {
			r.damaged = append(r.damaged, entry.Seq)
			samples = nil
		}
		if r.entries == 0 {
			samples, r.part = d.rest(entry.Seq, samples)
		} else if d.batch.Samples()+len(samples) > d.most || d.batch.Bytes() >= maxRequestBytes {
			r.more = true
			break
		}
		d.batch.Add(samples)
		r.entries, r.last, r.put = r.entries+1, entry.Seq, entry.Time
		if !d.newest.IsZero() {
			r.span = entry.Time.Sub(d.newest)
		}
		if r.part {
			r.more = true
			break
		}
	}
	if r.entries == n {
		d.reach = min(2*d.reach, maxEntries)
	} else {
		d.reach = max(firstReach, r.entries+r.entries/4)
	}
	return r, nil
}

// rest returns what is left of the oldest entry, at most a request.
func (d *delivery) rest(seq uint64, samples []series.Sample) (rest []series.Sample, part bool) {
	if d.head != seq {
		d.head, d.offset = seq, 0
	}
	rest = samples[min(d.offset, len(samples)):]
	if len(rest) > d.most {
		return rest[:d.most], true
	}
	return rest, false
}

// settle does what an answer asks for, and pauses.
func (d *delivery) settle(ctx context.Context, r request, a remotewrite.Answer, took time.Duration) {
	e, n := d.e, uint64(d.batch.Samples()) //nolint:gosec // a count
	if a.Outcome == remotewrite.Failed {
		d.failures++
		d.slower(r, a)
		e.update(func(s *Status) {
			s.Failed, s.LastError = s.Failed+1, a.Err.Error()
			if s.FailingSince.IsZero() {
				s.FailingSince = time.Now()
			}
		})
		e.pause(ctx, max(a.RetryAfter, backOff(d.failures)), hurriedMost)
		return
	}
	d.failures = 0
	rest := min(took, restAtMost)
	if r.entries > 1 && (a.Outcome == remotewrite.OutOfOrder || a.Outcome == remotewrite.TooOld || a.Outcome == remotewrite.Malformed) {
		d.limit = r.entries / 2
		e.pause(ctx, max(splitAfter, rest), 0)
		return
	}
	d.done(r)
	e.update(func(s *Status) {
		s.LastError, s.FailingSince, s.Delivered = "", time.Time{}, r.put
		switch a.Outcome {
		case remotewrite.Delivered:
			s.Sent, s.LastSuccess = s.Sent+n, time.Now()
		case remotewrite.OutOfOrder:
			s.Replayed += n
		case remotewrite.TooOld:
			s.TooOld, s.LastError = s.TooOld+n, a.Err.Error()
		default:
			s.Refused, s.LastError = s.Refused+n, a.Err.Error()
		}
	})
	switch a.Outcome {
	case remotewrite.Delivered:
		d.limit = min(2*d.limit, d.ceiling)
		d.ceiling = min(d.ceiling+max(1, d.ceiling/8), maxEntries)
		d.refusals = 0
		e.problem(ReasonReceiverRefuses, nil)
		e.problem(ReasonTooOld, nil)
		if !r.more && !r.part {
			e.pause(ctx, freshEvery, 0)
			return
		}
		every := min(backlogEvery, r.span/backlogSpeed) // less than nothing when the clock was set
		e.pause(ctx, max(every-took, rest), 0)
	case remotewrite.Refused:
		// Whoever takes nothing at all is asked less and less often, so that
		// little is lost until somebody mends it.
		d.refusals++
		e.problem(ReasonReceiverRefuses, a.Err)
		after := backOff(d.refusals)
		e.pause(ctx, after, after) // nobody is in a hurry to lose more
	default:
		if a.Outcome == remotewrite.TooOld {
			e.problem(ReasonTooOld, a.Err)
		}
		e.pause(ctx, max(splitAfter, rest), 0)
	}
}

// slower makes requests smaller on a line that does not carry them in time.
func (d *delivery) slower(r request, a remotewrite.Answer) {
	if a.Slow {
		d.ceiling = max(1, r.entries/2)
		d.limit = min(d.limit, d.ceiling)
	}
}

// done takes what was dealt with off the spool.
func (d *delivery) done(r request) {
	d.newest = r.put
	if r.part {
		d.offset += d.batch.Samples()
		return
	}
	d.ack(r)
}

func (d *delivery) ack(r request) {
	if len(r.damaged) > 0 {
		// They are intact on the disk: another version of the agent wrote them.
		d.e.cfg.Log.Error("metrics in the spool are not readable, dropped", "entries", r.damaged)
		d.e.update(func(s *Status) { s.Damaged += uint64(len(r.damaged)) })
	}
	if err := d.e.spool().Ack(r.last); err != nil {
		// It is acknowledged in memory; after a crash it is sent again.
		d.e.cfg.Log.Warn("delivery of metrics not recorded", "err", err)
	}
}

// backOff returns the pause after so many failures in a row: by chance up to
// 30 ms, doubled each time up to 5 minutes, and 30 ms more. It is by chance so
// that a fleet does not come back as one.
func backOff(failures int) time.Duration {
	most := backOffMost
	if shift := failures - 1; shift < 14 {
		most = min(most, backOffFirst<<shift)
	}
	return backOffFirst + rand.N(most)
}

// pause waits; no longer than hurried while somebody is in Flush.
func (e *Engine) pause(ctx context.Context, d, hurried time.Duration) {
	if d <= 0 {
		return
	}
	e.mu.Lock()
	hurry := e.hurry
	e.mu.Unlock()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return
	case <-ctx.Done():
		return
	case <-hurry:
	}
	if hurried = min(hurried, d); hurried <= 0 {
		return
	}
	short := time.NewTimer(hurried)
	defer short.Stop()
	select {
	case <-timer.C:
	case <-short.C:
	case <-ctx.Done():
	}
}
