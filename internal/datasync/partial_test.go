package datasync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
)

// cutStore is a store whose bodies can be cut.
type cutStore struct {
	*memStore

	mu sync.Mutex
	// cut says after how many more bytes a body that begins at from ends, and how.
	cut   func(from int64) (int64, error)
	froms []int64 // where bodies began
	sent  int64   // bytes
}

func (s *cutStore) set(cut func(from int64) (int64, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cut, s.froms, s.sent = cut, nil, 0
}

func (s *cutStore) seen() (froms []int64, sent int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.froms, s.sent
}

func (s *cutStore) body(ctx context.Context, body io.ReadCloser, from int64) io.ReadCloser {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.froms = append(s.froms, from)
	b := &cutBody{ReadCloser: body, ctx: ctx, store: s, left: -1}
	if s.cut != nil {
		b.left, b.err = s.cut(from)
	}
	return b
}

func (s *cutStore) Get(ctx context.Context, key string) (s3.Object, io.ReadCloser, error) {
	o, body, err := s.memStore.Get(ctx, key)
	if err != nil {
		return o, nil, err
	}
	return o, s.body(ctx, body, 0), nil
}

func (s *cutStore) GetFrom(ctx context.Context, o s3.Object, from int64) (io.ReadCloser, error) {
	body, err := s.memStore.GetFrom(ctx, o, from)
	if err != nil {
		return nil, err
	}
	return s.body(ctx, body, from), nil
}

type cutBody struct {
	io.ReadCloser

	ctx   context.Context
	store *cutStore
	left  int64 // negative: all
	err   error // nil: the body stalls until the context ends
}

func (b *cutBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		if b.err != nil {
			return 0, b.err
		}
		<-b.ctx.Done()
		return 0, b.ctx.Err()
	}
	if b.left > 0 {
		p = p[:min(int64(len(p)), b.left)]
	}
	n, err := b.ReadCloser.Read(p)
	if b.left > 0 {
		b.left -= int64(n)
	}
	b.store.mu.Lock()
	b.store.sent += int64(n)
	b.store.mu.Unlock()
	return n, err
}

var errLine = fmt.Errorf("line is cut: %w", s3.ErrUnavailable)

const bigSize = 8<<20 + 4321

// bigBench has an object down/dir/big, of noise, whose download is continued when
// it was cut.
func bigBench(t *testing.T) (*bench, *cutStore, []byte) {
	t.Helper()
	store := &cutStore{memStore: newMemStore()}
	store.set(func(int64) (int64, error) { return 0, errLine })
	data := make([]byte, bigSize)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(data)
	b := newBench(t, store, paths(nil, down()), nil)
	b.tune(func(s *space) { s.checkpoint = 1 << 20 })
	store.memStore.set("down/dir/big", data, s3.Upload{})
	return b, store, data
}

// tune changes the limits of an engine between two cycles.
func (b *bench) tune(change func(*space)) {
	b.engine.space.mu.Lock()
	defer b.engine.space.mu.Unlock()
	change(&b.engine.space)
}

// retryNow forgets that items failed, so that the next cycle tries them.
func (b *bench) retryNow() {
	b.engine.mu.Lock()
	g := b.engine.groups[groupKey{testWorkload, ingress}]
	b.engine.mu.Unlock()
	g.retries.mu.Lock()
	defer g.retries.mu.Unlock()
	clear(g.retries.items)
}

// temps returns the temporary files.
func (b *bench) temps() []string {
	var out []string
	_ = filepath.WalkDir(b.path("."), func(p string, _ os.DirEntry, _ error) error {
		if isTemp(filepath.Base(p)) {
			out = append(out, p)
		}
		return nil
	})
	return out
}

// unfinished returns how many downloads the index knows that can be continued.
func (b *bench) unfinished() int {
	b.engine.mu.Lock()
	g := b.engine.groups[groupKey{testWorkload, ingress}]
	b.engine.mu.Unlock()
	all, err := g.index.partials(routeID(testWorkload, ingress, g.storeID, g.routes[0]))
	if err != nil {
		b.t.Fatal(err)
	}
	return len(all)
}

func (b *bench) wantDownloaded(data []byte) {
	b.t.Helper()
	if got := b.read("in/dir/big"); got != string(data) {
		b.t.Errorf("the file has %d bytes and is another one", len(got))
	}
	if temps := b.temps(); len(temps) != 0 || b.unfinished() != 0 {
		b.t.Errorf("left over: %v, %d in the index", temps, b.unfinished())
	}
}

func TestDownloadGoesOnWhereItWasCut(t *testing.T) {
	t.Parallel()
	b, store, data := bigBench(t)
	for _, after := range []int64{1, 700, 1<<19 - 1, 1 << 19, 1<<20 + 17, 0, 1 << 18} {
		store.set(func(int64) (int64, error) { return after, errLine })
		if err := b.sync(ingress); err == nil {
			t.Fatal("a cut download works")
		}
		b.retryNow()
		if got := b.files("in"); len(got) != len(b.temps()) {
			t.Fatalf("half a file is visible: %v", len(got))
		}
	}
	store.set(nil)
	b.mustSync(ingress)
	froms, sent := store.seen()
	want := int64(1 + 700 + 1<<19 - 1 + 1<<19 + 1<<20 + 17 + 1<<18)
	if diff := cmp.Diff([]int64{want}, froms); diff != "" || sent != bigSize-want {
		t.Errorf("began at %v, sent %d of %d: %s", froms, sent, bigSize-want, diff)
	}
	b.wantDownloaded(data)
	store.taken()
	b.mustSync(ingress)
	if got := store.taken(); len(got) != 1 {
		t.Errorf("an idle cycle requests %v", got)
	}
}

// cutOnce makes a cycle that is cut after so many bytes.
func cutOnce(b *bench, store *cutStore, after int64) {
	b.t.Helper()
	store.set(func(int64) (int64, error) { return after, errLine })
	if err := b.sync(ingress); err == nil {
		b.t.Fatal("a cut download works")
	}
	store.set(nil)
	b.retryNow()
}

func TestDownloadGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	b, store, data := bigBench(t)
	store.set(func(int64) (int64, error) { return 1<<20 + 1, nil })
	go func() { _ = b.sync(ingress) }()
	eventually(t, "it is under way", func() bool { _, sent := store.seen(); return sent == 1<<20+1 })
	b.stop()
	store.set(nil)
	b.restart()
	b.mustSync(ingress)
	froms, _ := store.seen()
	if diff := cmp.Diff([]int64{1<<20 + 1}, froms); diff != "" {
		t.Error(diff)
	}
	b.wantDownloaded(data)
}

func TestPartialFileIsNotTrusted(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(t *testing.T, b *bench, temp string){
		"a byte":    func(t *testing.T, _ *bench, temp string) { writeAt(t, temp, 12345, "x") },
		"zeros":     func(t *testing.T, _ *bench, temp string) { writeAt(t, temp, 1<<19, strings.Repeat("\x00", 4096)) },
		"cut short": func(t *testing.T, _ *bench, temp string) { must(t, os.Truncate(temp, 1<<19)) },
		"removed":   func(t *testing.T, _ *bench, temp string) { must(t, os.Remove(temp)) },
		"another file": func(t *testing.T, _ *bench, temp string) {
			must(t, os.Remove(temp))
			must(t, os.WriteFile(temp, []byte("x"), 0o600))
		},
		"a link": func(t *testing.T, _ *bench, temp string) {
			must(t, os.Remove(temp))
			must(t, os.Symlink("/etc/passwd", temp))
		},
		"a FIFO":          func(t *testing.T, _ *bench, temp string) { must(t, os.Remove(temp)); must(t, unix.Mkfifo(temp, 0o600)) },
		"a second name":   func(t *testing.T, _ *bench, temp string) { must(t, os.Link(temp, temp+"x")) },
		"folder replaced": func(t *testing.T, b *bench, _ string) { must(t, os.Rename(b.path("in/dir"), b.path("in/gone"))) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, store, data := bigBench(t)
			cutOnce(b, store, 1<<20)
			spoil(t, b, b.temps()[0])
			b.mustSync(ingress)
			if froms, _ := store.seen(); len(froms) != 1 || froms[0] != 0 {
				t.Errorf("began at %v", froms)
			}
			if got := b.read("in/dir/big"); got != string(data) {
				t.Errorf("the file has %d bytes and is another one", len(got))
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func writeAt(t *testing.T, name string, at int64, data string) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt([]byte(data), at)
	must(t, errors.Join(err, f.Close()))
}

func TestBytesAfterTheLastCheckpointAreFetchedAgain(t *testing.T) {
	t.Parallel()
	b, store, data := bigBench(t)
	cutOnce(b, store, 1<<20)
	writeAt(t, b.temps()[0], 1<<20, strings.Repeat("torn", 1000))
	b.mustSync(ingress)
	if froms, _ := store.seen(); len(froms) != 1 || froms[0] != 1<<20 {
		t.Errorf("began at %v", froms)
	}
	b.wantDownloaded(data)
}

func TestObjectIsReplacedBetweenTwoParts(t *testing.T) {
	t.Parallel()
	b, store, data := bigBench(t)
	cutOnce(b, store, 1<<20)
	data[5]++
	store.memStore.set("down/dir/big", data, s3.Upload{})
	b.mustSync(ingress)
	b.mustSync(ingress)
	b.wantDownloaded(data)
	// And at the very moment of the request.
	cutAgain := func() {
		data[6]++
		store.memStore.set("down/dir/big", data, s3.Upload{})
		cutOnce(b, store, 1<<20)
	}
	cutAgain()
	for _, op := range []string{"Head", "GetFrom"} {
		store.setFault(func(o, _ string) error {
			if o == op {
				store.setFault(nil)
				data[7]++
				store.memStore.set("down/dir/big", data, s3.Upload{})
			}
			return nil
		})
		_ = b.sync(ingress)
		b.mustSync(ingress)
		b.wantDownloaded(data)
		cutAgain()
	}
	// The object is gone.
	store.remove("down/dir/big")
	b.mustSync(ingress)
	if temps := b.temps(); len(temps) != 0 || b.unfinished() != 0 {
		t.Errorf("left over: %v, %d", temps, b.unfinished())
	}
}

func TestDamagedDownloadIsNotContinuedForEver(t *testing.T) {
	t.Parallel()
	b, store, data := bigBench(t)
	odd := store.objects["down/dir/big"]
	odd.data = bytes.Clone(data)
	odd.data[100]++
	store.replace(odd)
	cutOnce(b, store, 1<<20)
	if err := b.sync(ingress); !strings.Contains(fmt.Sprint(err), errDamaged.Error()) {
		t.Fatalf("a damaged object: %v", err)
	}
	if temps := b.temps(); len(temps) != 0 || b.unfinished() != 0 {
		t.Errorf("left over: %v, %d", temps, b.unfinished())
	}
	store.memStore.set("down/dir/big", data, s3.Upload{})
	b.mustSync(ingress)
	b.wantDownloaded(data)
}

func TestFullDiskKeepsNoPartialFile(t *testing.T) {
	t.Parallel()
	b, store, data := bigBench(t)
	cutOnce(b, store, 1<<20)
	if len(b.temps()) != 1 {
		t.Fatal("no partial file")
	}
	b.tune(func(s *space) { s.reserve = 1 << 60 })
	if err := b.sync(ingress); err == nil || b.status(ingress).Blocked == "" {
		t.Errorf("not blocked: %v", err)
	}
	if temps := b.temps(); len(temps) != 0 {
		t.Errorf("left over: %v", temps)
	}
	b.tune(func(s *space) { s.reserve = -1 })
	b.mustSync(ingress)
	b.wantDownloaded(data)
}

func TestLeftoversOfOthersAreRemovedAndPartialsKept(t *testing.T) {
	t.Parallel()
	b, store, data := bigBench(t)
	cutOnce(b, store, 1<<20)
	b.write("in/dir/.flotta-00112233445566aa", "of a dead run")
	b.stop()
	store.set(func(int64) (int64, error) { return 10, errLine })
	b.start(b.engine.cfg)
	_ = b.sync(ingress)
	if temps := b.temps(); len(temps) != 1 {
		t.Errorf("temporary files: %v", temps)
	}
	store.set(nil)
	b.retryNow()
	b.mustSync(ingress)
	b.wantDownloaded(data)
}

func FuzzPartial(f *testing.F) {
	f.Add(partial{Offset: 1 << 40, SHA256: [32]byte{1}}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, ok := decodePartial(b); ok && !bytes.Equal(p.encode(), b) && p.Offset <= 0 {
			t.Errorf("%x decodes to %+v", b, p)
		}
	})
}
