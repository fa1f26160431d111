//go:build bench

package fleet_test

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/project-flotta/flotta-agent/test/bench/fleet"
	"github.com/project-flotta/flotta-agent/test/testenv"
)

func (r *rig) processes() []fleet.Process {
	list := make([]fleet.Process, 0, len(r.apis)+len(r.others)+1)
	for _, a := range r.apis {
		list = append(list, a.process)
	}
	list = append(list, r.others...)
	return append(list, fleet.Process{Name: "generator", PID: os.Getpid()})
}

// usage is processor time by the name of the program.
type usage struct {
	names []string
	spent map[string]time.Duration
	took  time.Duration
}

// watch starts counting processor time; what it returns ends that.
func (r *rig) watch() func() usage {
	list := r.processes()
	sample := func() map[fleet.Process]time.Duration {
		m := make(map[fleet.Process]time.Duration, len(list))
		for _, p := range list {
			cpu, err := p.CPU()
			if err == nil { // otherwise it has ended
				m[p] = cpu
			}
		}
		return m
	}
	before, start := sample(), time.Now()
	return func() usage {
		u := usage{spent: map[string]time.Duration{}, took: time.Since(start)}
		after := sample()
		for _, p := range list {
			if _, known := u.spent[p.Name]; !known {
				u.names = append(u.names, p.Name)
			}
			u.spent[p.Name] += after[p] - before[p]
		}
		return u
	}
}

// each says what one of count exchanges cost, and how busy the machine was.
func (u usage) each(count int) string {
	var parts []string
	var sum time.Duration
	for _, name := range u.names {
		sum += u.spent[name]
		if each := u.spent[name] / time.Duration(max(count, 1)); each >= time.Microsecond {
			parts = append(parts, fmt.Sprintf("%s %d", name, each.Microseconds()))
		}
	}
	return fmt.Sprintf("CPU µs: %s (%.0f%% of a core busy)", strings.Join(parts, ", "), 100*sum.Seconds()/u.took.Seconds())
}

// resting is how long the programs are left alone before they are weighed.
const resting = 5 * time.Second

// idle weighs all programs.
func (r *rig) idle(figures *report, when string) {
	r.Helper()
	time.Sleep(resting)
	f := figure{what: "edge-api resident, MB: " + when, less: true}
	switch {
	case strings.Contains(when, "known"), strings.Contains(when, "served"):
		f.aim = 200
	case when != "nothing" && len(r.requests) == 300 && !strings.Contains(when, ","+"000"):
		f.before = 76
	}
	var notes []string
	for _, a := range r.apis {
		page, err := a.scrape(r.Context(), "/metrics")
		must(r.T, err)
		get := func(name string) float64 {
			return metric(page, func(line string) bool { return line == name })
		}
		notes = append(notes, fmt.Sprintf("heap %.0f, stacks %.0f, %.0f goroutines",
			get("go_memstats_heap_alloc_bytes")/1e6, get("go_memstats_stack_inuse_bytes")/1e6, get("go_goroutines")))
	}
	for _, p := range r.processes() {
		bytes, err := p.Resident()
		if err != nil {
			continue // stopped
		}
		mb := float64(bytes) / 1e6
		if p.Name == "edge-api" {
			f.value += mb
			continue
		}
		notes = append(notes, fmt.Sprintf("%s %.0f MB", p.Name, mb))
	}
	f.ours, f.note = thousands(f.value), strings.Join(notes, ", ")
	figures.add(r.T, f)
}

// writes counts the writes of EdgeDevices that the API server has served so far.
func (r *rig) writes() float64 {
	r.Helper()
	if r.kube == nil {
		return 0
	}
	client, err := r.admin()
	must(r.T, err)
	defer client.CloseIdleConnections()
	page, err := testenv.Fetch(r.Context(), client, r.kube.URL+"/metrics", r.kube.Token)
	must(r.T, err)
	return metric(page, func(line string) bool {
		if !strings.HasPrefix(line, "apiserver_request_total{") || !strings.Contains(line, `resource="edgedevices"`) {
			return false
		}
		for _, verb := range []string{"POST", "PUT", "PATCH", "APPLY", "DELETE"} {
			if strings.Contains(line, `verb="`+verb+`"`) {
				return true
			}
		}
		return false
	})
}

// settle waits until nobody has written a device for a while.
func (r *rig) settle() {
	r.Helper()
	if r.kube == nil {
		return
	}
	const quiet = 2
	last, same := r.writes(), 0
	for deadline := time.Now().Add(2 * time.Minute); same < quiet; {
		time.Sleep(time.Second)
		if now := r.writes(); now == last {
			same++
		} else {
			last, same = now, 0
		}
		if time.Now().After(deadline) {
			r.Errorf("devices are written to the API server all the time, without a reason: %.0f times so far", last)
			return
		}
	}
}
