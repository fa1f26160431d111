package agent

import (
	"context"
	"log/slog"
	"time"
)

// lastSync returns a component that runs one, and that sends what the workloads
// wrote last before it ends: for at most timeout, 0: not at all. Whatever is not
// sent by then is sent after the next start, so a kill in the middle of it costs
// nothing but time.
func lastSync(
	run, drain func(context.Context) error, timeout time.Duration, log *slog.Logger,
) func(context.Context) error {
	return func(ctx context.Context) error {
		inner, stop := context.WithCancel(context.WithoutCancel(ctx))
		defer stop()
		done := make(chan error, 1)
		go func() { done <- run(inner) }()
		select {
		case err := <-done:
			return err
		case <-ctx.Done():
		}
		if timeout > 0 {
			last, cancel := context.WithTimeout(inner, timeout)
			if err := drain(last); err != nil {
				log.Warn("not all was sent before the stop; it will be after the next start", "err", err)
			}
			cancel()
		}
		stop()
		return <-done
	}
}
