package agent

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// watched is a service whose notifications are written down with their time.
func watched(t *testing.T, watchdog time.Duration) (*service, *[]string, *strings.Builder) {
	t.Helper()
	var said []string
	log := &strings.Builder{}
	began := time.Now()
	return &service{
		watchdog: watchdog, log: slog.New(slog.NewTextHandler(log, nil)),
		tell: func(state string) error {
			said = append(said, fmt.Sprintf("%s %s", time.Since(began), state))
			return nil
		},
	}, &said, log
}

func TestWatchdog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, said, log := watched(t, 4*time.Minute)
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
		if log.Len() > 0 {
			t.Errorf("log: %s", log)
		}
		slow.Store(int64(time.Hour))
		time.Sleep(10 * time.Minute)
		lived := len(*said)
		if !strings.Contains(log.String(), "loops=[slow]") {
			t.Errorf("log: %s", log)
		}
		time.Sleep(10 * time.Minute)
		if len(*said) != lived {
			t.Errorf("said %q while a loop hangs", (*said)[lived:])
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		var last time.Duration
		for i, line := range *said {
			at, err := time.ParseDuration(strings.Fields(line)[0])
			if err != nil {
				t.Fatal(err)
			}
			if i < lived && at-last >= 4*time.Minute {
				t.Errorf("%s after %s: systemd would have ended it", line, last)
			}
			last = at
		}
		if first, end := (*said)[0], (*said)[len(*said)-1]; first != "0s READY=1" || !strings.HasSuffix(end, "STOPPING=1") {
			t.Errorf("said %q", *said)
		}
	})
}

// TestWithoutWatchdog only says when it begins and ends.
func TestWithoutWatchdog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, said, _ := watched(t, 0)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := s.run(ctx, nil); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff([]string{"0s READY=1", "1h0m0s STOPPING=1"}, *said); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}
