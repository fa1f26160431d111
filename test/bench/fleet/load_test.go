//go:build bench

package fleet_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
	"github.com/project-flotta/flotta-agent/test/bench/fleet"
)

// requests are what a device sends, built once.
type requests struct {
	device         *fleet.Device
	dataIn         fleet.Request
	dataUnchanged  fleet.Request
	controlIn      fleet.Request
	heartbeats     [2]fleet.Request // that differ in the state of a workload
	heartbeatLarge fleet.Request    // with all of the hardware
}

// names of the workloads that every device is to run.
var workloads = [2]string{"bench-app", "bench-sidecar"} //nolint:gochecknoglobals // names

// prepare asks for the configuration until it has the workloads, and builds the
// requests that hold its version.
func (r *rig) prepare(d *fleet.Device) (requests, error) {
	if err := d.Connect(r.Context(), r.target); err != nil {
		return requests{}, err
	}
	get := func(channel, etag string) fleet.Request {
		return fleet.NewRequest(r.target.Protocol, r.target.ServerName, d.Path(channel, "in"), etag, nil)
	}
	q := requests{device: d, dataIn: get("data", ""), controlIn: get("control", "")}
	version, err := r.configured(d, q.dataIn)
	if err != nil {
		return q, err
	}
	q.dataUnchanged = get("data", `"`+version+`"`)
	post := func(state string, hardware *protocol.HardwareInfo) (fleet.Request, error) {
		report := protocol.Heartbeat{
			Status: protocol.StatusUp, Version: version, Hardware: hardware,
			Workloads: []protocol.WorkloadStatus{{Name: workloads[0], Status: state}, {Name: workloads[1], Status: "Running"}},
		}
		body, err := fleet.Message(protocol.DirectiveHeartbeat, report)
		return fleet.NewRequest(r.target.Protocol, r.target.ServerName, d.Path("data", "out"), "", body), err
	}
	for i, state := range []string{"Running", "Stopped"} {
		if q.heartbeats[i], err = post(state, nil); err != nil {
			return q, err
		}
	}
	q.heartbeatLarge, err = post("Running", r.hardware(d.ID))
	return q, err
}

func (r *rig) configured(d *fleet.Device, dataIn fleet.Request) (version string, err error) {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		body, err := d.Do(dataIn, http.StatusOK)
		if err != nil {
			return "", err
		}
		var m protocol.Message
		var c protocol.DeviceConfigurationMessage
		if err := json.Unmarshal(body, &m); err != nil {
			return "", err
		}
		if err := json.Unmarshal(m.Content, &c); err != nil {
			return "", err
		}
		if len(c.Workloads) == len(workloads) {
			r.configurationBytes = len(body)
			return c.Version, nil
		}
		if time.Now().After(deadline) {
			return "", fmt.Errorf("device %s has %d workloads in its configuration, want %d", d.ID, len(c.Workloads), len(workloads))
		}
	}
}

// load is one kind of exchange.
type load struct {
	what        string
	before, aim float64 // a second
	p99Before   string
	quiet       bool // writes nothing
	do          fleet.Exchange
}

func (r *rig) kinds() []load {
	send := func(pick func(q *requests, n int) fleet.Request, want int) fleet.Exchange {
		return func(number, n int) error {
			q := &r.requests[number]
			_, err := q.device.Do(pick(q, n), want)
			return err
		}
	}
	ok := http.StatusOK
	return []load{
		{what: "unchanged heartbeats", aim: 8000, quiet: true, do: send(func(q *requests, _ int) fleet.Request { return q.heartbeats[0] }, ok)},
		{what: "unchanged heartbeats, all hardware", quiet: true, do: send(func(q *requests, _ int) fleet.Request { return q.heartbeatLarge }, ok)},
		{what: "data/in, 200", before: 5900, aim: 8000, quiet: true, do: send(func(q *requests, _ int) fleet.Request { return q.dataIn }, ok)},
		{what: "data/in, 304", before: 5900, aim: 8000, quiet: true, do: send(func(q *requests, _ int) fleet.Request { return q.dataUnchanged }, http.StatusNotModified)},
		{what: "control/in", before: 9100, quiet: true, do: send(func(q *requests, _ int) fleet.Request { return q.controlIn }, ok)},
		{what: "changing heartbeats", before: 14, aim: 1000, p99Before: "3.2 s", do: send(func(q *requests, _ int) fleet.Request {
			// The other one than last time, whichever part of the run that was in.
			q.heartbeats[0], q.heartbeats[1] = q.heartbeats[1], q.heartbeats[0]
			return q.heartbeats[0]
		}, ok)},
	}
}

// loads finds the limit of every kind, and the latencies at half of it.
func (r *rig) loads(figures *report) {
	for _, l := range r.kinds() {
		limit := r.limit(l, figures, "")
		r.half(l, limit/2, figures)
	}
}

// limit returns how many exchanges a second there can be.
func (r *rig) limit(l load, figures *report, suffix string) float64 {
	r.Helper()
	r.settle()
	writes := r.writes()
	stop := r.profile(l.what + suffix)
	watch := r.watch()
	result, err := fleet.Saturate(r.Context(), len(r.requests), r.settings.workers, r.settings.lasting, l.do)
	spent := watch()
	stop()
	must(r.T, err)
	made := r.writes() - writes
	note := spent.each(result.Count())
	if r.kube != nil {
		note += fmt.Sprintf("; %.3g writes each", made/float64(result.Count()))
	}
	figures.add(r.T, figure{
		what: l.what + ", a second" + suffix, ours: thousands(result.Rate()),
		value: result.Rate(), before: l.before, aim: l.aim, note: note,
	})
	if l.quiet && made != 0 {
		r.Errorf("%s: %.0f writes of devices to the API server in %d requests, there is nothing to write", l.what, made, result.Count())
	}
	return result.Rate()
}

// half measures latencies at a rate that arrives whatever happens.
func (r *rig) half(l load, rate float64, figures *report) {
	r.Helper()
	result, err := fleet.Arrive(r.Context(), len(r.requests), rate, r.settings.lasting, l.do)
	must(r.T, err)
	p99 := result.Quantile(.99)
	note := "p50 " + milliseconds(result.Quantile(.5)) + ", worst " + milliseconds(result.Quantile(1))
	if l.p99Before != "" {
		note += "; v0.2 at its limit: p99 " + l.p99Before
	}
	figures.add(r.T, figure{
		what: "  p99 at " + thousands(rate) + " a second, ms", ours: milliseconds(p99),
		value: float64(p99.Microseconds()) / 1000, aim: 50, less: true, note: note,
	})
}

// milliseconds writes a duration with two digits that count.
func milliseconds(d time.Duration) string {
	ms := float64(d.Microseconds()) / 1000
	if ms >= 10 {
		return fmt.Sprintf("%.0f ms", ms)
	}
	return fmt.Sprintf("%.1f ms", ms)
}
