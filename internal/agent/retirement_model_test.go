package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// model is what must be true of the volumes whatever happens.
type model struct {
	*host

	rng     *rand.Rand
	log     []string          // what was done
	latest  map[string]string // key in the bucket: content that a workload wrote last
	wanted  []string          // desired workloads
	version int
	left    bool // it was unregistered once
	// had are the files of the desired workloads since they are desired.
	had map[string][]string
}

var modelWorkloads = []string{"a", "b", "plain"}

// TestVolumesAreNeverLost does random things in random orders. A file that
// egress covers is in its volume or, with its last content, in the bucket; and a
// workload that is desired keeps its volume.
func TestVolumesAreNeverLost(t *testing.T) {
	t.Parallel()
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { runModel(t, seed) })
		})
	}
}

func runModel(t *testing.T, seed uint64) {
	m := &model{
		host: newHost(t), rng: rand.New(rand.NewPCG(seed, 1)),
		latest: map[string]string{}, had: map[string][]string{},
	}
	m.retention = []time.Duration{0, time.Minute, 3 * time.Hour}[seed%3]
	m.start("")
	for range 60 {
		m.act()
		synctest.Wait()
		m.check()
		if t.Failed() {
			break
		}
	}
	m.do("at last", func() {
		m.bucket.setAway(false)
		m.world.SetDown(false)
		m.restart("")
		m.after(10 * time.Minute) // a departure ends
		m.restart("")
		m.want()
		m.after(2*m.retention + 30*time.Minute)
	})
	m.check()
	if got := m.volumeNames(); got != "" && !m.left {
		t.Errorf("volumes %q are never removed; problems %q, retired %+v", got, m.retire.Problems(), m.store.Current().State().Retired)
	}
	m.stop()
	if t.Failed() {
		t.Logf("what was done: %s", strings.Join(m.log, ", "))
	}
}

func (m *model) do(what string, f func()) {
	m.log = append(m.log, what)
	f()
}

func (m *model) act() {
	switch n := m.rng.IntN(100); {
	case n < 25:
		var names []string
		for _, name := range modelWorkloads {
			if m.rng.IntN(2) == 0 {
				names = append(names, name)
			}
		}
		m.do(fmt.Sprint("want ", names), func() { m.want(names...) })
	case n < 50:
		name, file := modelWorkloads[m.rng.IntN(3)], fmt.Sprint(m.rng.IntN(3))
		m.do("write "+name+"/"+file, func() { m.put(name, file) })
	case n < 60:
		away := m.rng.IntN(2) == 0
		m.do(fmt.Sprint("bucket away ", away), func() { m.bucket.setAway(away) })
	case n < 65:
		down := m.rng.IntN(3) == 0
		m.do(fmt.Sprint("podman away ", down), func() { m.world.SetDown(down) })
	case n < 80:
		steps := []string{
			"", stepEnded, stepSent, stepRecorded, stepAged, stepChecked, stepAside, stepDisposed, stepEmptying,
			"remove-begin", "remove-stopped", "removed", stepDelivered, stepWithdrawn, stepLast, stepGivenUp, stepForgotten,
		}
		at := steps[m.rng.IntN(len(steps))]
		m.do("restart, crash at "+at, func() { m.restart(at) })
	case n < 83:
		m.do("leave", func() { m.left = true; m.leave.begin() })
	default:
		d := time.Duration(m.rng.Int64N(int64(30 * time.Minute)))
		if m.rng.IntN(4) == 0 {
			d *= 10
		}
		m.do(fmt.Sprint("wait ", d), func() { m.after(d) })
	}
}

// restart ends the agent, if it has not died by itself, and starts another one
// when the clock is somewhere else.
func (m *model) restart(crashAt string) {
	m.stop()
	if m.rng.IntN(3) == 0 {
		time.Sleep(10_000 * time.Hour)
	}
	if m.rng.IntN(3) == 0 {
		m.world.PowerCut()
	}
	m.yggd++
	m.start(crashAt)
}

func (m *model) want(names ...string) {
	var workloads []protocol.Workload
	for _, name := range names {
		if name == "plain" {
			workloads = append(workloads, plain(name))
		} else {
			workloads = append(workloads, sending(name))
		}
	}
	m.version++
	err := m.accept(fmt.Sprint(m.version), workloads)
	if errors.Is(err, desired.ErrLeaving) {
		return
	}
	if err != nil {
		m.t.Fatal(err)
	}
	for _, name := range modelWorkloads {
		switch {
		case !slices.Contains(names, name):
			delete(m.had, name)
		case !slices.Contains(m.wanted, name):
			m.had[name] = m.files(name)
		}
	}
	m.wanted = names
}

func (m *model) accept(version string, workloads []protocol.Workload) error {
	raw, err := json.Marshal(syncedConfiguration(version, workloads))
	if err != nil {
		m.t.Fatal(err)
	}
	return m.store.Accept(raw)
}

func (m *model) put(name, file string) {
	content := fmt.Sprint("content ", len(m.log))
	m.write(name, "out/"+file, content)
	if !m.holds(name, "out/"+file, content) {
		return // there is no volume
	}
	if name != "plain" {
		m.latest[name+"/"+file] = content
	}
	if slices.Contains(m.wanted, name) && !slices.Contains(m.had[name], file) {
		m.had[name] = append(m.had[name], file)
	}
}

func (m *model) files(name string) []string {
	entries, _ := os.ReadDir(filepath.Join(m.dir, "volumes", name, "out"))
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func (m *model) check() {
	m.t.Helper()
	for key, content := range m.latest {
		name, file, _ := strings.Cut(key, "/")
		if !m.holds(name, "out/"+file, content) && m.bucket.content(key) != content {
			m.t.Errorf("%s is neither in its volume nor in the bucket", key)
		}
	}
	for _, name := range modelWorkloads {
		if there, _ := m.retire.volumes.has(name); !there && m.world.Digest(name) != "" {
			m.t.Errorf("%s runs and has no volume", name)
		}
	}
	if !m.store.Current().State().Managed() || m.store.Current().Digest() == "" {
		m.wanted = nil
		clear(m.had)
		return
	}
	for name, files := range m.had {
		there := m.files(name)
		for _, file := range files {
			if !slices.Contains(there, file) {
				m.t.Errorf("%s of %s is gone, which is desired", file, name)
			}
		}
	}
}
