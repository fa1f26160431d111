package agent

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// witness is systemd, and who reads the journal.
type witness struct {
	began time.Time

	mu   sync.Mutex
	said []string // what it was told, and after what time
	log  strings.Builder
}

func (w *witness) tell(state string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = append(w.said, fmt.Sprintf("%s %s", time.Since(w.began), state))
	return nil
}

func (w *witness) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(p)
}

func (w *witness) told() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.said)
}

func (w *witness) journal() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.String()
}

// watched is a service of which all is written down.
func watched(watchdog time.Duration) (*service, *witness) {
	w := &witness{began: time.Now()}
	return &service{watchdog: watchdog, log: slog.New(slog.NewTextHandler(w, nil)), tell: w.tell}, w
}

func TestWatchdog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, w := watched(4 * time.Minute)
		var slow atomic.Int64 // a duration
		loops := []loop{
			{"quick", func(context.Context) error { return nil }},
			{"slow", func(ctx context.Context) error {
				select {
				case <-time.After(max(1, time.Duration(slow.Load()))):
					return nil
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}},
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.run(ctx, loops) }()
		time.Sleep(150 * time.Second)
		slow.Store(int64(110 * time.Second))
		time.Sleep(6 * time.Minute)
		if text := w.journal(); text != "" {
			t.Errorf("log: %s", text)
		}
		slow.Store(int64(time.Hour))
		time.Sleep(10 * time.Minute)
		lived := len(w.told())
		if text := w.journal(); !strings.Contains(text, "loops=[slow]") {
			t.Errorf("log: %s", text)
		}
		time.Sleep(10 * time.Minute)
		if said := w.told(); len(said) != lived {
			t.Errorf("said %q while a loop hangs", said[lived:])
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		said := w.told()
		var last time.Duration
		for i, line := range said {
			at, err := time.ParseDuration(strings.Fields(line)[0])
			if err != nil {
				t.Fatal(err)
			}
			if i < lived && at-last >= 4*time.Minute {
				t.Errorf("%s after %s: systemd would have ended it", line, last)
			}
			last = at
		}
		if first, end := said[0], said[len(said)-1]; first != "0s READY=1" || !strings.HasSuffix(end, "STOPPING=1") {
			t.Errorf("said %q", said)
		}
	})
}

// TestWithoutWatchdog only says when it begins and ends.
func TestWithoutWatchdog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, w := watched(0)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := s.run(ctx, nil); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff([]string{"0s READY=1", "1h0m0s STOPPING=1"}, w.told()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}
