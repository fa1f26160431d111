//go:build integration

package datasync

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
	"github.com/project-flotta/flotta-agent/internal/secret"
	"github.com/project-flotta/flotta-agent/test/testenv"
)

// continued counts the downloads that went on where they were cut.
type continued struct {
	*s3.Client

	n, skipped atomic.Int64
}

func (c *continued) GetFrom(ctx context.Context, o s3.Object, from int64) (io.ReadCloser, error) {
	c.n.Add(1)
	c.skipped.Add(from)
	return c.Client.GetFrom(ctx, o, from)
}

func TestDownloadIsKilledAndContinued(t *testing.T) {
	server := testenv.S3(t)
	client, _ := realStore(t, server, nil)
	store := &continued{Client: client}
	b := newBench(t, store, paths(nil, down()), nil)
	b.stop()
	data := noise(96 << 20)
	// Without a digest among its metadata, and in parts: nothing but the index
	// says what of it is right.
	putObject(t, client, "down/dir/big", data)
	settings := filepath.Join(b.dir, "crash.json")
	raw, err := json.Marshal(crashSettings{
		Dir: b.dir, Host: server.Host, Port: server.Port, Bucket: testBucket,
		Key: server.AccessKey, Secret: server.SecretKey, CA: server.CA,
	})
	must(t, errors.Join(err, os.WriteFile(settings, raw, 0o600)))
	for round := range 12 {
		killOnce(t, settings, time.Duration(100+round*50)*time.Millisecond)
		temps := b.temps()
		if len(temps) > 1 {
			t.Fatalf("%d temporary files", len(temps))
		}
		if _, err := os.Stat(b.path("in/dir/big")); err == nil {
			break
		}
		if len(temps) == 1 && round%4 == 3 {
			break // so that there is something to be continued
		}
	}
	b.restart()
	b.mustSync(ingress)
	got, err := os.ReadFile(b.path("in/dir/big"))
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("the file has %d bytes (%v)", len(got), err)
	}
	if len(b.temps()) != 0 || b.unfinished() != 0 {
		t.Errorf("left over: %v", b.temps())
	}
	t.Logf("continued %d times, %d MiB were not fetched again", store.n.Load(), store.skipped.Load()>>20)
}

func TestDownloadOverALineThatIsCut(t *testing.T) {
	server := testenv.S3(t)
	line := newCut(t, fmt.Sprintf("%s:%d", server.Host, server.Port))
	direct, _ := realStore(t, server, nil)
	cfg := s3.Config{
		Host: server.Host, Bucket: testBucket, Region: server.Region, CABundle: server.CA,
		AccessKeyID: secret.New(server.AccessKey), SecretAccessKey: secret.New(server.SecretKey),
	}
	cfg.Port = line.listener.Addr().(*net.TCPAddr).Port
	client, err := s3.New(cfg)
	must(t, err)
	t.Cleanup(client.Close)
	store := &continued{Client: client}
	data := noise(64 << 20)
	b := newBench(t, store, paths(nil, down()), func(c *Config) {
		c.Interval = 50 * time.Millisecond
		c.Rates.Otherwise.Download = 64 << 20 // so that there is something to cut
	})
	putObject(t, direct, "down/dir/big", data)
	for range 3 {
		time.Sleep(200 * time.Millisecond)
		line.set(true)
		time.Sleep(50 * time.Millisecond)
		line.set(false)
	}
	eventually(t, "it is down", func() bool { _, err := os.Stat(b.path("in/dir/big")); return err == nil })
	got, err := os.ReadFile(b.path("in/dir/big"))
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("the file has %d bytes (%v)", len(got), err)
	}
	t.Logf("continued %d times", store.n.Load())
}

// zeros is a store with one object of nothing but zeros, but for its end.
type zeros struct {
	*memStore

	size int64
}

const zerosEnd = "the end"

func (z *zeros) object() s3.Object {
	return s3.Object{Key: "down/image", Size: z.size, ETag: "0-2", LastModified: time.Unix(1e9, 0)}
}

func (z *zeros) List(_ context.Context, _ string, page func([]s3.Object) error) error {
	return page([]s3.Object{z.object()})
}

func (z *zeros) Get(context.Context, string) (s3.Object, io.ReadCloser, error) {
	zero, err := os.Open("/dev/zero")
	body := io.MultiReader(io.LimitReader(zero, z.size-int64(len(zerosEnd))), strings.NewReader(zerosEnd))
	return z.object(), struct {
		io.Reader
		io.Closer
	}{body, zero}, err
}

func TestSparseImage(t *testing.T) {
	const size = 1 << 30
	b := newBench(t, &zeros{memStore: newMemStore(), size: size}, paths(nil, down()), nil)
	b.mustSync(ingress)
	var st unix.Stat_t
	must(t, unix.Stat(b.path("in/image"), &st))
	if st.Size != size || st.Blocks*512 > 1<<20 {
		t.Errorf("%d bytes, of which %d are on disk", st.Size, st.Blocks*512)
	}
	f, err := os.Open(b.path("in/image"))
	must(t, err)
	defer f.Close()
	sum, want := sha256.New(), sha256.New()
	_, err = io.Copy(sum, f)
	must(t, err)
	_, body, err := (&zeros{size: size}).Get(t.Context(), "")
	must(t, err)
	defer body.Close()
	_, err = io.Copy(want, body)
	must(t, err)
	if !bytes.Equal(sum.Sum(nil), want.Sum(nil)) {
		t.Error("the file has other content")
	}
}

func TestDiskOfTheVolumesIsFull(t *testing.T) {
	store := newMemStore()
	store.set("down/a/large", noise(30<<20), s3.Upload{})
	store.set("down/b/medium", noise(7<<20), s3.Upload{})
	store.set("down/c/small", []byte("small"), s3.Upload{})
	var volumes string
	b := newBench(t, store, paths(nil, down()), func(c *Config) {
		volumes = c.VolumesDir
		must(t, os.MkdirAll(volumes, 0o755))
		must(t, unix.Mount("tmpfs", volumes, "tmpfs", 0, "size=24m"))
		t.Cleanup(func() { must(t, unix.Unmount(volumes, 0)) })
	})
	for range 2 {
		if err := b.sync(ingress); err == nil {
			t.Error("30 MiB fit into 24")
		}
	}
	if s := b.status(ingress); s.Blocked == "" || s.Pending != 1 || len(b.temps()) != 0 {
		t.Errorf("status %+v, left over %v", s, b.temps())
	}
	if got := b.files("in"); len(got) != 2 || got["c/small"] != "small" {
		t.Errorf("%d files", len(got))
	}
	must(t, unix.Mount("tmpfs", volumes, "tmpfs", unix.MS_REMOUNT, "size=64m"))
	b.mustSync(ingress)
	if got := b.read("in/a/large"); len(got) != 30<<20 || b.status(ingress).Blocked != "" {
		t.Errorf("%d bytes, status %+v", len(got), b.status(ingress))
	}
	// Small ones, many at once, with no room for half of them.
	must(t, os.RemoveAll(b.path("in")))
	must(t, unix.Mount("tmpfs", volumes, "tmpfs", unix.MS_REMOUNT, "size=4m"))
	for _, key := range []string{"down/a/large", "down/b/medium"} {
		store.remove(key)
	}
	const n = 100
	for i := range n {
		store.set(fmt.Sprintf("down/many/f%d", i), noise(80<<10), s3.Upload{})
	}
	if err := b.sync(ingress); err == nil {
		t.Error("8 MB fit into 4 MiB")
	}
	for name, data := range b.files("in") {
		if strings.HasPrefix(name, "many/") && data != string(noise(80<<10)) {
			t.Errorf("%s has %d bytes", name, len(data))
		}
	}
	if len(b.temps()) != 0 {
		t.Errorf("left over: %v", b.temps())
	}
	must(t, unix.Mount("tmpfs", volumes, "tmpfs", unix.MS_REMOUNT, "size=64m"))
	b.mustSync(ingress)
	if got := b.files("in/many"); len(got) != n {
		t.Errorf("%d files", len(got))
	}
}
