package datasync

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
)

// landingBench is a volume with a sealed download of "new" for the file f.
func landingBench(t *testing.T, name string) (volume, *landing) {
	t.Helper()
	root, err := os.OpenRoot(t.TempDir())
	must(t, err)
	v := volume{root: root}
	all := &folders{volume: v, open: map[string]*folder{}}
	l, err := all.land(name, "")
	must(t, err)
	_, err = l.file.WriteString("new")
	must(t, err)
	must(t, l.seal(0o640, time.Unix(1e9, 0)))
	t.Cleanup(func() {
		l.discard()
		all.expire()
		v.close()
	})
	return v, l
}

func contents(t *testing.T, v volume) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(v.root.Name(), func(p string, e os.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			var data []byte
			data, err = os.ReadFile(p)
			rel, _ := filepath.Rel(v.root.Name(), p)
			out[rel] = string(data)
		}
		return err
	})
	must(t, err)
	return out
}

func TestPlaceLosesNothing(t *testing.T) {
	t.Parallel()
	const long = "n"
	longName := strings.Repeat(long, 255)
	for name, c := range map[string]struct {
		before string                            // in f; "-": nothing
		may    bool                              // it may go
		during func(t *testing.T, f string) bool // what the workload does meanwhile; the answer is may, then
		want   map[string]string
		kept   bool
		fails  bool
	}{
		"nothing there": {before: "-", want: map[string]string{"f": "new"}},
		"may go":        {before: "old", may: true, want: map[string]string{"f": "new"}},
		"may not":       {before: "old", want: map[string]string{"f": "new", "f.flotta-local": "old"}, kept: true},
		"written at once": {
			before: "old", may: true, kept: true, want: map[string]string{"f": "new", "f.flotta-local": "mine"},
			during: func(t *testing.T, f string) bool { must(t, os.WriteFile(f, []byte("mine"), 0o600)); return true },
		},
		"replaced at once": {
			before: "old", may: true, kept: true, want: map[string]string{"f": "new", "f.flotta-local": "other"},
			during: func(t *testing.T, f string) bool {
				must(t, os.WriteFile(f+"2", []byte("other"), 0o600))
				must(t, os.Rename(f+"2", f))
				return true
			},
		},
		"removed at once": {
			before: "old", may: true, want: map[string]string{"f": "new"},
			during: func(t *testing.T, f string) bool { must(t, os.Remove(f)); return true },
		},
		"a folder at once": {
			before: "old", may: true, fails: true, want: map[string]string{"f/x": "mine"},
			during: func(t *testing.T, f string) bool {
				must(t, os.Remove(f))
				must(t, os.Mkdir(f, 0o700))
				must(t, os.WriteFile(f+"/x", []byte("mine"), 0o600))
				return true
			},
		},
		"a link at once": {
			before: "old", may: true, fails: true, want: map[string]string{},
			during: func(t *testing.T, f string) bool {
				must(t, os.Remove(f))
				must(t, os.Symlink("/etc/passwd", f))
				return true
			},
		},
		"a folder where it would be kept": {
			before: "old", fails: true, want: map[string]string{"f": "old", "f.flotta-local/x": "mine"},
			during: func(t *testing.T, f string) bool {
				must(t, os.Mkdir(f+asideSuffix, 0o700))
				must(t, os.WriteFile(f+asideSuffix+"/x", []byte("mine"), 0o600))
				return false
			},
		},
		"written to, with nowhere to keep it": {
			before: "old", may: true, fails: true, want: map[string]string{"f": "mine", "f.flotta-local/x": "mine"},
			during: func(t *testing.T, f string) bool {
				must(t, os.Mkdir(f+asideSuffix, 0o700))
				must(t, os.WriteFile(f+asideSuffix+"/x", []byte("mine"), 0o600))
				must(t, os.WriteFile(f, []byte("mine"), 0o600))
				return true
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v, l := landingBench(t, "f")
			f := filepath.Join(v.root.Name(), "f")
			if c.before != "-" {
				must(t, os.WriteFile(f, []byte(c.before), 0o600))
				must(t, os.Chtimes(f, time.Unix(1e9, 0), time.Unix(1e9, 0)))
			}
			asked := 0
			e, kept, err := l.place("f", func(entry) (bool, error) {
				asked++
				if c.during != nil && asked == 1 {
					return c.during(t, f), nil
				}
				return c.may, nil
			})
			if (err != nil) != c.fails || kept != c.kept {
				t.Errorf("kept %v, error %v", kept, err)
			}
			if err == nil {
				now, statErr := v.lstat("f")
				if statErr != nil || now.fingerprint != e.fingerprint {
					t.Errorf("entry %+v, is %+v", e, now)
				}
			}
			l.discard()
			if diff := cmp.Diff(c.want, contents(t, v)); diff != "" {
				t.Error(diff)
			}
		})
	}
	t.Run("a long name", func(t *testing.T) {
		t.Parallel()
		v, l := landingBench(t, longName)
		must(t, os.WriteFile(filepath.Join(v.root.Name(), longName), []byte("old"), 0o600))
		if _, kept, err := l.place(longName, func(entry) (bool, error) { return false, nil }); err != nil || !kept {
			t.Fatalf("kept %v, error %v", kept, err)
		}
		if diff := cmp.Diff(map[string]string{longName: "new", asideName(longName): "old"}, contents(t, v)); diff != "" {
			t.Error(diff)
		}
	})
}

func TestAsideNames(t *testing.T) {
	t.Parallel()
	a, b := asideName(strings.Repeat("é", 127)), asideName(strings.Repeat("é", 126)+"x")
	if a == b || len(a) > maxNameBytes || len(b) > maxNameBytes || !validText(a) || checkRel(a) != nil {
		t.Errorf("%q and %q", a, b)
	}
	if got := asideName("f"); got != "f.flotta-local" {
		t.Errorf("got %q", got)
	}
}

func TestFileThatIsBeingWrittenIsKept(t *testing.T) {
	t.Parallel()
	v, l := landingBench(t, "f")
	name := filepath.Join(v.root.Name(), "f")
	must(t, os.WriteFile(name, []byte("old"), 0o600))
	open, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	defer open.Close()
	if _, kept, err := l.place("f", func(entry) (bool, error) { return true, nil }); err != nil || !kept {
		t.Fatalf("kept %v, error %v", kept, err)
	}
	_, err = open.WriteString(" and more")
	must(t, err)
	if diff := cmp.Diff(map[string]string{"f": "new", "f.flotta-local": "old and more"}, contents(t, v)); diff != "" {
		t.Error(diff)
	}
}

func TestTempThatWasTakenAwayIsNoFile(t *testing.T) {
	t.Parallel()
	for name, take := range map[string]func(temp string) error{
		"removed": os.Remove,
		"moved":   func(temp string) error { return os.Rename(temp, filepath.Dir(temp)+"/mine") },
		"replaced": func(temp string) error {
			return cmpErr(os.Remove(temp), os.WriteFile(temp, []byte("mine"), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v, l := landingBench(t, "sub/f")
			must(t, take(filepath.Join(v.root.Name(), "sub", l.temp)))
			if _, _, err := l.place("sub/f", nil); err == nil {
				t.Error("no error")
			}
			if _, err := v.root.Lstat("sub/f"); err == nil {
				t.Error("there is a file")
			}
		})
	}
}

func cmpErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func TestFolderGoesAwayMeanwhile(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(dir string) error{
		"removed":  os.RemoveAll,
		"moved":    func(dir string) error { return os.Rename(dir, dir+"2") },
		"replaced": func(dir string) error { return cmpErr(os.Rename(dir, dir+"2"), os.Mkdir(dir, 0o700)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := newMemStore()
			b := newBench(t, store, paths(nil, down()), nil)
			var once sync.Once
			for i := range 3 {
				store.set(fmt.Sprintf("down/dir/f%d", i), []byte("x"), s3.Upload{})
			}
			b.sealed(func() { once.Do(func() { must(t, spoil(b.path("in/dir"))) }) })
			for range 3 {
				_ = b.sync(ingress)
			}
			want := map[string]string{"dir/f0": "x", "dir/f1": "x", "dir/f2": "x"}
			if diff := cmp.Diff(want, b.files("in")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// sealed has f called before downloads are put into their places.
func (b *bench) sealed(f func()) {
	b.tune(func(s *space) { s.sealed = f })
}

// TestNothingThatIsWrittenIsLost has a workload that changes a file all the time
// while the object changes as well: each thing written is in the file, or kept,
// until the next one of either is.
func TestNothingThatIsWrittenIsLost(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	b := newBench(t, store, paths(nil, down()), nil)
	store.set("down/f", []byte("remote 0"), s3.Upload{})
	b.mustSync(ingress)
	var stop atomic.Bool
	var all sync.WaitGroup
	f := b.path("in/f")
	lost := 0
	all.Go(func() {
		for i := 0; !stop.Load(); i++ {
			mine := b.path("mine")
			if err := os.WriteFile(mine, fmt.Appendf(nil, "local %d", i), 0o600); err != nil {
				t.Error(err)
				return
			}
			if err := os.Rename(mine, f); err != nil {
				t.Error(err)
				return
			}
			if i%8 == 0 {
				time.Sleep(time.Millisecond)
			}
			// It is in neither place only for the moment between two renames.
			want := fmt.Sprintf("local %d", i)
			found := func() bool {
				now, _ := os.ReadFile(f)
				aside, _ := os.ReadFile(f + asideSuffix)
				return string(now) == want || string(aside) == want
			}
			for deadline := time.Now().Add(2 * time.Second); !found(); {
				if time.Now().After(deadline) {
					lost++
					break
				}
			}
		}
	})
	for i := range 200 {
		store.set("down/f", fmt.Appendf(nil, "remote %d", i), s3.Upload{})
		_ = b.sync(ingress)
	}
	stop.Store(true)
	all.Wait()
	if lost > 0 {
		t.Errorf("%d versions were lost", lost)
	}
}

func TestSparseFiles(t *testing.T) {
	t.Parallel()
	const size = 6 << 20
	data := make([]byte, size)
	copy(data[1<<20+100:], "in the middle")
	copy(data[3<<20:], strings.Repeat("x", 100_000))
	for name, length := range map[string]int{"hole at the end": size, "data at the end": 3<<20 + 50_000, "all": 1 << 20, "large": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := data[:length]
			if length == 0 {
				want = append(make([]byte, 20<<20), "end"...)
			}
			store := newMemStore()
			store.set("down/f", want, s3.Upload{})
			b := newBench(t, store, paths(nil, down()), nil)
			b.mustSync(ingress)
			if got := b.read("in/f"); got != string(want) {
				t.Fatalf("the file has %d bytes and is another one", len(got))
			}
			var st unix.Stat_t
			must(t, unix.Stat(b.path("in/f"), &st))
			if st.Blocks*512 > 300_000 {
				t.Errorf("%d bytes on disk", st.Blocks*512)
			}
		})
	}
}
