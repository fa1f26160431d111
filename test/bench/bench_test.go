//go:build bench

package bench

import (
	"fmt"
	"testing"
)

// TestBench runs the measurements one after the other and ends with all figures
// in one table. Each of them runs alone too, with -run TestBench/name.
func TestBench(t *testing.T) {
	var r report
	t.Run("apply", func(t *testing.T) { applyAgainstPodman(t, &r) })
	t.Run("downtime", func(t *testing.T) { downtime(t, &r) })
	t.Run("crowd", func(t *testing.T) { manyAtOnce(t, &r) })
	t.Run("footprint", func(t *testing.T) { footprint(t, &r) })
	t.Run("observe", func(t *testing.T) { observing(t, &r) })
	t.Run("poll", func(t *testing.T) { pollWithoutChange(t, &r) })
	t.Run("idle", func(t *testing.T) { idleCost(t, &r) })
	t.Log("figures:")
	for _, line := range r {
		t.Log(line)
	}
}

// report collects the figures, a line each.
type report []string

func (r *report) add(t *testing.T, what, format string, args ...any) {
	t.Helper()
	line := fmt.Sprintf("%-38s %s", what, fmt.Sprintf(format, args...))
	t.Log(line)
	*r = append(*r, line)
}
