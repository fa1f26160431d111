package follow

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// TestHostileFile has no regular file where the log should be.
func TestHostileFile(t *testing.T) {
	t.Parallel()
	r := newFileRig(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(record0("F secret")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, r.path); err != nil {
		t.Fatal(err)
	}
	other := Source{Origin: Origin{ID: "c2"}, Name: "other", Path: filepath.Join(t.TempDir(), "ctr.log")}
	if err := os.WriteFile(other.Path, []byte(record0("F fine")), 0o600); err != nil {
		t.Fatal(err)
	}
	r.wanted["c2"] = other
	r.start()
	r.expect("fine")
	r.appendTo(other.Path, record0("F still fine"))
	r.expect("fine", "still fine") // and between them the others were looked at
}

// TestFileOfAnotherUser reads no file that is not the owner's, also not beside the
// log, where a rotated one would be.
func TestFileOfAnotherUser(t *testing.T) {
	t.Parallel()
	r := newFileRig(t)
	r.append(record0("F secret"))
	info, err := os.Stat(r.path)
	if err != nil {
		t.Fatal(err)
	}
	mark := FileMark{ID: "c1", Inode: inodeOf(info)}
	other := os.Getuid() + 1
	if file, _, err := openLog(r.path, other); err == nil {
		_ = file.Close()
		t.Error("a file of another user was opened")
	} else if !strings.Contains(err.Error(), "belongs to user") {
		t.Errorf("the error is %q", err)
	}
	if err := os.Rename(r.path, r.path+".1"); err != nil {
		t.Fatal(err)
	}
	if file := findAside(r.path, other, mark); file != nil {
		_ = file.Close()
		t.Error("a rotated file of another user was opened")
	}
	file := findAside(r.path, os.Getuid(), mark)
	if file == nil {
		t.Fatal("the own rotated file was not found")
	}
	_ = file.Close()
}

// TestFileOfAnotherUserIsTold reads the others, and says once why not this one.
func TestFileOfAnotherUserIsTold(t *testing.T) {
	t.Parallel()
	r := newFileRig(t)
	r.append(record0("F secret"))
	if os.Getuid() == 0 {
		if err := os.Chown(r.path, 1, 1); err != nil {
			t.Fatal(err)
		}
	} else { // only root gives a file away
		stranger := r.wanted["c1"]
		stranger.Path = "/etc/passwd"
		r.wanted["c1"] = stranger
	}
	own := Source{Origin: Origin{ID: "c2"}, Name: "own", Path: filepath.Join(t.TempDir(), "ctr.log")}
	r.wanted["c2"] = own
	var told lockedBuffer
	r.log = slog.New(slog.NewTextHandler(&told, nil))
	r.start()
	var want []string
	for _, line := range []string{"one", "two", "three"} { // each takes a round at least
		f := &fileRig{t: t, path: own.Path}
		f.append(record0("F " + line))
		want = append(want, line)
		r.expect(want...)
	}
	r.stop()
	if said := told.String(); strings.Count(said, "belongs to user") != 1 {
		t.Errorf("it was told:\n%s", said)
	}
}

// lockedBuffer is written to by other goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestPipe is not opened, because that alone may wake somebody.
func TestPipe(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ctr.log")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := openLog(path, os.Getuid()); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("the error is %v", err)
	}
}

func FuzzTail(f *testing.F) {
	f.Add([]byte(record0("F one")+record0("P two")+record0("F three")), uint8(20))
	f.Add([]byte("rubbish\n\n\x00\n"+record0("F one")), uint8(3))
	f.Fuzz(func(t *testing.T, raw []byte, cut uint8) {
		path := filepath.Join(t.TempDir(), "ctr.log")
		sink := &collector{marks: map[string]FileMark{}}
		read := func() {
			one := &tail{source: Source{Origin: Origin{ID: "c1"}, Path: path}, sink: sink, owner: os.Getuid(), start: sink.marks["c1"], joiner: newJoiner[FileMark]()}
			defer one.close()
			buffer := make([]byte, readBytes)
			for {
				more, err := one.read(t.Context(), buffer, true)
				if err != nil {
					t.Fatal(err)
				}
				if !more {
					return
				}
			}
		}
		if err := os.WriteFile(path, raw[:min(int(cut), len(raw))], 0o600); err != nil {
			t.Fatal(err)
		}
		read()
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		read()
		if m := sink.marks["c1"]; m.Offset > int64(len(raw)) || m.Offset < 0 {
			t.Errorf("the mark stands at %d of %d", m.Offset, len(raw))
		}
	})
}
