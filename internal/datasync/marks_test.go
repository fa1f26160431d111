package datasync

import (
	"fmt"
	"slices"
	"testing"
)

func TestMarksStayUntilTheyAreLookedAt(t *testing.T) {
	t.Parallel()
	m := newMarks()
	if !m.everything() {
		t.Fatal("a new route is not marked whole")
	}
	moment := m.beginWalk()
	m.touch([]byte("late")) // while the walk is under way
	m.hold("waits", moment)
	m.walked(moment)
	paths, moment := m.begin()
	if m.everything() || !slices.Equal(paths, []string{"late", "waits"}) {
		t.Fatalf("after the walk: %q", paths)
	}
	m.touch([]byte("late")) // once more, after the cycle began
	m.done("late", moment)
	m.done("waits", moment)
	if paths, moment = m.begin(); !slices.Equal(paths, []string{"late"}) {
		t.Fatalf("after the cycle: %q", paths)
	}
	m.done("late", moment)
	if paths, _ = m.begin(); len(paths) != 0 {
		t.Errorf("after all: %q", paths)
	}
	// A walk that ends early leaves everything marked, and one during which
	// everything was marked does too.
	moment = m.beginWalk()
	if !m.everything() {
		t.Error("a walk under way is taken for one that ended")
	}
	m.touchAll()
	m.walked(moment)
	if !m.everything() {
		t.Error("an overflow during the walk is forgotten")
	}
}

func TestMarksAreBounded(t *testing.T) {
	t.Parallel()
	m := newMarks()
	m.most = 100
	m.walked(m.beginWalk())
	for i := range 101 {
		m.touch(fmt.Appendf(nil, "f%d", i))
	}
	if !m.everything() || len(m.paths) != 0 {
		t.Fatalf("%d paths", len(m.paths))
	}
	m.touch([]byte("g"))
	m.walked(m.beginWalk())
	if m.everything() || len(m.paths) != 0 {
		t.Error("the walk did not end it")
	}
}

func TestMarkOfAMarkedPathAllocatesNothing(t *testing.T) {
	m := newMarks()
	path := []byte("out/log")
	m.touch(path)
	if n := testing.AllocsPerRun(100, func() { m.touch(path) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
