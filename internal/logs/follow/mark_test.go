package follow

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func at(i int) string { return fmt.Sprintf("s=log;i=%x;b=boot;m=1;t=%x;x=1", i, i) }

// TestJournalMark changes what is followed, and looks which entries are taken.
func TestJournalMark(t *testing.T) {
	t.Parallel()
	named := func(names ...string) map[string]Origin {
		m := map[string]Origin{}
		for _, n := range names {
			m[n] = Origin{}
		}
		return m
	}
	m := JournalMark{}.rewrite(named("a", "b"), map[string]Spot{
		"a": {Cursor: at(5), From: true}, // its first entry
		"b": {Cursor: at(7)},             // it did not exist yet
	})
	if want := (Spot{at(5), true}); m.Spot != want {
		t.Fatalf("reading begins at %+v, want %+v", m.Spot, want)
	}
	check := func(m JournalMark, name string, want ...int) {
		t.Helper()
		var got []int
		for i := range 20 {
			if m.takes(name, at(i)) {
				got = append(got, i)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("entries of %s (-want +got)\n%s", name, diff)
		}
	}
	check(m, "a", 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19)
	check(m, "b", 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19)
	check(m, "c")

	// At entry 15, c comes, b is paused.
	m.Spot = Spot{Cursor: at(15)}
	wanted := named("a", "c")
	wanted["b"] = Origin{Paused: true}
	if m.same(wanted) {
		t.Error("the change is not seen")
	}
	m = m.rewrite(wanted, map[string]Spot{"c": {Cursor: at(12), From: true}})
	if want := (Spot{at(12), true}); m.Spot != want {
		t.Fatalf("reading goes on at %+v, want %+v", m.Spot, want)
	}
	check(m, "a", 16, 17, 18, 19)
	check(m, "b")
	check(m, "c", 12, 13, 14, 15, 16, 17, 18, 19)

	// At 18, b goes on and a is gone.
	m.Spot = Spot{Cursor: at(18)}
	m = m.rewrite(named("b", "c"), nil)
	check(m, "a")
	check(m, "b", 16, 17, 18, 19)
	check(m, "c", 19)
	if want := (Spot{Cursor: at(15)}); m.Spot != want || !m.same(named("b", "c")) {
		t.Errorf("reading goes on at %+v, want %+v", m.Spot, want)
	}
}
