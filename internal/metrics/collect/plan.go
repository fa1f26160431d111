package collect

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/project-flotta/flotta-agent/internal/containers"
	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/metrics/scrape"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// plan is what is to be read.
type plan struct {
	targets  map[string]target // by key
	problems []Problem
}

func (p *plan) add(t target) { p.targets[t.key()] = t }

func (p *plan) problem(format string, args ...any) {
	p.problems = append(p.problems, Problem{Reason: "MetricsConfigurationInvalid", Message: fmt.Sprintf(format, args...)})
}

// plan decides from what is desired and what runs.
func (e *Engine) plan(snapshot *desired.Snapshot, list []containers.Container) plan {
	p := plan{targets: map[string]target{}}
	state := snapshot.State()
	if snapshot.Digest() == "" || !state.Managed() {
		return p
	}
	m := state.Metrics
	if m == nil {
		m = &protocol.MetricsConfiguration{}
	}
	if !e.cfg.WithoutReceiver && (m.Receiver == nil || m.Receiver.URL == "") {
		return p
	}
	e.component(&p, kindSystem, m.System, scrape.SystemDefaults(), e.cfg.NodeExporter)
	if e.cfg.DataTransfer != nil {
		e.component(&p, kindDataTransfer, m.DataTransfer, scrape.DataTransferDefaults(), "")
	}
	if e.cfg.Self != nil {
		e.component(&p, kindSelf, nil, nil, "")
	}
	for _, w := range state.Workloads {
		if w.Metrics != nil {
			e.workload(&p, w, list)
		}
	}
	slices.SortFunc(p.problems, func(a, b Problem) int { return strings.Compare(a.Message, b.Message) })
	return p
}

// component adds a target of the device itself.
func (e *Engine) component(p *plan, k kind, c *protocol.ComponentMetricsConfiguration, allow scrape.Allow, address string) {
	if c == nil {
		c = &protocol.ComponentMetricsConfiguration{}
	}
	if c.Disabled {
		return
	}
	if c.AllowList != nil {
		allow = scrape.AllowNames(c.AllowList.Names...)
	}
	p.add(target{
		kind: k, url: address, interval: interval(c.Interval), allow: allow,
		device: e.cfg.DeviceID, instance: e.cfg.DeviceID,
	})
}

func interval(seconds int32) time.Duration {
	if seconds <= 0 {
		return defaultInterval
	}
	return time.Duration(seconds) * time.Second
}

// endpoint is where one container says that its metrics are.
type endpoint struct {
	container containers.Container
	own       bool // by an entry of its own
}

// workload adds the targets of one workload.
func (e *Engine) workload(p *plan, w desired.Workload, list []containers.Container) {
	spec := readSpec(w.PodSpec)
	for _, name := range slices.Sorted(maps.Keys(w.Metrics.Containers)) {
		if _, there := spec.ports[name]; !there && len(spec.ports) > 0 {
			p.problem("workload %s: metrics are set for %.60q, which is none of its containers", w.Name, name)
		}
	}
	byAddress := map[string][]endpoint{}
	for _, c := range list {
		if c.Workload != w.Name || !c.Running || c.Init || spec.init[c.Container] || !c.HostNetwork && c.InfraPID <= 0 {
			continue
		}
		o, own := w.Metrics.Containers[c.Container]
		if own && o.Disabled {
			continue
		}
		port, path := w.Metrics.Port, w.Metrics.Path
		if own {
			// Its path is / when it names none, as it always was; a port of none
			// never meant anything, so the workload's is as good.
			port, path = cmp.Or(o.Port, port), o.Path
		}
		if port == 0 {
			continue
		}
		address, err := addressOf(port, path)
		if err != nil {
			p.problem("workload %s, container %s: %v", w.Name, c.Container, err)
			continue
		}
		byAddress[address] = append(byAddress[address], endpoint{c, own})
	}
	var allow scrape.Allow
	if w.Metrics.AllowList != nil {
		allow = scrape.AllowNames(w.Metrics.AllowList.Names...)
	}
	for address, endpoints := range byAddress {
		u, _ := url.Parse(address)    // it was put together just now
		pod := endpoints[0].container // as any of them
		p.add(target{
			kind: kindWorkload, workload: w.Name, container: whose(endpoints, spec, u.Port()), url: address,
			interval: interval(w.Metrics.Interval), allow: allow,
			device: e.cfg.DeviceID, instance: e.cfg.DeviceID + ":" + u.Port(),
			host: pod.HostNetwork, pid: pod.InfraPID,
		})
	}
}

// whose returns the name of the container that answers at an address, or
// nothing when that cannot be told.
func whose(endpoints []endpoint, spec podSpec, port string) string {
	for _, knows := range []func(endpoint) bool{
		func(e endpoint) bool { return e.own },
		func(e endpoint) bool { return slices.Contains(spec.ports[e.container.Container], port) },
		func(endpoint) bool { return true },
	} {
		names := map[string]bool{}
		for _, e := range endpoints {
			if knows(e) {
				names[e.container.Container] = true
			}
		}
		if len(names) == 1 {
			return slices.Collect(maps.Keys(names))[0]
		}
	}
	return ""
}

// addressOf returns where a container's metrics are, seen from inside its
// network. A path may have a query.
func addressOf(port int32, path string) (string, error) {
	if port < 1 || port > 65535 {
		return "", fmt.Errorf("port %d of metrics is none", port)
	}
	base := "http://127.0.0.1:" + strconv.Itoa(int(port))
	u, err := url.Parse(base + "/" + strings.TrimPrefix(path, "/"))
	if err != nil || u.Host != strings.TrimPrefix(base, "http://") || u.Fragment != "" {
		return "", fmt.Errorf("path %.60q of metrics is none", path)
	}
	return u.String(), nil
}

// podSpec is what matters here of a pod's specification.
type podSpec struct {
	ports map[string][]string // of each container that is no init container, by name
	init  map[string]bool
}

func readSpec(raw []byte) podSpec {
	type port struct {
		ContainerPort json.Number `json:"containerPort"`
	}
	type container struct {
		Name  string `json:"name"`
		Ports []port `json:"ports"`
	}
	var wire struct {
		Containers     []container `json:"containers"`
		InitContainers []container `json:"initContainers"`
	}
	s := podSpec{ports: map[string][]string{}, init: map[string]bool{}}
	if len(raw) == 0 || json.Unmarshal(raw, &wire) != nil {
		return s // the workload is reported as invalid by others
	}
	for _, c := range wire.InitContainers {
		s.init[c.Name] = true
	}
	for _, c := range wire.Containers {
		var ports []string
		for _, p := range c.Ports {
			ports = append(ports, p.ContainerPort.String())
		}
		s.ports[c.Name] = ports
	}
	return s
}
