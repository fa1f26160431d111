//go:build integration

package datasync

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"

	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/test/testenv"
)

// partsCount counts the parts that a store took, and lets no more than most of
// them through.
type partsCount struct {
	http.RoundTripper

	taken, most atomic.Int64
}

func (c *partsCount) RoundTrip(r *http.Request) (*http.Response, error) {
	if !r.URL.Query().Has("partNumber") {
		return c.RoundTripper.RoundTrip(r)
	}
	if c.taken.Add(1) > c.most.Load() {
		c.taken.Add(-1)
		_ = r.Body.Close()
		return nil, errors.New("the line is cut")
	}
	return c.RoundTripper.RoundTrip(r)
}

// partStore returns a client with parts of 5 MiB that counts those that travel.
func partStore(t *testing.T, cfg s3.Config, most int64) (*s3.Client, *partsCount) {
	t.Helper()
	count := &partsCount{}
	count.most.Store(most)
	cfg.PartBytes = memPartBytes
	cfg.Wrap = func(next http.RoundTripper) http.RoundTripper {
		count.RoundTripper = next
		return count
	}
	client, err := s3.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client, count
}

const plenty = 1 << 30

func TestOnlyMissingPartsTravelAfterARestart(t *testing.T) {
	for name, plainHTTP := range map[string]bool{"https": false} {
		t.Run(name, func(t *testing.T) {
			server := testenv.S3(t)
			cfg := s3Config(t, server)
			cfg.PlainHTTP = plainHTTP
			client, count := partStore(t, cfg, 7)
			b := newBench(t, client, paths(up(), nil), nil)
			data := random(50<<20+5, 4) // 11 parts
			b.write("out/large", string(data))
			if err := b.sync(egress); err == nil {
				t.Fatal("no error")
			}
			if n := count.taken.Load(); n != 7 {
				t.Fatalf("%d parts were taken", n)
			}
			b.stop()
			// Another process, other settings of the connection, the same bucket.
			client, count = partStore(t, cfg, plenty)
			b.engine.cfg.Open = func(desired.Storage) (Store, error) { return client, nil }
			b.restart()
			b.mustSync(egress)
			if n := count.taken.Load(); n != 4 {
				t.Errorf("%d parts travelled again, want 4", n)
			}
			if got := getObject(t, client, "up/large"); string(got) != string(data) {
				t.Error("other content")
			}
			if left := unfinishedIn(t, client, "up/"); len(left) > 0 {
				t.Errorf("left: %+v", left)
			}
		})
	}
}

// killWhen runs the engine in a process of its own and kills it when it has come
// so far.
func killWhen(t *testing.T, settings, what string, far func() bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashVar+"="+settings)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	eventually(t, what, far)
}

// TestKilledInALargeUpload kills the agent in the middle of one file, again and
// again.
func TestKilledInALargeUpload(t *testing.T) {
	server := testenv.S3(t)
	cfg := s3Config(t, server)
	client, count := partStore(t, cfg, plenty)
	b := newBench(t, client, paths(up(), nil), nil)
	b.stop()
	const size = 400 << 20
	b.write("out/large", "begin")
	if err := os.Truncate(b.path("out/large"), size); err != nil {
		t.Fatal(err)
	}
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
	const total = size / memPartBytes
	id, have := "", 0
	for round := range 20 {
		killWhen(t, settings, "a further part is there", func() bool {
			left := unfinishedIn(t, client, "up/")
			return len(left) == 1 && partsThere(t, server, left[0]) > have
		})
		left := unfinishedIn(t, client, "up/")
		if len(left) > 1 || id != "" && left[0].ID != id {
			t.Fatalf("round %d: %+v, before %q", round, left, id)
		}
		id = left[0].ID
		now := partsThere(t, server, left[0])
		if now < have {
			t.Fatalf("round %d: %d parts, before %d", round, now, have)
		}
		if have = now; have > total/2 {
			break
		}
	}
	if have == 0 || have >= total {
		t.Fatalf("%d of %d parts are there: no kill came in between", have, total)
	}
	b.restart()
	b.mustSync(egress)
	// What the killed process had sent may have arrived after that was looked at.
	if n := count.taken.Load(); n > int64(total-have) || n < int64(total-have-3) {
		t.Errorf("%d parts travelled, and %d of %d were there", n, have, total)
	}
	o, err := client.Head(t.Context(), "up/large")
	if err != nil || o.Size != size {
		t.Errorf("object %+v (err %v)", o, err)
	}
	if left := unfinishedIn(t, client, "up/"); len(left) > 0 {
		t.Errorf("left: %+v", left)
	}
}

func partsThere(t *testing.T, server *testenv.S3Server, u s3.Begun) int {
	t.Helper()
	bucket := testBucket
	out, err := server.Client().ListParts(t.Context(), &awss3.ListPartsInput{Bucket: &bucket, Key: &u.Key, UploadId: &u.ID})
	if err != nil {
		t.Fatal(err)
	}
	return len(out.Parts)
}
