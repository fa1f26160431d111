package follow

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeJournal stands in for journalctl and a journal.
type fakeJournal struct {
	t       *testing.T
	dir     string
	entries []string // in the export format; the first is at(1)
	ends    bool     // journalctl ends instead of following

	mu       sync.Mutex
	n        int
	followed int // how often it was told to follow
}

// say is an entry of a container.
func say(i int, name, id, text string, partial bool) string {
	return fmt.Sprintf("__CURSOR=%s\nCONTAINER_NAME=%s\nCONTAINER_ID_FULL=%s\nPRIORITY=6\nMESSAGE=%s\nCONTAINER_PARTIAL_MESSAGE=%t\n\n",
		at(i), name, id, text, partial)
}

// command shows the entries from the cursor on, or of a container.
func (f *fakeJournal) command(ctx context.Context, args ...string) *exec.Cmd {
	shown := f.entries
	follow := slices.Contains(args, "--follow")
	for _, a := range args {
		if cursor, ok := strings.CutPrefix(a, "--cursor="); ok {
			p, _ := parsePlace(cursor)
			shown = f.entries[p.seq-1:]
		}
		if id, ok := strings.CutPrefix(a, "CONTAINER_ID_FULL="); ok {
			shown = slices.DeleteFunc(slices.Clone(shown), func(e string) bool { return !strings.Contains(e, "="+id+"\n") })
		}
	}
	f.mu.Lock()
	f.n++
	if follow {
		f.followed++
	}
	path := filepath.Join(f.dir, strconv.Itoa(f.n))
	f.mu.Unlock()
	if err := os.WriteFile(path, []byte(strings.Join(shown, "")), 0o600); err != nil {
		f.t.Error(err)
	}
	if follow && !f.ends {
		return exec.CommandContext(ctx, "sh", "-c", "cat "+path+"; exec sleep 1000")
	}
	return exec.CommandContext(ctx, "cat", path)
}

// newJournal follows the containers of the workloads w and v.
func newJournal(t *testing.T, f *fakeJournal, sink *collector, mark JournalMark) *Journal {
	t.Helper()
	f.t, f.dir = t, t.TempDir()
	wanted := map[string]Origin{
		"w-app": {Workload: "w", Container: "app", ID: "c1"}, "v-app": {Workload: "v", Container: "app", ID: "c2"},
	}
	j, err := NewJournal(JournalConfig{
		Wanted: func() (map[string]Origin, <-chan struct{}) { return wanted, nil },
		Sink:   sink, Trouble: func(error) {}, Command: f.command,
	}, mark)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// TestRefusedEntry reads again what was refused, in its order.
func TestRefusedEntry(t *testing.T) {
	t.Parallel()
	f := &fakeJournal{entries: []string{
		say(1, "w-app", "c1", "one", false), say(2, "w-app", "c1", "t", true), say(3, "w-app", "c1", "wo", false),
		say(4, "v-app", "c2", "of v", false), say(5, "w-app", "c1", "three", false),
	}}
	sink := &collector{marks: map[string]FileMark{}, refuse: "w"}
	j := newJournal(t, f, sink, JournalMark{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = j.Run(ctx)
	}()
	defer func() {
		cancel()
		<-done
	}()
	sink.waitRefused(t)
	if got := sink.got(); len(got) != 0 {
		t.Errorf("with its first line refused, %q were handed on", got)
	}
	sink.refuses("")
	want := []string{"one", "two", "of v", "three"}
	for deadline := time.Now().Add(30 * time.Second); !slices.Equal(sink.got(), want); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("lines %q, want %q", sink.got(), want)
		}
	}
}

// TestJournalFailsBehindCursor has a journalctl that shows the entry at the cursor
// and fails: nothing was read, so the pause before the next one grows.
func TestJournalFailsBehindCursor(t *testing.T) {
	t.Parallel()
	f := &fakeJournal{ends: true, entries: []string{say(1, "w-app", "c1", "one", false)}}
	sink := &collector{marks: map[string]FileMark{}}
	j := newJournal(t, f, sink, JournalMark{})
	var trouble []error
	j.cfg.Trouble = func(err error) { trouble = append(trouble, err) }
	for i, want := range []bool{true, false, false} {
		wanted, changed := j.cfg.Wanted()
		read, err := j.follow(t.Context(), wanted, changed)
		if err == nil || read != want {
			t.Errorf("at the %d. time read is %t, error %v", i+1, read, err)
		}
	}
	if got := sink.got(); !slices.Equal(got, []string{"one"}) {
		t.Errorf("lines %q", got)
	}
	if len(trouble) != 1 { // that there is none, when the line came
		t.Errorf("it told %v", trouble)
	}
}
