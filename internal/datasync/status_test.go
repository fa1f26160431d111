package datasync

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestStandingProblems(t *testing.T) {
	t.Parallel()
	l := newLedger()
	l.problems("w", egress, reasonWatchLimit, []string{"too early"})
	l.keep(map[string]bool{"w": true})
	problems := func() []Problem { return l.snapshot().Workloads[0].Egress.Problems }
	if got := problems(); got != nil {
		t.Errorf("a workload that was not kept has %v", got)
	}
	l.problems("w", egress, reasonWatchLimit, []string{"b", "a", "b"})
	l.problems("w", egress, reasonPathLoop, []string{"loop"})
	l.problems("w", ingress, reasonQuotaReached, []string{"full"})
	want := []Problem{{reasonPathLoop, "loop"}, {reasonWatchLimit, "a"}, {reasonWatchLimit, "b"}}
	before := problems()
	if diff := cmp.Diff(want, before); diff != "" {
		t.Error(diff)
	}
	// Replacing is of one reason, and what was handed out stays as it was.
	l.problems("w", egress, reasonWatchLimit, []string{"c"})
	if diff := cmp.Diff([]Problem{{reasonPathLoop, "loop"}, {reasonWatchLimit, "c"}}, problems()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(want, before); diff != "" {
		t.Errorf("a status that was handed out changed: %s", diff)
	}
	l.problems("w", egress, reasonWatchLimit, nil)
	l.problems("w", egress, reasonPathLoop, nil)
	l.problems("gone", egress, reasonPathLoop, []string{"x"})
	if got := problems(); got != nil {
		t.Errorf("left: %v", got)
	}
}

// A reason with very many messages hides no other reason.
func TestStandingProblemsAreBounded(t *testing.T) {
	t.Parallel()
	l := newLedger()
	l.keep(map[string]bool{"w": true})
	var many []string
	for i := range 500 {
		many = append(many, fmt.Sprintf("message %03d", i))
	}
	l.problems("w", egress, reasonCollision, many)
	l.problems("w", egress, reasonWatchLimit, []string{"limit"})
	got := l.snapshot().Workloads[0].Egress.Problems
	if len(got) != maxProblems || got[0].Message != "message 000" || got[maxProblems-1].Reason != reasonWatchLimit {
		t.Errorf("%d problems: %v", len(got), got)
	}
}

func TestEmptyDirection(t *testing.T) {
	t.Parallel()
	if !(DirectionStatus{}).Empty() {
		t.Error("nothing is something")
	}
	for _, d := range []DirectionStatus{{Pending: 1}, {Paused: "x"}, {Problems: []Problem{{}}}, {LastError: "x"}, {Files: 1}} {
		if d.Empty() {
			t.Errorf("%+v is empty", d)
		}
	}
}
