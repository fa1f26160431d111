package pulse

import "context"

// Pulse is that of one loop. Make it with New.
type Pulse struct{ felt chan struct{} }

// New returns the pulse of a loop.
func New() Pulse { return Pulse{felt: make(chan struct{})} }

// Beat is for the loop: it receives from the channel wherever it waits, and does
// nothing with what it gets.
func (p Pulse) Beat() <-chan struct{} { return p.felt }

// Feel waits for the loop, and returns nil as soon as it is where it waits. When ctx
// ends before, it returns the cause. Any number may feel at once.
func (p Pulse) Feel(ctx context.Context) error {
	select {
	case p.felt <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
