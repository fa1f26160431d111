package collect

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/containers"
	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/metrics/scrape"
	"github.com/project-flotta/flotta-agent/internal/metrics/series"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// rig is what an engine is made of in tests.
type rig struct {
	snapshot *desired.Snapshot
	list     []containers.Container
	changed  chan struct{}
}

func (r *rig) Current() *desired.Snapshot { return r.snapshot }

type listed struct{ *rig }

func (l listed) Current() ([]containers.Container, bool) { return l.list, true }
func (l listed) Changed() <-chan struct{}                { return l.changed }

func newEngine(t *testing.T, r *rig, more func(*Config)) *Engine {
	t.Helper()
	cfg := Config{
		Desired: r, Containers: listed{r}, DeviceID: "dev",
		Put: func(context.Context, []series.Sample) error { return nil },
	}
	if more != nil {
		more(&cfg)
	}
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func receiver() *protocol.MetricsReceiverConfiguration {
	return &protocol.MetricsReceiverConfiguration{URL: "http://receiver"}
}

// show returns the targets of a plan as text.
func show(p plan) []string {
	var out []string
	for _, t := range p.targets {
		allow := "all"
		if t.allow != nil {
			allow = fmt.Sprint(len(t.allow))
		}
		where := fmt.Sprint("pid ", t.pid)
		if t.host {
			where = "host"
		}
		out = append(out, fmt.Sprintf("%s %s %s %s allow %s %s", t.kind, t.name(), t.url, t.interval, allow, where))
	}
	slices.Sort(out)
	return out
}

func running(workload, container string) containers.Container {
	return containers.Container{ID: workload + container, Name: workload + "-" + container, Workload: workload, Container: container, Running: true, InfraPID: 7}
}

const podOfThree = `{"containers":[{"name":"a","ports":[{"containerPort":80}]},{"name":"b","ports":[{"containerPort":9090}]},{"name":"c"}],"initContainers":[{"name":"i"}]}`

func TestPlanOfWorkloads(t *testing.T) {
	t.Parallel()
	three := []containers.Container{running("w", "a"), running("w", "b"), running("w", "c")}
	for name, c := range map[string]struct {
		metrics  protocol.WorkloadMetrics
		spec     string
		list     []containers.Container
		want     []string
		problems []string
	}{
		"none runs":     {metrics: protocol.WorkloadMetrics{Port: 80}, spec: podOfThree},
		"no port":       {metrics: protocol.WorkloadMetrics{Path: "/m"}, spec: podOfThree, list: three},
		"one container": {metrics: protocol.WorkloadMetrics{Port: 80}, list: three[:1], want: []string{"workload w/a http://127.0.0.1:80/ 1m0s allow all pid 7"}},
		"who declares the port": {
			metrics: protocol.WorkloadMetrics{Port: 9090, Path: "/metrics?x=1", Interval: 15}, spec: podOfThree, list: three,
			want: []string{"workload w/b http://127.0.0.1:9090/metrics?x=1 15s allow all pid 7"},
		},
		"nobody declares the port": {
			metrics: protocol.WorkloadMetrics{Port: 1, Path: "m", AllowList: &protocol.MetricsAllowList{Names: []string{"x", "y"}}}, spec: podOfThree, list: three,
			want: []string{"workload w http://127.0.0.1:1/m 1m0s allow 2 pid 7"},
		},
		"an empty allow list": {
			metrics: protocol.WorkloadMetrics{Port: 80, AllowList: &protocol.MetricsAllowList{}}, spec: podOfThree, list: three,
			want: []string{"workload w/a http://127.0.0.1:80/ 1m0s allow 0 pid 7"},
		},
		"overrides": {
			metrics: protocol.WorkloadMetrics{Port: 80, Path: "/m", Interval: -5, Containers: map[string]protocol.ContainerMetrics{
				"a": {Disabled: true}, "b": {Port: 81, Path: "/n"}, "c": {Path: "/o"},
			}}, spec: podOfThree, list: three,
			want: []string{"workload w/b http://127.0.0.1:81/n 1m0s allow all pid 7", "workload w/c http://127.0.0.1:80/o 1m0s allow all pid 7"},
		},
		"an override without a path": {
			metrics: protocol.WorkloadMetrics{Port: 80, Path: "/m", Containers: map[string]protocol.ContainerMetrics{"a": {Port: 82}}}, spec: podOfThree, list: three[:1],
			want: []string{"workload w/a http://127.0.0.1:82/ 1m0s allow all pid 7"},
		},
		"only overrides": {
			metrics: protocol.WorkloadMetrics{Containers: map[string]protocol.ContainerMetrics{"c": {Port: 5}}}, spec: podOfThree, list: three,
			want: []string{"workload w/c http://127.0.0.1:5/ 1m0s allow all pid 7"},
		},
		"an override and the rest at one address": {
			metrics: protocol.WorkloadMetrics{Port: 80, Path: "/m", Containers: map[string]protocol.ContainerMetrics{"c": {Port: 80, Path: "/m"}}}, spec: podOfThree, list: three,
			want: []string{"workload w/c http://127.0.0.1:80/m 1m0s allow all pid 7"},
		},
		"those that do not run": {
			metrics: protocol.WorkloadMetrics{Port: 80}, spec: podOfThree,
			list: []containers.Container{
				running("w", "i"), running("v", "a"),
				{Workload: "w", Container: "a", Running: true},
				{Workload: "w", Container: "b", InfraPID: 7},
				{Workload: "w", Container: "c", InfraPID: 7, Running: true, Init: true},
			},
		},
		"the host's network": {
			metrics: protocol.WorkloadMetrics{Port: 80}, spec: podOfThree,
			list: []containers.Container{{Workload: "w", Container: "a", Running: true, HostNetwork: true}},
			want: []string{"workload w/a http://127.0.0.1:80/ 1m0s allow all host"},
		},
		"nonsense": {
			metrics: protocol.WorkloadMetrics{Port: 70000, Containers: map[string]protocol.ContainerMetrics{
				"b": {Port: 80, Path: "/%zz"}, "z": {Disabled: true}, "c": {Port: 80, Path: "/a#b"},
			}}, spec: podOfThree, list: three,
			problems: []string{
				"workload w, container a: port 70000 of metrics is none",
				`workload w, container b: path "/%zz" of metrics is none`,
				`workload w, container c: path "/a#b" of metrics is none`,
				`workload w: metrics are set for "z", which is none of its containers`,
			},
		},
		"a specification that is none": {metrics: protocol.WorkloadMetrics{Port: 80}, spec: "[", list: three[:1], want: []string{"workload w/a http://127.0.0.1:80/ 1m0s allow all pid 7"}},
	} {
		state := desired.State{
			Metrics:   &protocol.MetricsConfiguration{Receiver: receiver(), System: &protocol.ComponentMetricsConfiguration{Disabled: true}},
			Workloads: []desired.Workload{{Name: "w", PodSpec: []byte(c.spec), Metrics: &c.metrics}, {Name: "v"}},
		}
		e := newEngine(t, &rig{}, nil)
		p := e.plan(desired.NewSnapshot(state, "x"), c.list)
		if diff := cmp.Diff(c.want, show(p)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		var problems []string
		for _, p := range p.problems {
			problems = append(problems, p.Message)
		}
		if diff := cmp.Diff(c.problems, problems); diff != "" {
			t.Errorf("%s: problems (-want +got):\n%s", name, diff)
		}
	}
}

func TestPlanOfTheDevice(t *testing.T) {
	t.Parallel()
	page := func(context.Context) (scrape.Page, error) { return scrape.Page{}, nil }
	const node = "node node http://localhost:9100/metrics 1m0s allow 10 pid 0"
	some := &protocol.MetricsConfiguration{Receiver: receiver()}
	for name, c := range map[string]struct {
		state  desired.State
		digest string
		more   func(*Config)
		want   []string
	}{
		"told nothing": {state: desired.State{Metrics: some}},
		"leaving":      {state: desired.State{Metrics: some, Leaving: true}, digest: "x"},
		"withdrawn":    {state: desired.State{Metrics: some, Withdrawn: true}, digest: "x"},
		"no metrics":   {digest: "x"},
		"no receiver":  {state: desired.State{Metrics: &protocol.MetricsConfiguration{Receiver: &protocol.MetricsReceiverConfiguration{}}}, digest: "x"},
		"without one":  {digest: "x", more: func(c *Config) { c.WithoutReceiver = true }, want: []string{node}},
		"defaults":     {state: desired.State{Metrics: some}, digest: "x", want: []string{node}},
		"all":          {state: desired.State{Metrics: some}, digest: "x", more: func(c *Config) { c.Self, c.DataTransfer = page, page }, want: []string{"data-transfer data-transfer  1m0s allow 4 pid 0", "flotta-agent flotta-agent  1m0s allow all pid 0", node}},
		"configured": {
			digest: "x", more: func(c *Config) { c.DataTransfer, c.NodeExporter = page, "http://127.0.0.1:1/x" },
			state: desired.State{Metrics: &protocol.MetricsConfiguration{
				Receiver:     receiver(),
				System:       &protocol.ComponentMetricsConfiguration{Interval: 30, AllowList: &protocol.MetricsAllowList{Names: []string{"a"}}},
				DataTransfer: &protocol.ComponentMetricsConfiguration{Interval: 7, AllowList: &protocol.MetricsAllowList{}},
			}},
			want: []string{"data-transfer data-transfer  7s allow 0 pid 0", "node node http://127.0.0.1:1/x 30s allow 1 pid 0"},
		},
		"disabled": {
			digest: "x", more: func(c *Config) { c.DataTransfer = page },
			state: desired.State{Metrics: &protocol.MetricsConfiguration{
				Receiver: receiver(), System: &protocol.ComponentMetricsConfiguration{Disabled: true}, DataTransfer: &protocol.ComponentMetricsConfiguration{Disabled: true},
			}},
		},
	} {
		e := newEngine(t, &rig{}, c.more)
		if diff := cmp.Diff(c.want, show(e.plan(desired.NewSnapshot(c.state, c.digest), nil))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	good := Config{Desired: &rig{}, Containers: listed{&rig{}}, DeviceID: "d", Put: func(context.Context, []series.Sample) error { return nil }}
	if _, err := New(good); err != nil {
		t.Errorf("refused: %v", err)
	}
	for what, spoil := range map[string]func(*Config){
		"Desired":      func(c *Config) { c.Desired = nil },
		"Containers":   func(c *Config) { c.Containers = nil },
		"DeviceID":     func(c *Config) { c.DeviceID = "" },
		"Put":          func(c *Config) { c.Put = nil },
		"Timeout":      func(c *Config) { c.Timeout = -1 },
		"NodeExporter": func(c *Config) { c.NodeExporter = "localhost:9100" },
	} {
		cfg := good
		spoil(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestLike goes on with a target that only has another process.
func TestLike(t *testing.T) {
	t.Parallel()
	one := target{kind: kindWorkload, workload: "w", container: "c", url: "u", interval: time.Minute, allow: scrape.AllowNames("a"), instance: "i", device: "d", pid: 1}
	for what, change := range map[string]func(*target){
		"container": func(t *target) { t.container = "" },
		"interval":  func(t *target) { t.interval++ },
		"allow":     func(t *target) { t.allow = scrape.AllowNames("b") },
		"allow all": func(t *target) { t.allow = nil },
		"instance":  func(t *target) { t.instance = "j" },
		"host":      func(t *target) { t.host = true },
	} {
		other := one
		if change(&other); one.like(other) || other.like(one) {
			t.Errorf("another %s is like it", what)
		}
	}
	none := one
	none.allow = scrape.AllowNames()
	all := one
	if all.allow = nil; none.like(all) {
		t.Error("none is like all")
	}
	moved := one
	moved.pid, moved.allow = 2, scrape.AllowNames("a")
	if !one.like(moved) || one.key() != moved.key() {
		t.Error("it is not like itself after a restart")
	}
}

// TestSlots reads a target at the same instants whenever the agent was started,
// and spreads the targets.
func TestSlots(t *testing.T) {
	t.Parallel()
	const interval = time.Minute
	begin := time.UnixMilli(1_700_000_000_000)
	seen := map[int64]bool{}
	for i := range 100 {
		one := target{kind: kindWorkload, device: "d", workload: fmt.Sprint(i), interval: interval}
		first := firstSlot(begin, one)
		phase := first.UnixNano() % int64(interval)
		seen[phase/int64(6*time.Second)] = true
		for _, later := range []time.Duration{0, 1, time.Second, 59 * time.Second, 61 * time.Second, 1000 * time.Hour} {
			now := begin.Add(later)
			slot := firstSlot(now, one)
			if wait := slot.Sub(now); wait <= 0 || wait > interval || slot.UnixNano()%int64(interval) != phase {
				t.Fatalf("at %s: %s, %s from then, phase %d, want %d", now, slot, wait, slot.UnixNano()%int64(interval), phase)
			}
		}
	}
	if len(seen) < 10 {
		t.Errorf("100 targets are in %d of 10 parts of the interval", len(seen))
	}
	for late, want := range map[time.Duration]time.Duration{
		0: interval, interval - 1: interval, interval: interval, interval + 1: 2 * interval, 3*interval + 5: 4 * interval, -time.Hour: interval,
	} {
		if got := nextSlot(begin, begin.Add(late), interval).Sub(begin); got != want {
			t.Errorf("%s after a slot: the next one is %s after it, want %s", late, got, want)
		}
	}
}

func FuzzReadSpec(f *testing.F) {
	f.Add([]byte(podOfThree))
	f.Add([]byte(`{"containers":[{"name":"a","ports":[{"containerPort":"80"}]}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if s := readSpec(raw); s.ports == nil || s.init == nil {
			t.Error("no maps")
		}
	})
}

func FuzzAddressOf(f *testing.F) {
	f.Add(int32(80), "/metrics?a=b")
	f.Add(int32(80), "//evil/x")
	f.Add(int32(80), "@evil")
	f.Fuzz(func(t *testing.T, port int32, path string) {
		if a, err := addressOf(port, path); err == nil && !strings.HasPrefix(a, fmt.Sprintf("http://127.0.0.1:%d/", port)) {
			t.Errorf("%q became %q", path, a)
		}
	})
}
