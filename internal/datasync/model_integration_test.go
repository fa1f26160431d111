//go:build integration

package datasync

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/test/testenv"
)

var (
	stormSteps = flag.Int("datasync.storm", 600, "steps of each model test against a real store")
	stormSeed  = flag.Uint64("datasync.seed", 1, "the first seed of the model tests against a real store; 0: another one each time")
)

// realBucket is somebody else's direct line to the bucket, without the proxy.
type realBucket struct {
	t      testing.TB
	server *testenv.S3Server
	client *s3.Client
	seen   map[string]string // content by key and ETag
}

func (b *realBucket) set(key, data string) {
	u := s3.Upload{Key: key, Body: strings.NewReader(data), Size: int64(len(data))}
	if _, err := b.client.Put(b.t.Context(), u); err != nil {
		b.t.Fatal(err)
	}
}

func (b *realBucket) remove(key string) {
	_, err := b.server.Client().DeleteObject(b.t.Context(), &awss3.DeleteObjectInput{Bucket: aws.String(testBucket), Key: &key})
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *realBucket) contents() map[string]string {
	out := map[string]string{}
	seen := map[string]string{}
	err := b.client.List(b.t.Context(), "", func(page []s3.Object) error {
		for _, o := range page {
			if strings.HasSuffix(o.Key, "/") || unfinished(o.Key) {
				continue // a folder, or what is being made
			}
			id := o.Key + "\x00" + o.ETag
			data, known := b.seen[id]
			if !known {
				data = string(getObject(b.t, b.client, o.Key))
			}
			out[o.Key], seen[id] = data, data
		}
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.seen = seen
	return out
}

// unfinished says of an object that versitygw makes another one of it, or did
// when it was interrupted. It lists them.
func unfinished(name string) bool { return strings.Contains(name, ".sgwtmp.") }

// storm is a model whose engine talks to a real store through a proxy that
// makes requests fail, and is killed, restarted, and robbed of its index.
type storm struct {
	*model

	server *testenv.S3Server
	proxy  *testenv.FaultProxy
	told   configuration

	copied   map[string]string // what was downloaded last when the index was copied
	happened map[string]int
}

// killed is the trouble that an agent is killed.
const killed = "kill"

func newStorm(t *testing.T, seed uint64) *storm {
	server := testenv.S3(t)
	proxy := testenv.NewFaultProxy(t, server, seed)
	proxy.StallFor = time.Second
	// What was sent is listed when the index is lost, or was not complete: from an
	// old listing nobody could tell what is there.
	proxy.StaleBelow = "down/"
	direct, _ := realStore(t, server, nil)
	told := paths(up(), down())
	told.storage.BucketHost, told.storage.BucketPort = proxy.Host, int32(proxy.Port)
	told.storage.BucketName, told.storage.BucketRegion = testBucket, server.Region
	told.storage.AWSAccessKeyID, told.storage.AWSSecretAccessKey = encoded(server.AccessKey), encoded(server.SecretKey)
	told.storage.AWSCABundle = encoded(string(proxy.CA()))
	b := newBench(t, nil, told, func(c *Config) { c.Open = openStorm })
	s := &storm{
		model:  newModel(b, &realBucket{t: t, server: server, client: direct}, seed),
		server: server, proxy: proxy, told: told, happened: map[string]int{},
	}
	s.folders, s.large = true, 6<<20
	s.converge = func() {
		s.settle()
		for name := range s.files("in") {
			if unfinished(name) {
				_ = os.Remove(s.path("in/" + name))
			}
		}
	}
	return s
}

// openStorm is openS3 with less patience.
func openStorm(d desired.Storage) (Store, error) {
	c := s3.Config{
		Host: d.Host, Port: d.Port, Bucket: d.Bucket, Region: d.Region,
		AccessKeyID: d.AccessKeyID, SecretAccessKey: d.SecretAccessKey, CABundle: d.CABundle,
		PartBytes: 5 << 20, Attempts: 2,
	}
	return s3.New(c)
}

// TestStorm is the model test against a real store, with everything that can go
// wrong on the way.
func TestStorm(t *testing.T) {
	t.Parallel()
	first := *stormSeed
	if first == 0 {
		first = rand.Uint64N(1 << 30)
	}
	var mu sync.Mutex
	injected, happened := map[testenv.Fault]int{}, map[string]int{}
	t.Run("seeds", func(t *testing.T) {
		for seed := first; seed < first+3; seed++ {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				s := newStorm(t, seed)
				s.run(*stormSteps)
				mu.Lock()
				defer mu.Unlock()
				for f, n := range s.proxy.Injected() {
					injected[f] += n
				}
				for what, n := range s.happened {
					happened[what] += n
				}
				if t.Failed() {
					t.Logf("again: go test -tags integration -run TestStorm ./internal/datasync -datasync.seed %d -datasync.storm %d", seed, *stormSteps)
				}
			})
		}
	})
	t.Logf("faults %v, and what happened: %v", injected, happened)
	if t.Failed() || *stormSteps < 600 {
		return
	}
	for _, f := range testenv.Faults() {
		if injected[f] == 0 {
			t.Errorf("no %s was injected", f)
		}
	}
	for _, what := range []string{killed, "index lost", "index damaged", "old index", "wrong secret", "new authority", "busy"} {
		if happened[what] == 0 {
			t.Errorf("it never happened: %s", what)
		}
	}
}

// run does steps, and looks now and then whether all is as it should be.
func (s *storm) run(steps int) {
	for step := 0; step < steps; step++ {
		what := s.step()
		if s.random.IntN(8) != 0 {
			continue
		}
		history := []string{what}
		if s.random.IntN(3) == 0 {
			history = append(history, s.tamper())
		}
		for s.random.IntN(2) == 0 {
			n, trouble := s.trouble()
			step += n
			history = append(history, trouble)
			if trouble == killed {
				break // what it downloaded and did not record is the workload's once the object changes
			}
		}
		s.check(fmt.Sprintf("step %d, after %s", step, strings.Join(history, ", ")))
		if s.t.Failed() {
			return
		}
	}
	// What chance left out.
	for _, f := range testenv.Faults() {
		if s.proxy.Injected()[f] > 0 {
			continue
		}
		s.write("out/last", string(f))
		s.bucket.set("down/f0", string(f))
		s.proxy.Inject(1, f)
		_ = s.sync(egress)
		_ = s.sync(ingress)
		s.proxy.Inject(0)
		s.check("the end, after " + string(f))
	}
}

func (s *storm) note(what string) string {
	s.happened[what]++
	return what
}

// tamper does something to the index, and lets the model know. An old listing
// would then show objects that nothing is known of, where there are others.
func (s *storm) tamper() string {
	index := s.engine.cfg.IndexPath
	saved := index + ".saved"
	s.stop()
	defer s.start(s.engine.cfg)
	s.proxy.ForgetListings()
	switch s.random.IntN(5) {
	case 0:
		if err := os.Remove(index); err != nil {
			s.t.Fatal(err)
		}
		clear(s.last)
		s.clear()
		return s.note("index lost")
	case 1:
		junk := bytes.Repeat([]byte{0xa5, byte(s.random.IntN(256))}, 8<<10)
		f, err := os.OpenFile(index, os.O_WRONLY, 0)
		if err == nil {
			_, err = f.Write(junk)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			s.t.Fatal(err)
		}
		clear(s.last)
		s.clear()
		return s.note("index damaged")
	case 2:
		if _, err := os.Stat(saved); err == nil {
			s.copyFile(saved, index)
			s.last = maps.Clone(s.copied)
			return s.note("old index")
		}
	case 3:
		s.copyFile(index, saved)
		s.copied = maps.Clone(s.last)
		return s.note("index copied")
	}
	return s.note("restart")
}

// clear removes the objects that keep others from being stored. An index that
// knows them would not notice, so it is done when there is none.
func (s *storm) clear() {
	objects := s.bucket.contents()
	for key := range objects {
		name, sent := strings.CutPrefix(key, "up/")
		if !sent || !inWay(objects, key) {
			continue
		}
		if info, err := os.Lstat(s.path("out/" + name)); err != nil || !info.Mode().IsRegular() {
			s.bucket.remove(key)
		}
	}
}

func (s *storm) copyFile(from, to string) {
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o600)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// trouble lets the engine work while something goes wrong, and returns how many
// steps were made meanwhile.
func (s *storm) trouble() (steps int, what string) {
	switch s.random.IntN(8) {
	case 0:
		s.told.storage.AWSSecretAccessKey = encoded("wrong")
		s.tell(s.told)
		s.fails("a wrong secret")
		s.told.storage.AWSSecretAccessKey = encoded(s.server.SecretKey)
		s.tell(s.told)
		return 0, s.note("wrong secret")
	case 1:
		if err := s.proxy.NewAuthority(); err != nil {
			s.t.Fatal(err)
		}
		s.fails("an authority that nobody knows")
		s.told.storage.AWSCABundle = encoded(string(s.proxy.CA()))
		s.tell(s.told)
		return 0, s.note("new authority")
	case 2, 3:
		s.kill()
		return 0, s.note(killed)
	case 4, 5:
		return s.busy(), s.note("busy")
	}
	s.proxy.Inject(0.1 + s.random.Float64()/2)
	_ = s.sync(egress)
	_ = s.sync(ingress)
	s.proxy.Inject(0)
	return 0, s.note("faults")
}

// fails expects ingress not to work, and to say so.
func (s *storm) fails(why string) {
	s.t.Helper()
	eventually(s.t, why+" shows", func() bool {
		_ = s.sync(ingress)
		return s.status(ingress).LastError != ""
	})
}

// kill works in a process of its own for a while, and kills it.
func (s *storm) kill() {
	s.stop()
	s.proxy.Inject(0.05)
	settings := filepath.Join(s.dir, "crash.json")
	raw, err := json.Marshal(crashSettings{
		Dir: s.dir, Host: s.proxy.Host, Port: s.proxy.Port, Bucket: testBucket,
		Key: s.server.AccessKey, Secret: s.server.SecretKey, CA: s.proxy.CA(),
	})
	if err == nil {
		err = os.WriteFile(settings, raw, 0o600)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Duration(50+s.random.IntN(400))*time.Millisecond)
	defer cancel()
	var log bytes.Buffer
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), crashVar+"="+settings)
	cmd.Stderr = &log
	if err := cmd.Run(); ctx.Err() == nil {
		s.t.Fatalf("the process ended by itself: %v\n%s", err, log.String())
	}
	s.proxy.Inject(0)
	s.start(s.engine.cfg)
}

// busy changes files and objects while the engine works and requests fail.
func (s *storm) busy() (steps int) {
	s.proxy.Inject(0.1)
	ctx, cancel := context.WithCancel(s.t.Context())
	var cycles sync.WaitGroup
	for _, d := range []direction{egress, ingress} {
		cycles.Go(func() {
			for ctx.Err() == nil {
				_ = s.engine.syncNow(ctx, groupKey{testWorkload, d})
			}
		})
	}
	for steps = range 10 + s.random.IntN(30) {
		if s.random.IntN(4) > 0 {
			s.egressStep()
			continue
		}
		// What the workload has changed is left alone: what becomes of it
		// would depend on the moment.
		name := fmt.Sprintf("f%d", s.random.IntN(6))
		local, isHere := s.local[name]
		if last, known := s.last[name]; !isHere || known && last == local {
			s.bucket.set("down/"+name, s.content())
		}
	}
	cancel()
	cycles.Wait()
	s.proxy.Inject(0)
	return steps
}

// settle makes cycles until both directions have nothing left to do.
func (s *storm) settle() {
	s.t.Helper()
	// Items that failed wait longer and longer, but not beyond a restart.
	if s.random.IntN(2) == 0 {
		s.restart()
	}
	deadline := time.Now().Add(2 * time.Minute)
	for {
		sent, received := s.sync(egress), s.sync(ingress)
		if sent != nil && s.inWay() && s.status(egress).Pending == 0 {
			sent = nil // the store has no room for a file beside a folder
		}
		if sent == nil && received == nil && s.status(egress).Pending == 0 && s.status(ingress).Pending == 0 {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("still not done after two minutes: %v, %v, %+v", sent, received, s.engine.Status())
		}
		s.restart()
	}
}

// inWay reports whether there are files that the store can't hold beside others.
func (s *storm) inWay() bool {
	objects := s.bucket.contents()
	for name := range s.files("out") {
		if inWay(objects, "up/"+name) {
			return true
		}
	}
	return false
}
