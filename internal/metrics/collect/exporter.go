package collect

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// patience is how long a unit that was started is left to itself, twice as
	// long after each time that it did not help.
	patience    = time.Minute
	mostPatient = 32 * patience
)

// exporter sees to the unit of the node exporter.
type exporter struct {
	units Units // nil: whoever set up the device does
	name  string

	mu      sync.Mutex
	started time.Time // the last attempt
	tries   int       // in vain, one after the other
	works   bool
	failure error // of the attempt
	silence error // why it does not answer
}

// care starts the unit unless the exporter answered the last time. It is for one
// goroutine.
func (x *exporter) care(ctx context.Context) {
	if x.units == nil || x.name == "" || !x.due(time.Now()) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := x.units.EnableAndStart(ctx, x.name) // which may take its time
	x.mu.Lock()
	defer x.mu.Unlock()
	x.failure = err
}

func (x *exporter) due(now time.Time) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.works || x.tries > 0 && now.Sub(x.started) < min(patience<<min(x.tries-1, 10), mostPatient) {
		return false
	}
	x.started = now
	x.tries++
	return true
}

// answered notes whether the exporter answered.
func (x *exporter) answered(err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.works, x.silence = err == nil, err
	if x.works {
		x.tries = 0
	}
}

// problem returns what is wrong, if anything is.
func (x *exporter) problem() (Problem, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case x.silence == nil:
		return Problem{}, false
	case errors.Is(x.failure, ErrNoUnit):
		return Problem{Reason: "NodeExporterAbsent", Message: fmt.Sprintf("there are no system metrics: start %s: %v: install the node exporter, or disable system metrics", x.name, x.failure)}, true
	case x.failure != nil:
		return Problem{Reason: "NodeExporterFailed", Message: fmt.Sprintf("there are no system metrics: start %s: %v", x.name, x.failure)}, true
	default:
		return Problem{Reason: "NodeExporterSilent", Message: fmt.Sprintf("there are no system metrics: %v", x.silence)}, true
	}
}
