//go:build integration

package datasync

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
	"github.com/project-flotta/flotta-agent/internal/secret"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
	"github.com/project-flotta/flotta-agent/test/testenv"
)

// counted counts the requests of a client.
type counted struct {
	http.RoundTripper

	n *atomic.Int64
}

func (c counted) RoundTrip(r *http.Request) (*http.Response, error) {
	c.n.Add(1)
	return c.RoundTripper.RoundTrip(r)
}

// realStore returns a client of a new bucket and the count of its requests.
func realStore(t testing.TB, server *testenv.S3Server, change func(*s3.Config)) (*s3.Client, *atomic.Int64) {
	t.Helper()
	cfg := s3Config(t, server)
	requests := new(atomic.Int64)
	cfg.Wrap = func(next http.RoundTripper) http.RoundTripper { return counted{next, requests} }
	if change != nil {
		change(&cfg)
	}
	client, err := s3.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client, requests
}

func putObject(t testing.TB, client *s3.Client, key string, data []byte) {
	t.Helper()
	_, err := client.Put(t.Context(), s3.Upload{Key: key, Body: bytes.NewReader(data), Size: int64(len(data))})
	if err != nil {
		t.Fatal(err)
	}
}

func getObject(t testing.TB, client *s3.Client, key string) []byte {
	t.Helper()
	_, body, err := client.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(body)
	if err != nil || body.Close() != nil {
		t.Fatal(err)
	}
	return data
}

func TestBothDirectionsOverTLS(t *testing.T) {
	client, requests := realStore(t, testenv.S3(t), nil)
	b := newBench(t, client, paths(up(), down()), nil)
	names := append([]string{"empty"}, oddNames...)
	for i, name := range names {
		b.write("out/"+name, strings.Repeat("x", i))
		putObject(t, client, "down/"+name, bytes.Repeat([]byte("y"), i))
	}
	b.mustSync(egress)
	b.mustSync(ingress)
	for i, name := range names {
		if got := getObject(t, client, "up/"+name); string(got) != strings.Repeat("x", i) {
			t.Errorf("object %q has %d bytes, want %d", name, len(got), i)
		}
		if got := b.read("in/" + name); got != strings.Repeat("y", i) {
			t.Errorf("file %q has %d bytes, want %d", name, len(got), i)
		}
	}
	b.mustSync(egress)
	before := requests.Load()
	b.mustSync(egress)
	if n := requests.Load() - before; n != 0 {
		t.Errorf("an idle egress cycle makes %d requests", n)
	}
	before = requests.Load()
	b.mustSync(ingress)
	if n := requests.Load() - before; n != 1 {
		t.Errorf("an idle ingress cycle makes %d requests, want 1", n)
	}
	// The same size and an older time.
	old := time.Now().Add(-time.Hour)
	b.write("out/"+names[5], strings.Repeat("z", 5))
	if err := os.Chtimes(b.path("out/"+names[5]), old, old); err != nil {
		t.Fatal(err)
	}
	putObject(t, client, "down/"+names[5], []byte("zzzzz"))
	b.mustSync(egress)
	b.mustSync(ingress)
	if got := getObject(t, client, "up/"+names[5]); string(got) != "zzzzz" {
		t.Errorf("changed object %q", got)
	}
	if got := b.read("in/" + names[5]); got != "zzzzz" {
		t.Errorf("changed file %q", got)
	}
	// A lost index.
	b.stop()
	if err := os.Remove(filepath.Join(b.dir, "datasync.db")); err != nil {
		t.Fatal(err)
	}
	files := b.status(egress).Files + b.status(ingress).Files
	b.restart()
	b.mustSync(egress)
	b.mustSync(ingress)
	if n := b.status(egress).Files + b.status(ingress).Files; n != 0 {
		t.Errorf("%d of %d files were transferred again", n, files)
	}
}

func TestLargeFilesBothWays(t *testing.T) {
	client, _ := realStore(t, testenv.S3(t), nil)
	b := newBench(t, client, paths(up(), down()), nil)
	data := make([]byte, 100<<20+1234)
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(data)
	b.write("out/large", string(data))
	var low, high runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&low)
	b.mustSync(egress)
	runtime.ReadMemStats(&high)
	if grown := high.TotalAlloc - low.TotalAlloc; grown > 64<<20 {
		t.Errorf("sending 100 MiB allocated %d MiB", grown>>20)
	}
	o, err := client.Head(t.Context(), "up/large")
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	if !bytes.Equal(o.SHA256, sum[:]) || !strings.Contains(o.ETag, "-") {
		t.Errorf("object: %+v", o)
	}
	if got := getObject(t, client, "up/large"); !bytes.Equal(got, data) {
		t.Error("the object has other content")
	}
	if _, err := client.Put(t.Context(), s3.Upload{Key: "down/large", Body: bytes.NewReader(data), Size: int64(len(data))}); err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	runtime.ReadMemStats(&low)
	b.mustSync(ingress)
	runtime.ReadMemStats(&high)
	if grown := high.TotalAlloc - low.TotalAlloc; grown > 64<<20 {
		t.Errorf("receiving 100 MiB allocated %d MiB", grown>>20)
	}
	got, err := os.ReadFile(b.path("in/large"))
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("the file has other content (err %v)", err)
	}
	// Neither travels again when the index is lost.
	b.stop()
	if err := os.Remove(filepath.Join(b.dir, "datasync.db")); err != nil {
		t.Fatal(err)
	}
	b.restart()
	b.mustSync(egress)
	if n := b.status(egress).Files; n != 0 {
		t.Errorf("%d files were sent again", n)
	}
}

func TestStoreThatDoesNotWork(t *testing.T) {
	server := testenv.S3(t)
	other := testenv.S3(t)
	for name, change := range map[string]func(*s3.Config){
		"another CA":          func(c *s3.Config) { c.CABundle = other.CA },
		"the system's roots":  func(c *s3.Config) { c.CABundle = nil },
		"a wrong secret":      func(c *s3.Config) { c.SecretAccessKey = secret.New("wrong") },
		"an unknown key":      func(c *s3.Config) { c.AccessKeyID = secret.New("wrong") },
		"no such bucket":      func(c *s3.Config) { c.Bucket = "nothing-here" },
		"nobody listens":      func(c *s3.Config) { c.Port = 1 },
		"a name of nobody":    func(c *s3.Config) { c.Host = "store.invalid" },
		"an unrelated server": func(c *s3.Config) { c.Port = other.Port },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := s3.Config{
				Host: server.Host, Port: server.Port, Bucket: testBucket, Region: server.Region,
				AccessKeyID: secret.New(server.AccessKey), SecretAccessKey: secret.New(server.SecretKey), CABundle: server.CA,
			}
			change(&cfg)
			client, err := s3.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(client.Close)
			b := newBench(t, client, paths(up(), down()), nil)
			for i := range 50 {
				b.write(fmt.Sprintf("out/f%d", i), "data")
			}
			for _, d := range []direction{egress, ingress} {
				if err := b.sync(d); err == nil {
					t.Errorf("%s works", d)
				}
				s := b.status(d)
				if s.LastError == "" || strings.Contains(s.LastError, server.SecretKey) {
					t.Errorf("%s: status %+v", d, s)
				}
			}
		})
	}
}

// cut is a line to a server that can be cut.
type cut struct {
	listener net.Listener
	mu       sync.Mutex
	open     map[net.Conn]bool
	down     bool
}

func newCut(t testing.TB, to string) *cut {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cut{listener: listener, open: map[net.Conn]bool{}}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil || !c.add(in, out) {
				_ = in.Close()
				if out != nil {
					_ = out.Close()
				}
				continue
			}
			for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
				all.Go(func() {
					_, _ = io.Copy(pair[0], pair[1])
					_, _ = pair[0].Close(), pair[1].Close()
				})
			}
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		c.set(true)
		all.Wait()
	})
	return c
}

func (c *cut) add(conns ...net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range conns {
		c.open[conn] = true
	}
	return !c.down
}

// set cuts the line, with all that travels on it, or mends it.
func (c *cut) set(down bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = down
	for conn := range c.open {
		_ = conn.Close()
	}
	clear(c.open)
}

func TestLineIsCutAndMended(t *testing.T) {
	server := testenv.S3(t)
	line := newCut(t, net.JoinHostPort(server.Host, fmt.Sprint(server.Port)))
	client, _ := realStore(t, server, func(c *s3.Config) { c.Port = line.listener.Addr().(*net.TCPAddr).Port })
	direct, err := s3.New(s3.Config{
		Host: server.Host, Port: server.Port, Bucket: testBucket, Region: server.Region,
		AccessKeyID: secret.New(server.AccessKey), SecretAccessKey: secret.New(server.SecretKey), CABundle: server.CA,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(direct.Close)
	// The engine comes back by itself: nobody asks it to.
	b := newBench(t, client, paths(up(), down()), func(c *Config) { c.Interval = 100 * time.Millisecond })
	want := map[string]string{}
	for round := range 4 {
		for i := range 100 {
			name := fmt.Sprintf("f%d-%d", round, i)
			want[name] = name
			b.write("out/"+name, name)
			putObject(t, direct, "down/"+name, []byte(name))
		}
		line.set(true)
		time.Sleep(time.Duration(round) * 50 * time.Millisecond)
		line.set(false)
	}
	eventually(t, "all files are down", func() bool { return cmp.Equal(want, b.files("in")) })
	eventually(t, "all files are up", func() bool { return b.status(egress).Pending == 0 && len(keysOf(t, direct, "up/")) == len(want) })
	if diff := cmp.Diff(want, b.files("in")); diff != "" {
		t.Error(diff)
	}
	for name, data := range want {
		if got := getObject(t, direct, "up/"+name); string(got) != data {
			t.Errorf("object %s is %q", name, got)
		}
	}
}

func TestKilledAtAnyTime(t *testing.T) {
	server := testenv.S3(t)
	client, _ := realStore(t, server, nil)
	b := newBench(t, client, paths(up(), down()), nil)
	b.stop()
	const n = 600
	want := map[string]string{}
	for i := range n {
		name := fmt.Sprintf("d%d/f%d", i%7, i)
		want[name] = strings.Repeat(name, i)
		b.write("out/"+name, want[name])
		putObject(t, client, "down/"+name, []byte(want[name]))
	}
	big := strings.Repeat("0123456789abcdef", 2<<20)
	want["big"] = big
	b.write("out/big", big)
	putObject(t, client, "down/big", []byte(big))
	settings := filepath.Join(b.dir, "crash.json")
	raw, err := json.Marshal(crashSettings{
		Dir: b.dir, Host: server.Host, Port: server.Port, Bucket: testBucket,
		Key: server.AccessKey, Secret: server.SecretKey, CA: server.CA,
	})
	if err == nil {
		err = os.WriteFile(settings, raw, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	partly := 0
	for round := 0; round < 10 || partly == 0 && round < 40; round++ {
		killOnce(t, settings, time.Duration(100+round*40)*time.Millisecond)
		if records := checkIndex(t, b, client, want); records > 0 && records < 2*len(want) {
			partly++
		}
	}
	if partly == 0 {
		t.Error("no kill came between two records")
	}
	b.restart()
	b.mustSync(egress)
	b.mustSync(ingress)
	if diff := cmp.Diff(want, b.files("in")); diff != "" {
		t.Errorf("files differ: %.500s", diff)
	}
	for name, data := range want {
		if got := getObject(t, client, "up/"+name); string(got) != data {
			t.Errorf("object %s has %d bytes, want %d", name, len(got), len(data))
		}
	}
}

// killOnce runs the engine in a process of its own and kills it after a while.
func killOnce(t *testing.T, settings string, after time.Duration) {
	t.Helper()
	var log bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), after)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), crashVar+"="+settings)
	cmd.Stderr = &log
	if err := cmd.Run(); ctx.Err() == nil {
		t.Fatalf("the process ended by itself: %v\n%s", err, log.String())
	}
}

// checkIndex fails for every record that claims what is not so, and returns how
// many there are.
func checkIndex(t *testing.T, b *bench, client *s3.Client, want map[string]string) (records int) {
	t.Helper()
	path := filepath.Join(b.dir, "datasync.db")
	if _, err := os.Stat(path); err != nil {
		return 0 // killed before it was made
	}
	ix, err := tryIndex(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ix.close() //nolint:errcheck // read only.
	stored := map[string]s3.Object{}
	err = client.List(t.Context(), "up/", func(p []s3.Object) error {
		for _, o := range p {
			stored[strings.TrimPrefix(o.Key, "up/")] = o
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for id, n := range ix.counts {
		sent := strings.Contains(id, "\x00egress\x00")
		names, err := ix.paths(id, "", n+1)
		if err != nil || len(names) != n {
			t.Fatalf("%d records, counted %d (err %v)", len(names), n, err)
		}
		for _, name := range names {
			_, rel, _ := strings.Cut(name, "/")
			if o := stored[rel]; sent && o.Size != int64(len(want[rel])) {
				t.Errorf("%s is recorded as sent, and has %d bytes in the bucket", rel, o.Size)
			}
			if data, err := os.ReadFile(b.path(name)); !sent && (err != nil || string(data) != want[rel]) {
				t.Errorf("%s is recorded as received, and has %d bytes (err %v)", rel, len(data), err)
			}
		}
		records += n
	}
	return records
}

// TestAsTheWireSaysIt uses nothing but a configuration as it arrives.
func TestAsTheWireSaysIt(t *testing.T) {
	server := testenv.S3(t)
	client, _ := realStore(t, server, nil)
	told := paths(up(), down())
	b64 := base64.StdEncoding.EncodeToString
	told.storage.BucketHost, told.storage.BucketPort = server.Host, int32(server.Port)
	told.storage.BucketName, told.storage.BucketRegion = testBucket, server.Region
	told.storage.AWSAccessKeyID, told.storage.AWSSecretAccessKey = b64([]byte(server.AccessKey)), b64([]byte(server.SecretKey))
	told.storage.AWSCABundle = b64(server.CA)
	t.Setenv("AWS_ACCESS_KEY_ID", "not this one")
	t.Setenv("AWS_CA_BUNDLE", "/nor/this")
	t.Setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
	t.Setenv("AWS_REGION", "mars-north-1")
	b := newBench(t, nil, told, func(c *Config) { c.Interval, c.Settle = 200*time.Millisecond, 0 })
	b.write("out/f", "up")
	putObject(t, client, "down/f", []byte("down"))
	eventually(t, "the file is up", func() bool { return len(keysOf(t, client, "up/")) == 1 })
	eventually(t, "the file is down", func() bool { return b.files("in")["f"] == "down" })
	if got := getObject(t, client, "up/f"); string(got) != "up" || b.read("in/f") != "down" {
		t.Errorf("object %q, file %q", got, b.read("in/f"))
	}
	// The secret changes while it runs, and changes back.
	right := told.storage.AWSSecretAccessKey
	told.storage.AWSSecretAccessKey = b64([]byte("wrong"))
	b.tell(told)
	eventually(t, "the wrong secret shows", func() bool { return b.status(ingress).LastError != "" })
	told.storage.AWSSecretAccessKey = right
	b.tell(told)
	b.write("out/g", "up again")
	eventually(t, "it works again", func() bool { return len(keysOf(t, client, "up/")) == 2 })
}

func TestDownloadsBelongToTheOwner(t *testing.T) {
	store := newMemStore()
	store.set("down/a/b/f", []byte("x"), s3.Upload{Mode: 0o4711})
	b := newBench(t, store, paths(nil, down()), func(c *Config) { c.Owner = &Owner{UID: 4321, GID: 1234} })
	b.mustSync(ingress)
	for name, mode := range map[string]os.FileMode{
		".": 0o755 | os.ModeDir, "in": 0o755 | os.ModeDir, "in/a/b": 0o755 | os.ModeDir, "in/a/b/f": 0o755,
	} {
		info, err := os.Stat(b.path(name))
		if err != nil {
			t.Fatal(err)
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok || st.Uid != 4321 || st.Gid != 1234 || info.Mode() != mode {
			t.Errorf("%s: %v, owner %d:%d", name, info.Mode(), st.Uid, st.Gid)
		}
	}
}

// TestFullDisk fills a small disk: downloads stop before it is full, and go on.
func TestFullDisk(t *testing.T) {
	store := newMemStore()
	for i := range 8 {
		store.set(fmt.Sprintf("down/f%d", i), bytes.Repeat([]byte{byte(i + 1)}, 1<<20), s3.Upload{})
	}
	b := newBench(t, store, paths(nil, []protocol.DataPath{{Source: "nothing", Target: "in"}}), func(c *Config) {
		c.ReserveBytes = 2 << 20
	})
	b.stop()
	disk := b.path("")
	if err := os.MkdirAll(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(disk, syscall.MNT_DETACH) })
	b.write("ballast", strings.Repeat("x", 2<<20))
	b.tell(paths(nil, down()))
	b.restart()
	if err := b.sync(ingress); err == nil {
		t.Error("all fits")
	}
	if s := b.status(ingress); s.Blocked == "" || len(b.files("in")) == 0 || len(b.files("in")) > 4 {
		t.Errorf("%d files, status %+v", len(b.files("in")), s)
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(disk, &st); err != nil || int64(st.Bavail)*st.Bsize < 2<<20 {
		t.Errorf("%d blocks are free (err %v)", st.Bavail, err)
	}
	if err := os.Remove(b.path("ballast")); err != nil {
		t.Fatal(err)
	}
	// Two files still have no room, so the reserve is what stops now.
	for range 3 { // a claim whose bytes are written counts twice while it lasts
		_ = b.sync(ingress)
	}
	if n := len(b.files("in")); n != 6 && n != 5 {
		t.Errorf("%d files", n)
	}
}
