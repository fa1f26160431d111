package agent

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

func TestLastSyncComesBeforeTheEnd(t *testing.T) {
	t.Parallel()
	var done []string
	run := func(ctx context.Context) error {
		<-ctx.Done()
		done = append(done, "end")
		return nil
	}
	drain := func(context.Context) error {
		done = append(done, "drain")
		return errors.New("not all")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := lastSync(run, drain, time.Second, slog.New(slog.DiscardHandler))(ctx); err != nil {
		t.Error(err)
	}
	if len(done) != 2 || done[0] != "drain" {
		t.Errorf("done: %q", done)
	}
	done = nil
	if err := lastSync(run, drain, 0, slog.New(slog.DiscardHandler))(ctx); err != nil || len(done) != 1 {
		t.Errorf("without a last sync: %q, %v", done, err)
	}
}

func TestLastSyncEndsInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		run := func(ctx context.Context) error { <-ctx.Done(); return nil }
		drain := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		start := time.Now()
		const last = 15 * time.Second // longer than everything else may take
		err := supervise(ctx, task{name: "sync", last: last, run: lastSync(run, drain, last, slog.New(slog.DiscardHandler))})
		if took := time.Since(start); err != nil || took != last {
			t.Errorf("supervise = %v after %v", err, took)
		}
	})
}

func TestLastSyncReturnsAFailureAtOnce(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	run := func(context.Context) error { return broken }
	drain := func(context.Context) error { t.Error("drained"); return nil }
	if err := lastSync(run, drain, time.Second, slog.New(slog.DiscardHandler))(t.Context()); !errors.Is(err, broken) {
		t.Errorf("run = %v", err)
	}
}
