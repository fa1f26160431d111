package agent

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// recorder makes tasks that note when they stop.
type recorder struct{ stopped []string }

func (r *recorder) task(name string) task {
	return task{name: name, run: func(ctx context.Context) error {
		<-ctx.Done()
		r.stopped = append(r.stopped, name)
		return nil
	}}
}

func TestSuperviseStopsInReverseOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var r recorder
		done := make(chan error, 1)
		go func() { done <- supervise(ctx, r.task("a"), r.task("b"), r.task("c")) }()
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("supervise = %v, want nil", err)
		}
		if got := strings.Join(r.stopped, ""); got != "cba" {
			t.Errorf("stopped in order %q, want cba", got)
		}
	})
}

func TestSuperviseEndsWithTheFirstFailure(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	var r recorder
	err := supervise(t.Context(), r.task("a"), task{name: "b", run: func(context.Context) error { return broken }})
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "b: ") {
		t.Errorf("supervise = %v, want the named failure", err)
	}
	if len(r.stopped) != 1 {
		t.Errorf("stopped = %v, want the other task stopped too", r.stopped)
	}
}

func TestSuperviseAbandonsWhatDoesNotStop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		release := make(chan struct{})
		stuck := task{name: "stuck", run: func(context.Context) error { <-release; return nil }}
		start := time.Now()
		cancel()
		err := supervise(ctx, stuck, stuck)
		if err == nil || !strings.Contains(err.Error(), "stuck") {
			t.Errorf("supervise = %v, want the stuck task named", err)
		}
		if took := time.Since(start); took != stopBudget {
			t.Errorf("stop took %v, want %v for all tasks together", took, stopBudget)
		}
		close(release)
	})
}
