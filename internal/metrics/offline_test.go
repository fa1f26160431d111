package metrics

import (
	"fmt"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/metrics/remotewrite"
	"github.com/project-flotta/flotta-agent/internal/metrics/series"
)

// TestThreeWeeksOffline has a device without a network for three times as long as
// it keeps samples; it is switched off and on each day. The newest week arrives,
// in order, and the device says how much more there was.
func TestThreeWeeksOffline(t *testing.T) {
	const pause = time.Hour
	down := true
	d := &database{answer: func([]series.Sample) *remotewrite.Answer {
		if down {
			return &remotewrite.Answer{Outcome: remotewrite.Failed, Err: errAnswer}
		}
		return nil
	}}
	bubble(t, d, requestsOf(100), func(t *testing.T, b *bench) {
		n := 0
		for range 21 {
			b.run()
			for range 24 * time.Hour / pause {
				time.Sleep(pause)
				b.put(scrapeOf("a", n, 3)...)
				n++
			}
			b.reopen()
		}
		b.run()
		d.mu.Lock()
		down = false
		d.mu.Unlock()
		b.flush()

		week := int(DefaultMaxAge / pause)
		d.mu.Lock()
		kept := len(d.got[fmt.Sprint(scrapeOf("a", 0, 1)[0].Labels)])
		d.mu.Unlock()
		if kept < week-1 || kept > week+week/7 {
			t.Errorf("%d scrapes arrived, want those of the last week, about %d", kept, week)
		}
		d.has(t, "a", 3, numbers(n-kept, n))
		if dropped, want := b.engine.Status().Queue.Dropped.Age, uint64(n-kept); dropped != want {
			t.Errorf("%d scrapes are counted as dropped, want %d", dropped, want)
		}
	})
}
