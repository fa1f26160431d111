//go:build device

package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// operation is one thing that an agent does to a workload, in rounds that each
// can end before their time.
type operation struct {
	name string
	// changes is the workload of the scene that it is done to, if it is one.
	changes string
	begin   func(r *rig, round string)
	done    func(r *rig, round string) error
	pods    []string   // that are there when it is done, besides those of the scene
	ends    bool       // its pod may be there or not
	undo    *operation // makes the next round possible; may be nil
	// finish takes what it was done to out of the way of the next operation; may
	// be nil.
	finish func(r *rig)
	// like are operations that have some of the same steps, which need not be
	// tried again.
	like []string
}

// failing is a manifest whose program ends at once, and says the round before.
func (r *rig) failing(name, round string) string {
	return r.workload(name, fmt.Sprintf("args: ['no-%s']", round), "")
}

// operations are all that the engine does.
func operations() []operation {
	return []operation{
		{
			name: "update", changes: "steady",
			begin: func(r *rig, round string) { r.save("steady.yaml", r.pod("steady", "18080", round)) },
			done:  func(r *rig, round string) error { return r.serves("steady", "18080", round) },
		},
		{
			name: "update that is rolled back", changes: "careful", like: []string{"update"},
			begin: func(r *rig, round string) { r.save("careful.yaml", r.failing("careful", round)) },
			done: func(r *rig, round string) error {
				if err := r.complains("careful", `unknown command "no-`+round); err != nil {
					return err
				}
				return r.serves("careful", "18081", "good")
			},
			finish: func(r *rig) {
				r.save("careful.yaml", r.pod("careful", "18081", "good"))
				r.until("careful is as wanted", func() error {
					if w, err := r.statusOf("careful"); err != nil || w.Reason != "" || w.Phase != "Running" {
						return fmt.Errorf("it is %s %s %w", w.Phase, w.Reason, err)
					}
					return r.serves("careful", "18081", "good")
				})
			},
		},
		{
			name:  "first deployment",
			begin: func(r *rig, round string) { r.save("fresh.yaml", r.pod("fresh", "18082", round)) },
			done: func(r *rig, round string) error {
				if _, err := r.statusOf("fresh"); err != nil {
					return err
				}
				return r.serves("fresh", "18082", round)
			},
			pods: []string{"fresh"},
			undo: &operation{
				name:  "removal",
				begin: func(r *rig, _ string) { r.remove("fresh.yaml") },
				done:  func(r *rig, _ string) error { return r.forgotten("fresh") },
			},
		},
		{
			name: "first deployment that fails", like: []string{"update", "removal"},
			begin: func(r *rig, round string) { r.save("hopeless.yaml", r.failing("hopeless", round)) },
			done: func(r *rig, round string) error {
				if err := r.complains("hopeless", `unknown command "no-`+round); err != nil {
					return err
				}
				return r.nothingLeft("hopeless")
			},
			finish: func(r *rig) {
				r.record()
				r.remove("hopeless.yaml")
				r.until("hopeless is gone", func() error { return r.forgotten("hopeless") })
				// It may be about to fail once more meanwhile; the points of that are
				// none of what comes next.
				r.until("hopeless has passed its last point", func() error {
					if !slices.Contains(r.passed(), "retire-delivered") {
						return errors.New("it has not been there")
					}
					return nil
				})
			},
		},
		{
			name: "job that comes to its end", like: []string{"update", "removal"}, ends: true,
			begin: func(r *rig, round string) {
				text := r.workload("job", "args: [exit, '0', 500ms]\nenv: [{name: ROUND, value: '"+round+"'}]", "")
				r.save("job.yaml", strings.Replace(text, "    spec:\n", "    spec:\n      restartPolicy: Never\n", 1))
			},
			done: func(r *rig, round string) error {
				if err := r.inForce("job", round); err != nil {
					return err
				}
				w, err := r.statusOf("job")
				if err == nil && w.Phase != "Exited" {
					err = fmt.Errorf("job is reported %q", w.Phase)
				}
				return err
			},
			undo: &operation{
				name: "removal of a job", like: []string{"removal"},
				begin: func(r *rig, _ string) { r.remove("job.yaml") },
				done:  func(r *rig, _ string) error { return r.forgotten("job") },
			},
		},
	}
}

// scene has workloads that every operation finds on the device.
var scene = []string{"bystander", "careful", "steady"}

func (r *rig) setScene() {
	r.Helper()
	r.save("bystander.yaml", r.workload("bystander", "args: [sleep]", ""))
	r.save("steady.yaml", r.pod("steady", "18080", "begin"))
	r.save("careful.yaml", r.pod("careful", "18081", "good"))
	r.until("steady serves", func() error { return r.serves("steady", "18080", "begin") })
	r.until("careful serves", func() error { return r.serves("careful", "18081", "good") })
	r.phase("bystander", "Running")
}

// TestKilledAtEveryStep looks up which steps each operation has, and then does it
// as often as it has steps, with the agent killed at one of them each time.
func TestKilledAtEveryStep(t *testing.T) {
	t.Parallel()
	r := newFaulty(t)
	r.setScene()
	tried := points{}
	for _, op := range operations() {
		r.sub(op.name, func(r *rig) { r.killEverywhere(op, tried) })
	}
	for _, point := range sourcePoints(t) {
		if !tried.have(nil, point) {
			t.Errorf("the agent was never killed at %s: no operation of this test passes it", point)
		}
	}
	// yggd by itself, this time.
	r.crashAt("apply-begin")
	r.save("steady.yaml", r.pod("steady", "18080", "end"))
	r.crashed("apply-begin")
	r.until("steady serves", func() error { return r.serves("steady", "18080", "end") })
}

// points are those at which the agent was killed, by operation.
type points map[string][]string

// have reports whether the agent was killed at a point in one of the operations,
// or in any where none is named.
func (p points) have(operations []string, point string) bool {
	for name, tried := range p {
		if (operations == nil || slices.Contains(operations, name)) && slices.Contains(tried, point) {
			return true
		}
	}
	return false
}

// killEverywhere does an operation, and what undoes it, once as a whole to learn
// which points they pass, and then again for each.
func (r *rig) killEverywhere(op operation, tried points) {
	r.Helper()
	if op.finish != nil {
		defer op.finish(r)
	}
	there, back := r.toTry(op, tried), []string(nil)
	if op.undo != nil {
		back = r.toTry(*op.undo, tried)
		if len(back) > 0 {
			// One round tries both. The first steps are those of an update, too.
			there = there[max(0, len(there)-len(back)):]
		}
	}
	for i := range max(len(there), len(back)) {
		r.killed(op, there, i, tried)
		if op.undo != nil {
			r.killed(*op.undo, back, i, tried)
		}
	}
}

// toTry returns the points of an operation that those before it had not.
func (r *rig) toTry(op operation, tried points) []string {
	r.Helper()
	return slices.DeleteFunc(r.whole(op), func(point string) bool {
		return len(op.like) > 0 && tried.have(op.like, point)
	})
}

// whole does an operation with nothing in its way, and returns the points that it
// passes.
func (r *rig) whole(op operation) []string {
	r.Helper()
	r.record()
	op.begin(r, "whole")
	r.until(op.name+" is done", func() error { return op.done(r, "whole") })
	if op.ends {
		// What it has become is told before it is recorded.
		r.until(op.name+" has passed its last point", func() error {
			if !slices.Contains(r.passed(), "finished") {
				return errors.New("it has not been there")
			}
			return nil
		})
	}
	points := r.passed()
	r.Logf("%s: %v", op.name, points)
	return points
}

// killed does an operation while the agent is killed at the i-th of the points,
// if there are as many.
func (r *rig) killed(op operation, at []string, i int, tried points) {
	r.Helper()
	round := fmt.Sprintf("round-%d", i)
	if i >= len(at) {
		op.begin(r, round)
		r.until(op.name+" is done", func() error { return op.done(r, round) })
		return
	}
	began, point := time.Now(), at[i]
	tried[op.name] = append(tried[op.name], point)
	check := r.untouched(slices.DeleteFunc(slices.Clone(scene), func(name string) bool { return name == op.changes })...)
	r.crashAt(point)
	op.begin(r, round)
	r.crashed(point)
	r.restartService()
	r.until(op.name+", killed at "+point+", is done", func() error { return op.done(r, round) })
	check(op.name + ", killed at " + point)
	if !op.ends {
		r.until("nothing is doubled", func() error { return r.nothingDoubled(append(op.pods, scene...)...) })
	}
	r.Logf("%s, killed at %s: %s", op.name, point, time.Since(began).Round(100*time.Millisecond))
}
