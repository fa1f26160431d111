//go:build bench

package fleet_test

import (
	"fmt"
	"net/http"
	"time"

	"github.com/project-flotta/flotta-agent/test/bench/fleet"
)

// join lets the devices in as factory-new ones, connects them and has each of
// them fetch its configuration and report once.
func (r *rig) join(figures *report) {
	r.Helper()
	devices := make([]*fleet.Device, r.settings.devices)
	for i := range devices {
		devices[i] = fleet.NewDevice("bench", namespace, i)
	}
	stop := r.profile("registration")
	watch := r.watch()
	result, err := fleet.Each(r.Context(), len(devices), r.settings.workers, func(number, _ int) error {
		d := devices[number]
		return d.Join(r.Context(), r.target, r.register, r.hardware(d.ID))
	})
	spent := watch()
	stop()
	must(r.T, err)
	figures.add(r.T, figure{
		what: "registrations, a second", ours: thousands(result.Rate()), value: result.Rate(), before: 3, aim: 100,
		note: fmt.Sprintf("p50 %s, p99 %s, with the handshake; %s", milliseconds(result.Quantile(.5)), milliseconds(result.Quantile(.99)), spent.each(result.Count())),
	})
	watch = r.watch()
	result, err = fleet.Each(r.Context(), len(devices), r.settings.workers, func(number, _ int) error {
		return devices[number].Connect(r.Context(), r.target)
	})
	must(r.T, err)
	figures.add(r.T, figure{what: "connections opened, a second", ours: thousands(result.Rate()), value: result.Rate(), note: watch().each(result.Count())})
	r.requests = make([]requests, len(devices))
	_, err = fleet.Each(r.Context(), len(devices), r.settings.workers, func(number, _ int) (err error) {
		q := &r.requests[number]
		if *q, err = r.prepare(devices[number]); err != nil {
			return err
		}
		if _, err = q.device.Do(q.heartbeatLarge, http.StatusOK); err != nil {
			return err
		}
		_, err = q.device.Do(q.heartbeats[0], http.StatusOK)
		return err
	})
	must(r.T, err)
	r.Logf("a configuration has %d bytes", r.configurationBytes)
	r.idle(figures, fmt.Sprintf("%d devices, connected", len(devices)))
	r.settle()
}

// replicas measures what a second replica adds, when each has one processor.
func (r *rig) replicas(figures *report) {
	r.Helper()
	if r.kube == nil {
		return // the file backend serves one at a time
	}
	both := []struct {
		suffix string
		count  int
	}{{", 1 replica of 1 thread", 1}, {", 2 replicas of 1 thread", 2}}
	for _, step := range both {
		r.restart(step.count, "GOMAXPROCS=1")
		for _, l := range r.kinds() {
			l.before, l.aim = 0, 0
			if l.what == "data/in, 200" || l.what == "unchanged heartbeats" || l.what == "changing heartbeats" {
				r.limit(l, figures, step.suffix)
			}
		}
	}
	r.restart(1)
}

// scale measures the memory with a whole fleet: known, served once, connected.
func (r *rig) scale(figures *report) {
	r.Helper()
	n := r.settings.scale
	if n == 0 {
		return
	}
	for _, q := range r.requests {
		q.device.Close()
	}
	devices := make([]*fleet.Device, n)
	for i := range devices {
		devices[i] = fleet.NewDevice("scale", namespace, i)
	}
	began := time.Now()
	r.seed(devices)
	r.Logf("%d devices made in %s", n, time.Since(began).Round(time.Second))
	r.idle(figures, thousands(float64(n))+" devices known")
	poll := func(d *fleet.Device) error {
		if err := d.Connect(r.Context(), r.target); err != nil {
			return err
		}
		_, err := d.Do(fleet.NewRequest(r.target.Protocol, r.target.ServerName, d.Path("data", "in"), "", nil), http.StatusOK)
		return err
	}
	result, err := fleet.Each(r.Context(), n, r.settings.workers, func(number, _ int) error {
		defer devices[number].Close()
		return poll(devices[number])
	})
	must(r.T, err)
	r.Logf("%d devices connected and served in %s", n, result.Elapsed.Round(time.Millisecond))
	r.idle(figures, thousands(float64(n))+" devices served, gone")
	defer func() {
		for _, d := range devices {
			d.Close()
		}
	}()
	stop := r.profile("10,000 connections")
	_, err = fleet.Each(r.Context(), n, r.settings.workers, func(number, _ int) error { return poll(devices[number]) })
	stop()
	must(r.T, err)
	r.idle(figures, thousands(float64(n))+" devices connected")
}
