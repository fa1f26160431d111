package datasync

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
)

var modelSteps = flag.Int("datasync.steps", 400, "steps of each model test")

// model does random things on both sides, and knows what both sides have to look
// like after a cycle of each direction.
type model struct {
	*bench

	store  *memStore
	random *rand.Rand

	local map[string]string // what the workload has in in/
	aside map[string]string // what was kept aside there
	last  map[string]string // object content that was last downloaded
}

func TestModel(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			store := newMemStore()
			m := &model{
				bench: newBench(t, store, paths(up(), down()), nil), store: store, random: rand.New(rand.NewPCG(seed, 99)),
				local: map[string]string{}, aside: map[string]string{}, last: map[string]string{},
			}
			m.write("out/first", "")
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
	name := fmt.Sprintf("f%d", m.random.IntN(6))
	out, in := m.path("out/"+name), m.path("in/"+name)
	data := m.content()
	_, isHere := m.local[name]
	switch kind := m.random.IntN(16); {
	case kind < 3:
		_ = os.RemoveAll(out)
		m.write("out/"+name, data)
		return "write"
	case kind == 3:
		appendTo(out, data)
		return "append"
	case kind == 4:
		_ = os.RemoveAll(out)
		return "remove"
	case kind == 5:
		_ = os.Rename(out, m.path(fmt.Sprintf("out/r%d", m.random.IntN(3))))
		return "rename"
	case kind == 6:
		at := time.Unix(m.random.Int64N(1e9), 0)
		_ = os.Chtimes(out, at, at)
		return "touch back"
	case kind == 7:
		_ = os.RemoveAll(out)
		m.write("out/"+name+"/inner", data)
		return "replace by a folder"
	case kind == 8:
		_ = os.RemoveAll(out)
		_ = os.Symlink("/etc/hostname", out)
		return "replace by a link"
	case kind == 9:
		_ = os.Truncate(out, 0)
		return "truncate"
	case kind < 12:
		m.store.set("down/"+name, []byte(data), s3.Upload{})
		return "put object"
	case kind == 12:
		m.store.remove("down/" + name)
		return "remove object"
	case kind == 13 && isHere:
		m.write("in/"+name, data)
		m.local[name] = data
		return "change download"
	case kind == 14 && isHere:
		_ = os.Remove(in)
		delete(m.local, name)
		return "remove download"
	case kind == 15 && m.random.IntN(4) == 0:
		m.stop()
		if m.random.IntN(2) == 0 {
			_ = os.Remove(filepath.Join(m.dir, "datasync.db"))
			clear(m.last)
		}
		// The first cycle of a start is made at once, and with it the model's.
		m.start(m.engine.cfg)
		m.check("restart")
		return "restart"
	}
	return "nothing"
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
	m.mustSync(egress)
	m.mustSync(ingress)
	objects := m.store.contents()
	for name, data := range m.files("out") {
		if got, ok := objects["up/"+name]; !ok || got != data {
			m.t.Errorf("%s: object %s is %q (%v), want %q", when, name, got, ok, data)
		}
	}
	want := map[string]string{}
	maps.Copy(want, m.local)
	for name, data := range m.aside {
		want[name+asideSuffix] = data
	}
	if diff := cmp.Diff(want, m.files("in")); diff != "" {
		m.t.Errorf("%s: files differ (-want +got):\n%s", when, diff)
	}
}

// ingressCycle is what a cycle does to the workload's files.
func (m *model) ingressCycle() {
	for key, data := range m.store.contents() {
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
