package metrics

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/project-flotta/flotta-agent/internal/metrics/remotewrite"
	"github.com/project-flotta/flotta-agent/internal/metrics/series"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// bubble runs a test on the clock of its own, with an engine whose line is d.
func bubble(t *testing.T, d *database, told protocol.MetricsConfiguration, f func(t *testing.T, b *bench)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(27 * 365 * 24 * time.Hour) // from 2000 to a year in which clocks are set
		f(t, newBench(t, d.connect, told))
	})
}

func requestsOf(n int64) protocol.MetricsConfiguration {
	m := to("http://database/")
	m.Receiver.RequestNumSamples = n
	return m
}

var errAnswer = errors.New("answer of the test")

// TestPoisonIsFound has two scrapes among a hundred that the receiver does not
// want, and refuses every request that one of them is in.
func TestPoisonIsFound(t *testing.T) {
	d := &database{answer: func(samples []series.Sample) *remotewrite.Answer {
		if slices.ContainsFunc(samples, func(s series.Sample) bool { return s.Value == 37 || s.Value == 38 }) {
			return &remotewrite.Answer{Outcome: remotewrite.Malformed, Err: errAnswer}
		}
		return nil
	}}
	bubble(t, d, requestsOf(30_000), func(t *testing.T, b *bench) {
		for n := range 100 {
			b.put(scrapeOf("a", n, 3)...)
		}
		b.run()
		b.flush()
		d.has(t, "a", 3, slices.DeleteFunc(numbers(0, 100), func(n int) bool { return n == 37 || n == 38 }))
		if s := b.engine.Status(); s.Sent != 3*98 || s.Refused != 6 || s.LastError != "" {
			t.Errorf("status %+v", s)
		}
		if requests, _ := d.count(); requests > 40 {
			t.Errorf("%d requests", requests)
		}
	})
}

// TestNothingIsLiked has a receiver that likes no scrape: each of them is asked
// for alone once, and requests have pauses between them.
func TestNothingIsLiked(t *testing.T) {
	d := &database{answer: func([]series.Sample) *remotewrite.Answer {
		return &remotewrite.Answer{Outcome: remotewrite.TooOld, Err: errAnswer}
	}}
	bubble(t, d, requestsOf(30_000), func(t *testing.T, b *bench) {
		for n := range 200 {
			b.put(scrapeOf("a", n, 3)...)
		}
		began := time.Now()
		b.run()
		for b.engine.Status().Queue.Entries > 0 {
			<-b.engine.Changed()
		}
		requests, _ := d.count()
		if spent := time.Since(began); requests > 210 || spent < 200*splitAfter || spent > time.Minute {
			t.Errorf("%d requests in %s", requests, spent)
		}
		s := b.engine.Status()
		if s.TooOld != 600 || s.LastError == "" || len(s.Problems) != 1 || s.Problems[0].Reason != ReasonTooOld {
			t.Errorf("status %+v", s)
		}
		d.mu.Lock()
		d.answer = nil
		d.mu.Unlock()
		b.put(scrapeOf("a", 200, 3)...)
		b.flush()
		synctest.Wait()
		if s := b.engine.Status(); s.Sent != 3 || len(s.Problems) != 0 || s.LastError != "" {
			t.Errorf("status %+v", s)
		}
	})
}

// TestLostAnswers loses the answer to every other request, after which the next
// one holds more than what was taken: all of it arrives once.
func TestLostAnswers(t *testing.T) {
	lost := 0
	d := &database{after: func(a remotewrite.Answer) remotewrite.Answer {
		if lost++; a.Outcome == remotewrite.Delivered && lost%2 == 1 {
			return remotewrite.Answer{Outcome: remotewrite.Failed, Err: errAnswer}
		}
		return a
	}}
	bubble(t, d, requestsOf(30_000), func(t *testing.T, b *bench) {
		b.run()
		for n := range 300 {
			b.put(scrapeOf("a", n, 3)...)
			b.put(scrapeOf("b", n, 5)...)
			if n%10 == 0 {
				time.Sleep(2 * time.Second)
			}
		}
		b.flush()
		d.has(t, "a", 3, numbers(0, 300))
		d.has(t, "b", 5, numbers(0, 300))
		if s := b.engine.Status(); s.Failed == 0 || s.Replayed == 0 || s.Refused+s.TooOld != 0 {
			t.Errorf("status %+v", s)
		}
	})
}

// TestBacklogIsCaughtUp has a device back after a day offline. It goes on
// scraping 6 targets each minute, over a line that takes 200 ms for a request.
func TestBacklogIsCaughtUp(t *testing.T) {
	const targets, each = 6, 10
	d := &database{delay: 200 * time.Millisecond}
	bubble(t, d, requestsOf(900), func(t *testing.T, b *bench) { // a request is 15 minutes of scrapes
		n := 0
		scrape := func() {
			for target := range targets {
				b.put(scrapeOf(fmt.Sprint(target), n, each)...)
			}
			n++
		}
		for range 24 * 60 {
			time.Sleep(time.Minute)
			scrape()
		}
		began := time.Now()
		b.run()
		for b.engine.Status().Queue.Entries > 0 {
			time.Sleep(time.Minute)
			scrape()
			synctest.Wait()
			if requests, _ := d.count(); requests > int(time.Since(began)/time.Second) {
				t.Fatalf("%d requests in %s", requests, time.Since(began))
			}
			if time.Since(began) > 2*time.Hour {
				t.Fatalf("after %s: %+v", time.Since(began), b.engine.Status())
			}
			time.Sleep(10 * time.Second) // for the last scrape
		}
		t.Logf("caught up after %s", time.Since(began))
		for target := range targets {
			d.has(t, fmt.Sprint(target), each, numbers(0, n))
		}
		if d.largest > 900 {
			t.Errorf("a request of %d samples", d.largest)
		}
	})
}

// TestManySeries has twice as much to send in a second as a request may have.
func TestManySeries(t *testing.T) {
	const targets, each = 20, 500
	d := &database{delay: 20 * time.Millisecond}
	bubble(t, d, requestsOf(targets*each/2), func(t *testing.T, b *bench) {
		b.run()
		const seconds = 60
		for n := range seconds {
			for target := range targets {
				b.put(scrapeOf(fmt.Sprint(target), n, each)...)
			}
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if waits := b.engine.Status().Queue.Entries; waits > 10*targets {
			t.Errorf("%d scrapes wait, of %d", waits, seconds*targets)
		}
	})
}

// TestSlowLineIsShared has a line that takes 4 seconds for a request: half of the
// time it is free.
func TestSlowLineIsShared(t *testing.T) {
	d := &database{delay: 4 * time.Second}
	bubble(t, d, requestsOf(10), func(t *testing.T, b *bench) {
		for n := range 300 {
			b.put(scrapeOf("a", n, 10)...)
		}
		b.run()
		time.Sleep(8 * 60 * time.Second)
		if requests, _ := d.count(); requests < 55 || requests > 61 {
			t.Errorf("%d requests in 8 minutes", requests)
		}
	})
}

// TestLineTooSlowForLargeRequests gives up requests that take too long until they
// are small enough.
func TestLineTooSlowForLargeRequests(t *testing.T) {
	d := &database{answer: func(samples []series.Sample) *remotewrite.Answer {
		if len(samples) > 100 {
			return &remotewrite.Answer{Outcome: remotewrite.Failed, Slow: true, Err: errAnswer}
		}
		return nil
	}}
	bubble(t, d, requestsOf(30_000), func(t *testing.T, b *bench) {
		for n := range 1000 {
			b.put(scrapeOf("a", n, 5)...)
		}
		b.run()
		for b.engine.Status().Queue.Entries > 0 {
			<-b.engine.Changed()
		}
		d.has(t, "a", 5, numbers(0, 1000))
		requests, _ := d.count()
		if failed := b.engine.Status().Failed; failed > 20 || requests > 100+int(failed) {
			t.Errorf("%d requests, %d failed", requests, failed)
		}
	})
}

func TestFreshSamplesGoTogether(t *testing.T) {
	d := &database{}
	bubble(t, d, requestsOf(30_000), func(t *testing.T, b *bench) {
		b.run()
		for n := range 60 {
			b.put(scrapeOf("a", n, 3)...)
			time.Sleep(time.Second)
			synctest.Wait()
			if late := b.engine.Status().Queue.Entries; late > 5 {
				t.Fatalf("%d scrapes wait", late)
			}
		}
		if requests, _ := d.count(); requests > 13 {
			t.Errorf("%d requests in a minute", requests)
		}
	})
}

// TestBackOff looks at the pauses between failures, and at those that the
// receiver asks for.
func TestBackOff(t *testing.T) {
	var at []time.Time
	after := time.Duration(0)
	d := &database{answer: func([]series.Sample) *remotewrite.Answer {
		at = append(at, time.Now())
		return &remotewrite.Answer{Outcome: remotewrite.Failed, RetryAfter: after, Err: errAnswer}
	}}
	bubble(t, d, requestsOf(30_000), func(t *testing.T, b *bench) {
		b.put(scrapeOf("a", 0, 3)...)
		b.run()
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		// Five minutes at most, half of that on the average.
		if n := len(at); n < 24*12 || n > 24*40 || at[5].Sub(at[0]) > 3*time.Second {
			t.Errorf("%d requests in a day, the first five in %s", n, at[5].Sub(at[0]))
		}
		for i := 1; i < len(at); i++ {
			if pause := at[i].Sub(at[i-1]); pause > 5*time.Minute+time.Second || pause < backOffFirst {
				t.Errorf("a pause of %s", pause)
			}
		}
		d.mu.Lock()
		at, after = nil, 10*time.Minute
		d.mu.Unlock()
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if n := len(at); n < 11 || n > 13 {
			t.Errorf("%d requests in two hours, with ten minutes asked for", n)
		}
		d.mu.Lock()
		d.answer = nil
		d.mu.Unlock()
		began := time.Now()
		b.flush() // does not wait for the end of the pause
		if spent := time.Since(began); spent > 2*time.Second {
			t.Errorf("flushed after %s", spent)
		}
		d.has(t, "a", 3, numbers(0, 1))
	})
}

// TestRefusalsLoseLittle has a receiver that answers 403 for hours until somebody
// mends its configuration.
func TestRefusalsLoseLittle(t *testing.T) {
	d := &database{answer: func([]series.Sample) *remotewrite.Answer {
		return &remotewrite.Answer{Outcome: remotewrite.Refused, Err: errAnswer}
	}}
	bubble(t, d, requestsOf(30), func(t *testing.T, b *bench) { // ten scrapes
		for n := range 5_000 {
			b.put(scrapeOf("a", n, 3)...)
		}
		b.run()
		time.Sleep(6 * time.Hour)
		synctest.Wait()
		s := b.engine.Status()
		if s.Refused == 0 || s.Refused > 6*40*30 || len(s.Problems) != 1 || s.Problems[0].Reason != ReasonReceiverRefuses {
			t.Errorf("status %+v", s)
		}
		d.mu.Lock()
		d.answer = nil
		d.mu.Unlock()
		lost := int(s.Refused / 3)
		time.Sleep(24 * time.Hour)
		d.has(t, "a", 3, numbers(lost, 5_000))
		if s := b.engine.Status(); len(s.Problems) != 0 || s.LastError != "" {
			t.Errorf("status %+v", s)
		}
	})
}

// TestEventsDoNotFlood has a receiver that refuses every other request.
func TestEventsDoNotFlood(t *testing.T) {
	asked := 0
	d := &database{answer: func([]series.Sample) *remotewrite.Answer {
		if asked++; asked%2 == 0 {
			return nil
		}
		return &remotewrite.Answer{Outcome: remotewrite.Refused, Err: errAnswer}
	}}
	bubble(t, d, requestsOf(3), func(t *testing.T, b *bench) { // one scrape
		for n := range 2000 {
			b.put(scrapeOf("a", n, 3)...)
			time.Sleep(10 * time.Second)
		}
		b.run()
		time.Sleep(15 * time.Minute)
		if got := b.reasons(); !slices.Equal(got, []string{ReasonReceiverRefuses, ReasonReceiverRefuses}) {
			t.Errorf("events %v", got)
		}
	})
}

// TestFlushLosesNoMore has a receiver that refuses everything, and somebody who
// wants all delivered.
func TestFlushLosesNoMore(t *testing.T) {
	d := &database{answer: func([]series.Sample) *remotewrite.Answer {
		return &remotewrite.Answer{Outcome: remotewrite.Refused, Err: errAnswer}
	}}
	bubble(t, d, requestsOf(3), func(t *testing.T, b *bench) { // one scrape
		for n := range 1000 {
			b.put(scrapeOf("a", n, 3)...)
		}
		b.run()
		time.Sleep(time.Hour)
		before := b.engine.Status().Refused
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := b.engine.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Flush: %v", err)
		}
		if lost := (b.engine.Status().Refused - before) / 3; lost > 60 {
			t.Errorf("%d scrapes lost in an hour", lost)
		}
	})
}

// TestLargeScrapeIsSentInParts has scrapes larger than a request may be.
func TestLargeScrapeIsSentInParts(t *testing.T) {
	d := &database{}
	bubble(t, d, requestsOf(7), func(t *testing.T, b *bench) {
		b.run()
		for n := range 5 {
			b.put(scrapeOf("a", n, 50)...)
			b.put(scrapeOf("b", n, 3)...)
		}
		b.flush()
		d.has(t, "a", 50, numbers(0, 5))
		d.has(t, "b", 3, numbers(0, 5))
		if s := b.engine.Status(); d.largest > 7 || s.Sent != 265 || s.Replayed != 0 {
			t.Errorf("a request of %d samples, status %+v", d.largest, s)
		}
	})
}

// TestRequestsAreBoundedInBytes has labels of a kilobyte.
func TestRequestsAreBoundedInBytes(t *testing.T) {
	d := &database{}
	bubble(t, d, requestsOf(1_000_000), func(t *testing.T, b *bench) {
		var all []series.Sample
		for _, s := range scrapeOf("a", 0, 10_000) {
			s.Labels = append(s.Labels, series.Label{Name: "z", Value: strings.Repeat(s.Labels[1].Value, 1000/len(s.Labels[1].Value))})
			all = append(all, s)
		}
		b.put(all...)
		b.run()
		b.flush()
		if _, samples := d.count(); samples != 10_000 || d.bytes > maxRequestBytes+2*entryBytes || d.bytes < maxRequestBytes/2 {
			t.Errorf("%d samples, a request of %d bytes", samples, d.bytes)
		}
	})
}

// A device that is online again does not wait for the end of a long pause.
func TestRetry(t *testing.T) {
	d := &database{answer: func([]series.Sample) *remotewrite.Answer { return &remotewrite.Answer{Err: errAnswer} }}
	bubble(t, d, requestsOf(30_000), func(t *testing.T, b *bench) {
		b.put(scrapeOf("a", 0, 3)...)
		b.run()
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		d.mu.Lock()
		d.answer = nil
		d.mu.Unlock()
		b.engine.Retry()
		time.Sleep(2 * hurriedMost)
		synctest.Wait()
		if s := b.engine.Status(); s.Sent != 3 {
			t.Errorf("status %+v", s)
		}
	})
}
