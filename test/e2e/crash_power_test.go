//go:build device

package e2e

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// cuts is how often the power is cut at a random step of each operation.
const cuts = 2

// TestPowerCutAtRandomSteps cuts the power of the whole device where the agent is
// at a step, and for the swap and the way back at the worst ones.
func TestPowerCutAtRandomSteps(t *testing.T) {
	t.Parallel()
	r := newFaulty(t)
	r.setScene()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	worst := map[string][]string{
		"update":                     {"swapped"},
		"update that is rolled back": {"fall-back", "restored"},
	}
	for _, op := range operations() {
		if worst[op.name] == nil {
			continue
		}
		r.sub(op.name, func(r *rig) {
			points := r.whole(op)
			random.Shuffle(len(points), func(i, j int) { points[i], points[j] = points[j], points[i] })
			points = append(points[:min(cuts, len(points))], worst[op.name]...)
			slices.Sort(points)
			for _, point := range slices.Compact(points) {
				r.cutAt(op, point)
			}
			if op.finish != nil {
				op.finish(r)
			}
		})
	}
}

// cutAt does an operation and cuts the power as soon as it is at the point.
func (r *rig) cutAt(op operation, point string) {
	r.Helper()
	began := time.Now()
	round := "cut-" + point
	r.crashAt(point)
	op.begin(r, round)
	r.crashed(point)
	// The agent is dead, systemd and Podman are at work for a moment more.
	must(r.T, r.edge.PowerCut())
	must(r.T, r.edge.PowerOn(r.ctx))
	r.until(op.name+", cut at "+point+", is done", func() error { return op.done(r, round) })
	r.until("nothing is doubled", func() error { return r.nothingDoubled(append(op.pods, scene...)...) })
	r.Logf("%s, cut at %s: %s", op.name, point, time.Since(began).Round(100*time.Millisecond))
}
