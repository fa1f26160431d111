package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// stopBudget bounds the whole shutdown, beyond the time that its tasks ask for. A
// component that does not end in time is abandoned: being killed at any
// instruction is a supported way to stop.
const stopBudget = 10 * time.Second

// task is a component under supervision. Run blocks until its context ends and
// joins everything it started.
type task struct {
	name string
	run  func(context.Context) error
	// last is how much longer than others it may take to end.
	last time.Duration
}

// supervise starts the tasks in order and, when ctx ends or one of them returns,
// stops them one at a time in reverse order. It returns nil only when ctx ended
// and every task ended cleanly.
func supervise(ctx context.Context, tasks ...task) (err error) {
	type running struct {
		name string
		stop context.CancelFunc
		done chan error
	}
	ended := make(chan struct{}, len(tasks))
	started := make([]running, 0, len(tasks))
	for _, t := range tasks {
		taskCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
		r := running{name: t.name, stop: stop, done: make(chan error, 1)}
		go func() {
			r.done <- t.run(taskCtx)
			ended <- struct{}{}
		}()
		started = append(started, r)
	}

	var failure error
	select {
	case <-ctx.Done():
	case <-ended:
		failure = errors.New("a component ended before it was asked to")
	}

	budget := stopBudget
	for _, t := range tasks {
		budget += t.last
	}
	deadline := time.NewTimer(budget)
	defer deadline.Stop()
	for _, r := range slices.Backward(started) {

		r.stop()
		select {
		case taskErr := <-r.done:
			if taskErr != nil {
				failure = errors.Join(failure, fmt.Errorf("%s: %w", r.name, taskErr))
			}
		case <-deadline.C:
			deadline.Reset(0) // The budget is spent: the rest is stopped, not waited for.
			failure = errors.Join(failure, fmt.Errorf("%s: still running %s after the stop", r.name, budget))
		}
	}
	return failure
}
