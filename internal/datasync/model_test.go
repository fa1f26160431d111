package datasync

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
)

var modelSteps = flag.Int("datasync.steps", 400, "steps of each model test")

// bucket is what somebody else does with a bucket, and sees of it.
type bucket interface {
	// set stores data under key, or nothing when the store can't hold the key.
	set(key, data string)
	remove(key string)
	contents() map[string]string
}

type memBucket struct{ *memStore }

func (b memBucket) set(key, data string) { b.memStore.set(key, []byte(data), s3.Upload{}) }

// model does random things on both sides, and knows what both sides have to look
// like after a cycle of each direction.
type model struct {
	*bench

	bucket bucket
	random *rand.Rand
	// converge makes cycles until nothing is left to do.
	converge func()
	// folders says that a key can't be an object and the folder of others.
	folders bool
	// large is how big files are that travel in parts; 0: there are none.
	large int

	local map[string]string // what the workload has in in/
	aside map[string]string // what was kept aside there
	last  map[string]string // object content that was last downloaded
}

func newModel(b *bench, store bucket, seed uint64) *model {
	m := &model{
		bench: b, bucket: store, random: rand.New(rand.NewPCG(seed, 99)),
		local: map[string]string{}, aside: map[string]string{}, last: map[string]string{},
	}
	m.converge = func() {
		m.mustSync(egress)
		m.mustSync(ingress)
	}
	m.write("out/first", "")
	return m
}

func TestModel(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			store := newMemStore()
			m := newModel(newBench(t, store, paths(up(), down()), nil), memBucket{store}, seed)
			for step := range *modelSteps {
				what := m.step()
				if m.random.IntN(4) != 0 {
					continue
				}
				m.check(fmt.Sprintf("step %d, after %s", step, what))
				if t.Failed() {
					return
				}
			}
		})
	}
}

func (m *model) content() string {
	// Few sizes and few contents, so that the same come again.
	return strings.Repeat(string(rune('a'+m.random.IntN(4))), m.random.IntN(3))
}

// step does one thing.
func (m *model) step() string {
	switch kind := m.random.IntN(24); {
	case kind < 14:
		return m.egressStep()
	case kind < 18:
		return m.objectStep()
	case kind < 22:
		return m.ingressStep()
	case kind == 22 && m.random.IntN(4) == 0:
		m.stop()
		if m.random.IntN(2) == 0 {
			_ = os.Remove(m.engine.cfg.IndexPath)
			clear(m.last)
		}
		// The first cycle of a start is made at once, and with it the model's.
		m.start(m.engine.cfg)
		m.check("restart")
		return "restart"
	}
	return "nothing"
}

// egressStep is something that a workload does with what it sends.
func (m *model) egressStep() string {
	name := fmt.Sprintf("f%d", m.random.IntN(6))
	out := m.path("out/" + name)
	at := time.Unix(m.random.Int64N(1e9), m.random.Int64N(1e9))
	data := m.content()
	switch m.random.IntN(14) {
	case 0, 1, 2:
		m.replace("out/"+name, data)
		return "write"
	case 3:
		appendTo(out, data)
		return "append"
	case 4:
		_ = os.RemoveAll(out)
		return "remove"
	case 5:
		_ = os.Rename(out, m.path(fmt.Sprintf("out/r%d", m.random.IntN(3))))
		return "rename"
	case 6:
		// The link itself stays: what it points to is no business of the test.
		_ = unix.Lutimes(out, []unix.Timeval{unix.NsecToTimeval(at.UnixNano()), unix.NsecToTimeval(at.UnixNano())})
		return "touch back"
	case 7:
		_ = os.RemoveAll(m.path("out/g"))
		m.write("out/g/inner", data)
		m.write("out/g/deep/er/"+name, data)
		return "replace by a folder"
	case 8:
		m.replace("out/g", data)
		return "replace by a file"
	case 9:
		_ = os.RemoveAll(out)
		_ = os.Symlink("/etc/hostname", out)
		return "replace by a link"
	case 10:
		if info, err := os.Lstat(out); err == nil && info.Mode().IsRegular() {
			_ = os.Truncate(out, m.random.Int64N(3)) // shorter, or with a hole
		}
		return "truncate"
	case 11:
		if info, err := os.Lstat(out); err == nil && info.Mode().IsRegular() {
			_ = os.Chmod(out, os.FileMode(0o600+m.random.IntN(2)*0o44))
		}
		return "chmod"
	case 12:
		// Into its place at once, with an older time.
		m.write("out/new", data)
		_ = os.Chtimes(m.path("out/new"), at, at)
		_ = os.RemoveAll(out)
		_ = os.Rename(m.path("out/new"), out)
		return "put into place"
	}
	if m.large > 0 && m.random.IntN(4) == 0 {
		return m.largeStep()
	}
	_ = os.Rename(m.path("out/g"), m.path("out/moved"))
	_ = os.RemoveAll(m.path("out/gone"))
	_ = os.Rename(m.path("out/moved"), m.path("out/gone"))
	return "rename a folder"
}

// largeStep does something with a file that travels in parts.
func (m *model) largeStep() string {
	name := "out/large"
	switch m.random.IntN(3) {
	case 0:
		m.write(name, strings.Repeat(string(rune('a'+m.random.IntN(26))), m.large+m.random.IntN(3)))
		return "write large"
	case 1:
		appendTo(m.path(name), strings.Repeat("z", m.random.IntN(4)*m.large/4))
		return "append to large"
	}
	_ = os.Remove(m.path("out/sparse"))
	m.write("out/sparse", "x")
	_ = os.Truncate(m.path("out/sparse"), int64(m.large))
	return "write sparse"
}

// objectStep is something that somebody else does in the bucket.
func (m *model) objectStep() string {
	key := fmt.Sprintf("down/f%d", m.random.IntN(6))
	if m.random.IntN(4) == 0 {
		m.bucket.remove(key)
		return "remove object"
	}
	data := m.content()
	if m.large > 0 && m.random.IntN(16) == 0 {
		data = strings.Repeat(string(rune('a'+m.random.IntN(26))), m.large+m.random.IntN(3))
	}
	m.bucket.set(key, data)
	return "put object"
}

// ingressStep is something that a workload does with what it received.
func (m *model) ingressStep() string {
	name := fmt.Sprintf("f%d", m.random.IntN(6))
	if _, isHere := m.local[name]; !isHere {
		return "nothing"
	}
	in := m.path("in/" + name)
	switch data := m.content(); m.random.IntN(4) {
	case 0:
		m.write("in/"+name, data)
		m.local[name] = data
		return "change download"
	case 1:
		_ = os.Chmod(in, 0o600)
		return "chmod download"
	case 2:
		appendTo(in, data)
		m.local[name] += data
		return "append to download"
	}
	_ = os.Remove(in)
	delete(m.local, name)
	return "remove download"
}

// replace writes a file whatever is in its place.
func (m *model) replace(name, data string) {
	if info, err := os.Lstat(m.path(name)); err == nil && !info.Mode().IsRegular() {
		_ = os.RemoveAll(m.path(name))
	}
	m.write(name, data)
}

func appendTo(path, data string) {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return
	}
	_, _ = f.WriteString(data)
	_ = f.Close()
}

// check makes a cycle of each direction and compares both sides with the model.
func (m *model) check(when string) {
	m.t.Helper()
	m.ingressCycle()
	m.converge()
	objects := m.bucket.contents()
	for name, data := range m.files("out") {
		if got, ok := objects["up/"+name]; (!ok || got != data) && (!m.folders || !inWay(objects, "up/"+name)) {
			m.t.Errorf("%s: object %s is %s (%v), want %s", when, name, brief(got), ok, brief(data))
		}
	}
	want := map[string]string{}
	maps.Copy(want, m.local)
	for name, data := range m.aside {
		want[name+asideSuffix] = data
	}
	got := m.files("in")
	for name := range want {
		want[name] = brief(want[name])
	}
	for name := range got {
		got[name] = brief(got[name])
	}
	if diff := cmp.Diff(want, got); diff != "" {
		m.t.Errorf("%s: files differ (-want +got):\n%s", when, diff)
	}
}

// brief is a text for error messages that still differs where data does.
func brief(data string) string {
	if len(data) < 32 {
		return fmt.Sprintf("%q", data)
	}
	return fmt.Sprintf("%q… (%d bytes, SHA-256 %x)", data[:8], len(data), sha256.Sum256([]byte(data)))
}

// inWay reports whether there are objects without which a store that keeps its
// objects in folders could hold the key.
func inWay(objects map[string]string, key string) bool {
	for other := range objects {
		if strings.HasPrefix(other, key+"/") || strings.HasPrefix(key, other+"/") {
			return true
		}
	}
	return false
}

// ingressCycle is what a cycle does to the workload's files.
func (m *model) ingressCycle() {
	for key, data := range m.bucket.contents() {
		name, ok := strings.CutPrefix(key, "down/")
		if !ok {
			continue
		}
		local, isHere := m.local[name]
		last, known := m.last[name]
		switch {
		case !isHere:
		case known && last == data:
			continue // what the workload made of it stays
		case local == data:
		case !known || local != last:
			m.aside[name] = local
		}
		m.local[name], m.last[name] = data, data
	}
}
