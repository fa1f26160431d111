//go:build integration

package collect

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/containers"
	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/metrics/series"
	"github.com/project-flotta/flotta-agent/internal/podman"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
	"github.com/project-flotta/flotta-agent/test/device"
	"github.com/project-flotta/flotta-agent/test/image"
	"github.com/project-flotta/flotta-agent/test/testenv"
)

const (
	// onDevice says that this process runs on a device, where the processes of
	// the pods are.
	onDevice  = "FLOTTA_TEST_ON_DEVICE"
	testImage = "localhost/collect:v1"
	atMost    = time.Minute
)

// TestDevice reads rootless pods that publish no port, and the node exporter of
// the distribution, on a booted device, where it runs itself.
func TestDevice(t *testing.T) {
	if os.Getenv(onDevice) != "" {
		testOnDevice(t)
		return
	}
	d := device.New(t, device.Config{})
	if err := d.AddImage(t.Context(), device.User, image.Spec{Ref: testImage}); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const program = "/usr/local/bin/collect.test"
	if err := d.CopyIn(self, program, 0o755); err != nil {
		t.Fatal(err)
	}
	result, err := d.Run(t.Context(), "env", onDevice+"=1", program, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=5m")
	t.Log(result.Stdout, result.Stderr)
	if err != nil {
		t.Fatal(err)
	}
}

// pod is a pod whose one container counts into a file that the other one serves.
const pod = `apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {io.project-flotta.workload: %[1]s}}
spec:
  restartPolicy: OnFailure
  initContainers:
  - {name: setup, image: "localhost/collect:v1", imagePullPolicy: IfNotPresent, args: [exit, "0"]}
  containers:
  - name: count
    image: localhost/collect:v1
    imagePullPolicy: IfNotPresent
    args: [write, /export/m, "%[1]s_total {n}", 100ms]
    volumeMounts: [{name: e, mountPath: /export}]
  - name: web
    image: localhost/collect:v1
    imagePullPolicy: IfNotPresent
    args: [serve, "8080"]
    volumeMounts: [{name: e, mountPath: /export}]
  volumes:
  - {name: e, hostPath: {path: /var/home/flotta/%[1]s, type: DirectoryOrCreate}}
`

// specOf is the same for the agent.
const specOf = `{"containers":[{"name":"count"},{"name":"web","ports":[{"containerPort":8080}]}],"initContainers":[{"name":"setup"}]}`

// asUser runs podman as the user of the workloads.
func asUser(t *testing.T, input string, args ...string) {
	t.Helper()
	account, err := user.Lookup(device.User)
	if err != nil {
		t.Fatal(err)
	}
	words := append([]string{"--user", device.User, "--", "env", "--chdir=/", "XDG_RUNTIME_DIR=/run/user/" + account.Uid, "HOME=" + account.HomeDir, "podman"}, args...)
	cmd := exec.CommandContext(t.Context(), "runuser", words...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("podman %v: %v: %s", args, err, out)
	}
}

// systemctl is a Units by the program that everybody knows.
type systemctl struct{}

func (systemctl) EnableAndStart(ctx context.Context, name string) error {
	if out, err := exec.CommandContext(ctx, "systemctl", "enable", "--now", name).CombinedOutput(); err != nil {
		if strings.Contains(string(out), "does not exist") {
			return ErrNoUnit
		}
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// exporterUnit returns the unit of the distribution's node exporter.
func exporterUnit(t *testing.T) string {
	t.Helper()
	names := []string{"prometheus-node-exporter.service", "node_exporter.service"}
	for _, name := range names {
		if exec.CommandContext(t.Context(), "systemctl", "cat", name).Run() == nil {
			return name
		}
	}
	t.Fatalf("none of %v is there: run test/setup/install.sh", names)
	return ""
}

func watch(t *testing.T) *containers.Watcher {
	t.Helper()
	account, err := user.Lookup(device.User)
	if err != nil {
		t.Fatal(err)
	}
	client, err := podman.New(podman.Config{Socket: "/run/user/" + account.Uid + "/podman/podman.sock"})
	if err != nil {
		t.Fatal(err)
	}
	w, err := containers.New(containers.Config{Podman: client, Label: "io.project-flotta.workload", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		client.Close()
	})
	return w
}

func wanted(names ...string) desired.State {
	s := desired.State{Metrics: &protocol.MetricsConfiguration{
		Receiver: receiver(), System: &protocol.ComponentMetricsConfiguration{Interval: 1},
	}}
	for _, name := range names {
		s.Workloads = append(s.Workloads, desired.Workload{Name: name, PodSpec: []byte(specOf), Metrics: &protocol.WorkloadMetrics{
			Port: 8080, Path: "/file?path=m", Interval: 1,
		}})
	}
	return s
}

// awaitSamples reads what is put until the test has seen enough.
func awaitSamples(t *testing.T, b *board, what string, enough func(line string, value float64) bool) {
	t.Helper()
	var seen []string
	for deadline := time.Now().Add(atMost); ; time.Sleep(50 * time.Millisecond) {
		for _, p := range b.taken() {
			for _, s := range p.samples {
				line := labelled(s)
				if enough(line, s.Value) {
					return
				}
				seen = append(seen, line)
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s; the last of %d samples:\n%s", what, len(seen), strings.Join(seen[max(0, len(seen)-30):], "\n"))
		}
	}
}

func testOnDevice(t *testing.T) {
	for _, name := range []string{"shop", "store"} {
		asUser(t, fmt.Sprintf(pod, name), "play", "kube", "-")
	}
	w := watch(t)
	b := newBoard(wanted("shop", "store"))
	unit := exporterUnit(t)
	e, _ := start(t, b, func(c *Config) { c.Containers, c.Units, c.NodeExporterUnit = w, systemctl{}, unit })
	t.Run("containers", func(t *testing.T) { testContainers(t, w) })
	for _, name := range []string{"shop", "store"} {
		want := fmt.Sprintf("%s_total{container=web,edgedeviceid=dev,instance=dev:8080,job=%[1]s,workload=%[1]s}", name)
		var last, grown float64
		awaitSamples(t, b, name+" counts", func(line string, value float64) bool {
			if strings.HasPrefix(line, want) && value > last {
				last, grown = value, grown+1
			}
			return grown > 3
		})
	}
	t.Run("node exporter", func(t *testing.T) { testNodeExporter(t, b, e) })
	t.Run("restart", func(t *testing.T) { testRestart(t, w, b) })
	asUser(t, "", "pod", "rm", "--force", "--time", "0", "store")
	awaitSamples(t, b, "store has ended", func(line string, value float64) bool {
		return strings.HasPrefix(line, "up{") && strings.Contains(line, "workload=store") && series.IsStale(value)
	})
	awaitStatus(t, e, func(s Status) bool { return len(s.Targets) == 2 })
	stayedHome(t)
}

// TestOtherLoopback reads what listens on the loopback address of IPv6 alone.
func TestOtherLoopback(t *testing.T) {
	port, err := testenv.FreePort("127.0.0.1") // which is tried first
	if err != nil {
		t.Fatal(err)
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", net.JoinHostPort("::1", strconv.Itoa(port)))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "six 6\n")
	})}
	defer func() { _ = server.Close() }()
	go func() { _ = server.Serve(listener) }()
	b := newBoard(desired.State{
		Metrics: &protocol.MetricsConfiguration{Receiver: receiver(), System: &protocol.ComponentMetricsConfiguration{Disabled: true}},
		Workloads: []desired.Workload{{Name: "w", Metrics: &protocol.WorkloadMetrics{
			Port: portOf(t, "http://"+listener.Addr().String()), Interval: 1,
		}}},
	})
	b.list = []containers.Container{{Workload: "w", Container: "c", Running: true, HostNetwork: true}}
	start(t, b, nil)
	awaitSamples(t, b, "a sample", func(line string, value float64) bool { return strings.HasPrefix(line, "six{") && value == 6 })
}

// testContainers sees what two pods are made of, without their infra and init
// containers.
func testContainers(t *testing.T, w *containers.Watcher) {
	var list []containers.Container
	for deadline := time.Now().Add(atMost); ; time.Sleep(50 * time.Millisecond) {
		var known bool
		if list, known = w.Current(); known && len(list) == 4 && !slices.ContainsFunc(list, func(c containers.Container) bool { return !c.Running }) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %+v", list)
		}
	}
	for i, want := range []string{"shop/count", "shop/web", "store/count", "store/web"} {
		c := list[i]
		if c.Workload+"/"+c.Container != want || c.InfraPID == 0 || c.HostNetwork || c.Created.IsZero() || c.Started.Before(c.Created) || c.LogDriver == "" || len(c.ID) != 64 {
			t.Errorf("container %d: %+v", i, c)
		}
	}
	if list[0].InfraPID != list[1].InfraPID || list[0].InfraPID == list[2].InfraPID {
		t.Errorf("infra processes: %+v", list)
	}
}

// testNodeExporter finds that the unit was started, and nothing but what the
// default list allows.
func testNodeExporter(t *testing.T, b *board, e *Engine) {
	names := map[string]bool{}
	awaitSamples(t, b, "the node exporter answers", func(line string, value float64) bool {
		if name, _, _ := strings.Cut(line, "{"); strings.Contains(line, "job=node") && strings.HasPrefix(name, "node_") {
			names[name] = true
		}
		return names["node_memory_MemTotal_bytes"] && strings.HasPrefix(line, "up{edgedeviceid=dev,instance=dev,job=node}") && value == 1
	})
	if names["node_load1"] || names["node_memory_Cached_bytes"] {
		t.Errorf("more than the default list: %v", names)
	}
	awaitStatus(t, e, func(s Status) bool {
		i := slices.IndexFunc(s.Targets, func(t TargetStatus) bool { return t.Name == "node" })
		return i >= 0 && s.Targets[i].Up && len(s.Problems) == 0
	})
}

// testRestart follows a pod into the network that it has after a restart.
func testRestart(t *testing.T, w *containers.Watcher, b *board) {
	before, _ := w.Current()
	b.taken()
	asUser(t, "", "pod", "restart", "shop")
	for deadline := time.Now().Add(atMost); ; time.Sleep(50 * time.Millisecond) {
		now, _ := w.Current()
		if len(now) == 4 && now[1].Running && now[1].InfraPID != 0 && now[1].InfraPID != before[1].InfraPID {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %+v", now)
		}
	}
	b.taken()
	awaitSamples(t, b, "shop counts again", func(line string, value float64) bool {
		return strings.HasPrefix(line, "shop_total{") && !series.IsStale(value)
	})
}

// stayedHome makes sure that no thread is in a pod's network.
func stayedHome(t *testing.T) {
	t.Helper()
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	links, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil || len(links) == 0 {
		t.Fatalf("threads %v, %v", links, err)
	}
	for _, link := range links {
		if there, err := os.Readlink(link); err != nil && !errors.Is(err, os.ErrNotExist) || err == nil && there != home {
			t.Errorf("%s is in %s: %v", link, there, err)
		}
	}
}
