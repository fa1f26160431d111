package workload

import (
	"context"
	"fmt"
	"slices"

	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
)

// nobody is the Predecessor of a host that had none.
type nobody struct{}

func (nobody) Ports(context.Context, string) ([]manifest.HostPort, error) { return nil, nil }
func (nobody) Retire(context.Context, string) error                       { return nil }
func (nobody) Remove(context.Context, string) error                       { return nil }

// retirePredecessor keeps what a predecessor left of the workload from being started
// beside the unit that is about to be enabled.
func (a *attempt) retirePredecessor(ctx context.Context) error {
	if err := a.r.cfg.Predecessor.Retire(ctx, a.target.name); err != nil {
		return failed(ReasonUnit, fmt.Errorf("hand over: %w", err))
	}
	return nil
}

// removePredecessor makes room for the pod that is about to be started.
func (a *attempt) removePredecessor(ctx context.Context) error {
	if err := a.r.cfg.Predecessor.Remove(ctx, a.target.name); err != nil {
		return failed(ReasonUnit, fmt.Errorf("hand over: %w", err))
	}
	return nil
}

// handedOver returns the ports that are free once the pod of a predecessor is gone.
func (a *attempt) handedOver(ctx context.Context) ([]manifest.HostPort, error) {
	ports, err := a.r.cfg.Predecessor.Ports(ctx, a.target.name)
	if err != nil {
		return nil, failed(ReasonUnobservable, fmt.Errorf("ports to be handed over: %w", err))
	}
	return ports, nil
}

func anyOverlap(port manifest.HostPort, others []manifest.HostPort) bool {
	return slices.ContainsFunc(others, func(o manifest.HostPort) bool { return overlap(port, o) })
}
