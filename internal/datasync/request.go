package datasync

import (
	"context"
	"errors"
)

// Outcome is what came of a cycle that was asked for.
type Outcome struct {
	Direction string // egress or ingress
	Err       error  // nil: it worked
}

// Cycle makes one cycle of each direction of the workload now, and returns when
// they are over, or when ctx ends. It returns none when the workload has nothing
// to synchronise.
func (e *Engine) Cycle(ctx context.Context, workload string) []Outcome {
	directions := [...]direction{egress, ingress}
	var errs [len(directions)]chan error
	for i, dir := range directions {
		done := make(chan error, 1)
		errs[i] = done
		go func() { done <- e.lastCall(ctx, groupKey{workload, dir}) }()
	}
	var out []Outcome
	for i, dir := range directions {
		if err := <-errs[i]; !errors.Is(err, ErrNotSynced) {
			out = append(out, Outcome{Direction: string(dir), Err: err})
		}
	}
	return out
}
