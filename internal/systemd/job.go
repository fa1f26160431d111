package systemd

import (
	"context"
	"errors"
	"fmt"
)

// Start starts the unit and waits until its job is done; a running unit is left
// as it is.
func (c *Client) Start(ctx context.Context, unit string) error {
	return c.job(ctx, "start", unit, func(ctx context.Context, l *link, done chan<- string) error {
		_, err := l.StartUnitContext(ctx, unit, "replace", done)
		return err
	})
}

// Stop stops the unit and waits until its job is done. A unit that is not
// loaded is stopped.
func (c *Client) Stop(ctx context.Context, unit string) error {
	return c.job(ctx, "stop", unit, func(ctx context.Context, l *link, done chan<- string) error {
		_, err := l.StopUnitContext(ctx, unit, "replace", done)
		return err
	})
}

// Restart stops the unit if it runs, starts it, and waits until its job is
// done.
func (c *Client) Restart(ctx context.Context, unit string) error {
	return c.job(ctx, "restart", unit, func(ctx context.Context, l *link, done chan<- string) error {
		_, err := l.RestartUnitContext(ctx, unit, "replace", done)
		return err
	})
}

// ReloadUnit has the active unit take over its configuration, by the command
// that its file names for that, and waits until that is done; ErrNotReloadable
// when it is not active or names none, ErrEnded when that made it end.
func (c *Client) ReloadUnit(ctx context.Context, unit string) error {
	err := c.job(ctx, "reload", unit, func(ctx context.Context, l *link, done chan<- string) error {
		_, err := l.ReloadUnitContext(ctx, unit, "replace", done)
		return err
	})
	if job, ok := errors.AsType[*JobError](err); ok && job.Result == "invalid" {
		return fmt.Errorf("%w: %w", ErrNotReloadable, err)
	}
	if err != nil {
		return err
	}
	// A job counts as done when the unit ends instead, for want of a process.
	after, err := c.Unit(ctx, unit)
	if err == nil && after.ActiveState != "active" {
		err = fmt.Errorf("reload %s: %w: it is %s", unit, ErrEnded, after.ActiveState)
	}
	return err
}

// TryRestart restarts the unit if it runs, and waits until its job is done.
func (c *Client) TryRestart(ctx context.Context, unit string) error {
	return c.job(ctx, "try-restart", unit, func(ctx context.Context, l *link, done chan<- string) error {
		_, err := l.TryRestartUnitContext(ctx, unit, "replace", done)
		return err
	})
}

// job queues one and waits for its result. When ctx ends first, the job goes
// on: the manager owns it.
func (c *Client) job(ctx context.Context, verb, unit string, queue func(context.Context, *link, chan<- string) error) error {
	done := make(chan string, 1) // go-systemd sends without a way out
	var used *link
	err := c.call(ctx, func(ctx context.Context, l *link) error {
		used = l
		return queue(ctx, l, done)
	})
	if err != nil {
		return fmt.Errorf("%s %s: %w", verb, unit, err)
	}
	select {
	case result := <-done:
		if result != "done" {
			return fmt.Errorf("%s: %w", verb, &JobError{Unit: unit, Result: result})
		}
		return nil
	case <-used.lost():
		return fmt.Errorf("%s %s: %w", verb, unit, ErrUnavailable)
	case <-ctx.Done():
		return fmt.Errorf("%s %s: %w", verb, unit, ctx.Err())
	}
}
