package follow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// collector is a Sink that keeps everything.
type collector struct {
	mu      sync.Mutex
	lines   []string
	marks   map[string]FileMark
	journal JournalMark
	skipped []string
	refuse  string // a workload whose lines are refused
	refused int
}

func (c *collector) Take(_ context.Context, l Line, m Mark) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refuse != "" && l.Workload == c.refuse {
		c.refused++
		return ErrRefused
	}
	c.lines = append(c.lines, string(l.Text))
	if m.File != nil {
		c.marks[m.File.ID] = *m.File
	}
	if m.Journal != nil {
		c.journal = *m.Journal
	}
	return nil
}

func (c *collector) Skipped(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.skipped = append(c.skipped, reason)
}

func (c *collector) got() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.lines)
}

// fileRig follows one file.
type fileRig struct {
	t      *testing.T
	path   string
	sink   *collector
	mu     sync.Mutex
	wanted map[string]Source
	next   chan struct{}
	left   []string
	owner  int
	log    *slog.Logger // nil: none
	// through is told instead of sink, when it is set.
	through Sink
	stop    func()
}

func newFileRig(t *testing.T) *fileRig {
	t.Helper()
	r := &fileRig{
		t: t, path: filepath.Join(t.TempDir(), "ctr.log"), sink: &collector{marks: map[string]FileMark{}},
		next: make(chan struct{}), owner: os.Getuid(), stop: func() {},
	}
	r.wanted = map[string]Source{"c1": {Origin: Origin{Workload: "w", Container: "app", ID: "c1"}, Name: "w-app", Path: r.path}}
	t.Cleanup(func() { r.stop() })
	return r
}

func (r *fileRig) want(wanted map[string]Source) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wanted = wanted
	close(r.next)
	r.next = make(chan struct{})
}

// start follows from where the sink was told last.
func (r *fileRig) start() {
	r.t.Helper()
	r.stop()
	var sink Sink = r.sink
	if r.through != nil {
		sink = r.through
	}
	f, err := NewFiles(FilesConfig{
		Wanted: func() (map[string]Source, <-chan struct{}) {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.wanted, r.next
		},
		Sink: sink,
		Left: func(id string) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.left = append(r.left, id)
		},
		Every: time.Millisecond, OwnerUID: r.owner, Log: r.log,
	}, r.sink.marks)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = f.Run(ctx)
	}()
	r.stop = func() {
		cancel()
		<-done
		r.stop = func() {}
	}
}

func record0(text string) string { return "2026-11-21T22:09:34.304052939+00:00 stdout " + text + "\n" }

func (r *fileRig) append(raw string) {
	r.t.Helper()
	r.appendTo(r.path, raw)
}

func (r *fileRig) appendTo(path, raw string) {
	r.t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.WriteString(raw)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// expect waits until just these lines came.
func (r *fileRig) expect(want ...string) {
	r.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !slices.Equal(r.sink.got(), want); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) || len(r.sink.got()) > len(want) {
			r.t.Fatalf("lines %q, want %q", r.sink.got(), want)
		}
	}
}

func (r *fileRig) expectSkipped(words ...string) {
	r.t.Helper()
	r.sink.mu.Lock()
	defer r.sink.mu.Unlock()
	if len(r.sink.skipped) != len(words) {
		r.t.Fatalf("skipped: %q, want %q", r.sink.skipped, words)
	}
	for i, w := range words {
		if !strings.Contains(r.sink.skipped[i], w) {
			r.t.Errorf("skipped: %q, want %q", r.sink.skipped, words)
		}
	}
}

func TestFileIsFollowed(t *testing.T) {
	t.Parallel()
	r := newFileRig(t)
	r.start() // before there is a file
	r.append(record0("F one"))
	r.expect("one")
	r.append("2026-11-21T22:09:34.304052939+00:00 std") // conmon's write may come in two
	r.append("out F two\n" + record0("P th") + record0("F ree"))
	r.expect("one", "two", "three")
	r.append("rubbish\n" + record0("F four"))
	r.expect("one", "two", "three", "four")
	r.expectSkipped("no record")
}

func TestFileIsContinued(t *testing.T) {
	t.Parallel()
	r := newFileRig(t)
	r.append(record0("F one"))
	r.start()
	r.expect("one")
	r.stop()
	r.append(record0("F two") + record0("P half"))
	r.start()
	r.expect("one", "two")
	r.stop() // with half a line in memory
	r.append(record0("F whole"))
	r.start()
	r.expect("one", "two", "halfwhole")
	r.expectSkipped()
}

// TestLineWithoutEnd hands on what never gets its rest.
func TestLineWithoutEnd(t *testing.T) {
	t.Parallel()
	r := newFileRig(t)
	r.append(record0("P half"))
	r.start()
	r.expect("half")
	r.stop()
	r.start()
	r.append(record0("F next"))
	r.expect("half", "next")
}

// TestLongRecord has a record that conmon never writes: it comes in pieces that are
// bounded, also when the line began before.
func TestLongRecord(t *testing.T) {
	t.Parallel()
	r := newFileRig(t)
	half, long := strings.Repeat("h", MaxLine-1), strings.Repeat("x", 200<<10)
	r.append(record0("P "+half) + record0("F "+long) + record0("F one"))
	r.start()
	for deadline := time.Now().Add(30 * time.Second); len(r.sink.got()) == 0 || !slices.Contains(r.sink.got(), "one"); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the line behind it does not come")
		}
	}
	got := r.sink.got()
	if strings.Join(got, "") != half+long+"one" {
		t.Error("the pieces are not what was written")
	}
	for _, piece := range got {
		if len(piece) >= 2*MaxLine {
			t.Errorf("a piece of %d bytes", len(piece))
		}
	}
	r.expectSkipped()
}

// TestRotation replaces the file as conmon does when it is too large, and as
// logrotate does, while it is read and while it is not.
func TestRotation(t *testing.T) {
	t.Parallel()
	replace := func(r *fileRig) {
		if err := os.WriteFile(r.path+".tmp", nil, 0o600); err != nil {
			t.Error(err)
		}
		if err := os.Rename(r.path+".tmp", r.path); err != nil {
			t.Error(err)
		}
	}
	rename := func(r *fileRig) {
		if err := os.Rename(r.path, r.path+".1"); err != nil {
			t.Error(err)
		}
	}
	truncate := func(r *fileRig) {
		if err := os.Truncate(r.path, 0); err != nil {
			t.Error(err)
		}
	}
	for _, c := range []struct {
		name    string
		rotate  func(*fileRig)
		reading bool
		want    []string
		skipped []string
	}{
		{"replaced", replace, true, []string{"one", "two", "three"}, nil},
		{"renamed", rename, true, []string{"one", "two", "three"}, nil},
		{"replaced while nobody reads", replace, false, []string{"one", "three"}, []string{"replaced"}},
		{"renamed while nobody reads", rename, false, []string{"one", "two", "three"}, nil},
		{"cut while nobody reads", truncate, false, []string{"one", "three"}, []string{"cut"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newFileRig(t)
			r.append(record0("F one"))
			r.start()
			r.expect("one")
			if !c.reading {
				r.stop()
			}
			r.append(record0("F two"))
			c.rotate(r)
			r.append(strings.Replace(record0("F three"), "34.3", "35.3", 1))
			if !c.reading {
				r.start()
			}
			r.expect(c.want...)
			r.expectSkipped(c.skipped...)
		})
	}
}

// TestFileIsCutWhileRead also fills it again before anybody looks.
func TestFileIsCutWhileRead(t *testing.T) {
	t.Parallel()
	r := newFileRig(t)
	r.append(record0("F one") + record0("F two"))
	r.start()
	r.expect("one", "two")
	var second strings.Builder
	want := []string{"one", "two"}
	for i := range 20 {
		fmt.Fprintf(&second, "2026-11-21T23:00:00.000000000+00:00 stdout F again %d\n", i)
		want = append(want, fmt.Sprintf("again %d", i))
	}
	if err := os.WriteFile(r.path, []byte(second.String()), 0o600); err != nil { // cuts, and writes at once
		t.Fatal(err)
	}
	r.expect(want...)
	r.expectSkipped("was cut")
}

// TestContainerLeaves removes the file with its container, and reads it to its
// end nevertheless.
func TestContainerLeaves(t *testing.T) {
	t.Parallel()
	r := newFileRig(t)
	r.append(record0("F one"))
	r.start()
	r.expect("one")
	r.append(record0("F two") + record0("P three"))
	if err := os.Remove(r.path); err != nil {
		t.Fatal(err)
	}
	r.want(map[string]Source{})
	r.expect("one", "two", "three")
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		r.mu.Lock()
		left := slices.Clone(r.left)
		r.mu.Unlock()
		if slices.Equal(left, []string{"c1"}) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("left: %v", left)
		}
	}
}

// TestPausedFile keeps its place, and is not read meanwhile.
func TestPausedFile(t *testing.T) {
	t.Parallel()
	r := newFileRig(t)
	other := Source{Origin: Origin{ID: "c2"}, Name: "other", Path: filepath.Join(t.TempDir(), "ctr.log")}
	r.append(record0("F one"))
	r.start()
	r.expect("one")
	paused := r.wanted["c1"]
	paused.Paused = true
	r.want(map[string]Source{"c1": paused, "c2": other})
	r.append(record0("F two"))
	r.appendTo(other.Path, record0("F first"))
	r.expect("one", "first")
	r.appendTo(other.Path, record0("F second"))
	r.expect("one", "first", "second") // and a whole round lies between them
	paused.Paused = false
	r.want(map[string]Source{"c1": paused, "c2": other})
	r.expect("one", "first", "second", "two")
}

// cutInTime is a file that is cut, and filled again, just before it is read.
type cutInTime struct {
	logFile

	path, second string
	armed        bool
}

func (c *cutInTime) ReadAt(b []byte, at int64) (int, error) {
	if c.armed && len(b) > headBytes {
		c.armed = false
		if err := os.WriteFile(c.path, []byte(c.second), 0o600); err != nil {
			return 0, err
		}
	}
	return c.logFile.ReadAt(b, at)
}

// What stands at the old place in a file that was filled again is not what
// followed.
func TestFileIsCutBetweenLookAndRead(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ctr.log")
	sink := &collector{marks: map[string]FileMark{}}
	one := &tail{source: Source{Origin: Origin{ID: "c1"}, Path: path}, sink: sink, owner: os.Getuid(), joiner: newJoiner[FileMark]()}
	defer one.close()
	read := func() {
		buffer := make([]byte, readBytes)
		for more := true; more; {
			var err error
			if more, err = one.read(t.Context(), buffer, false); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.WriteFile(path, []byte(record0("F one")), 0o600); err != nil {
		t.Fatal(err)
	}
	read()
	second := strings.ReplaceAll(record0("F new")+record0("F news")+record0("F newer"), "2026-11-21", "2026-11-22")
	one.file = &cutInTime{logFile: one.file, path: path, second: second, armed: true}
	read()
	if got, want := sink.got(), []string{"one", "new", "news", "newer"}; !slices.Equal(got, want) {
		t.Errorf("lines %q, want %q", got, want)
	}
}
