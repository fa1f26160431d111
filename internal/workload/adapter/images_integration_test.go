//go:build integration

package adapter_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/podman"
	"github.com/project-flotta/flotta-agent/internal/secret"
	"github.com/project-flotta/flotta-agent/internal/workload"
	"github.com/project-flotta/flotta-agent/internal/workload/adapter"
	"github.com/project-flotta/flotta-agent/test/device"
	"github.com/project-flotta/flotta-agent/test/testenv"
)

// asUser runs Podman as the user of the workloads.
func asUser(t *testing.T, args ...string) string {
	t.Helper()
	line := []string{
		"-u", device.User, "--", "sh", "-c",
		`cd; export XDG_RUNTIME_DIR=/run/user/$(id -u); export DBUS_SESSION_BUS_ADDRESS=unix:path=$XDG_RUNTIME_DIR/bus; exec podman "$@"`, "podman",
	}
	out, err := exec.CommandContext(t.Context(), "runuser", append(line, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("podman %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// testImages: names are taken away one by one, a moved name leaves its image
// behind, and images that come wake the engine.
func testImages(t *testing.T, pc *podman.Client) {
	ctx := t.Context()
	pods := adapter.NewPods(pc)
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	registry, err := testenv.StartRegistry(ctx, testenv.RegistryConfig{Address: "127.0.0.1:5000"})
	if err != nil {
		t.Fatal(err)
	}
	defer registry.Stop()
	reference := registry.Addr() + "/moved:v1"
	pull := func() workload.Image {
		t.Helper()
		if err := pods.PullImage(ctx, reference, secret.Value{}, func(string) {}); err != nil {
			t.Fatal(err)
		}
		image, there, err := pods.Image(ctx, reference)
		if err != nil || !there {
			t.Fatal("pulled and not there:", err)
		}
		return image
	}
	watchCtx, cancel := context.WithCancel(ctx)
	var woken atomic.Int64
	ended := make(chan error, 1)
	go func() { ended <- pods.Watch(watchCtx, func() { woken.Add(1) }) }()
	eventually(t, "the stream is open", func() bool { return woken.Load() > 0 })
	for i, version := range []string{"v1", "v2"} {
		if _, _, err := registry.Push("moved:v1", testenv.RegistryImage{Program: program[:1<<20], Version: version}); err != nil {
			t.Fatal(err)
		}
		before := woken.Load()
		image := pull()
		eventually(t, "the pull wakes", func() bool { return woken.Load() > before })
		if i == 0 {
			before = woken.Load()
			asUser(t, "tag", reference, "localhost/second:v1")
			eventually(t, "the tag wakes", func() bool { return woken.Load() > before })
			defer func() { checkMoved(t, pods, image.ID, reference) }()
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// checkMoved removes both images: that which lost the name in the registry to a
// newer one, and is left with the other, and the newer.
func checkMoved(t *testing.T, pods *adapter.Pods, id, reference string) {
	ctx := context.WithoutCancel(t.Context())
	list, err := pods.Images(ctx)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(list, func(i workload.Image) bool { return i.ID == id })
	if i < 0 || !slices.Equal(list[i].Names, []string{"localhost/second:v1"}) {
		t.Fatalf("the image whose name was moved: %+v", list)
	}
	newer, there, err := pods.Image(ctx, reference)
	if err != nil || !there || newer.ID == id {
		t.Fatalf("%+v %t %v", newer, there, err)
	}
	asUser(t, "tag", reference, "localhost/third:v1", "localhost/fourth:v1")
	if err := errors.Join(pods.RemoveImage(ctx, id), pods.RemoveImage(ctx, newer.ID), pods.RemoveImage(ctx, newer.ID)); err != nil {
		t.Error(err)
	}
	for _, name := range []string{reference, "localhost/second:v1", "localhost/third:v1", "localhost/fourth:v1"} {
		if _, there, err := pods.Image(ctx, name); err != nil || there {
			t.Errorf("%s is still there, %v", name, err)
		}
	}
}

func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !check(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// The shell of a health check is that of the device.
const healthManifest = `apiVersion: v1
kind: Pod
metadata:
  name: %[1]s
  labels: {io.project-flotta.workload: %[1]s, io.project-flotta.digest: d}
spec:
  volumes:
  - {name: usr, hostPath: {path: /usr, type: Directory}}
  - {name: bin, hostPath: {path: /usr/bin, type: Directory}}
  - {name: lib, hostPath: {path: /usr/lib, type: Directory}}
  - {name: lib64, hostPath: {path: /usr/lib64, type: Directory}}
  containers:
  - name: main
    image: ` + testImage + `
    imagePullPolicy: IfNotPresent
    args: [serve]
    env: [{name: PATH, value: /usr/bin}]
    volumeMounts:
    - {name: usr, mountPath: /usr, readOnly: true}
    - {name: bin, mountPath: /bin, readOnly: true}
    - {name: lib, mountPath: /lib, readOnly: true}
    - {name: lib64, mountPath: /lib64, readOnly: true}
    livenessProbe:
      exec: {command: ["true"]}
      periodSeconds: 1
      timeoutSeconds: 10
      failureThreshold: 30
  - name: unchecked
    image: ` + testImage + `
    imagePullPolicy: IfNotPresent
    args: [sleep]
`

// testHealth: health is known, and a look at everything costs two calls however
// many containers there are.
func testHealth(t *testing.T, pc *podman.Client, units workload.UnitControl) {
	ctx := t.Context()
	for _, name := range []string{"health-a", "health-b", "health-c"} {
		place(t, name, "d", testImage)
		path := filepath.Join("/var/local/yggdrasil/device/workloads", name, "manifest.yaml")
		if err := os.WriteFile(path, fmt.Appendf(nil, healthManifest, name), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := units.Start(ctx, name); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = units.Stop(context.WithoutCancel(ctx), name) }()
	}
	counting, calls := countCalls(t, pc)
	pods := adapter.NewPods(counting)
	watchCtx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	watching := make(chan struct{}, 1000)
	go func() { ended <- pods.Watch(watchCtx, func() { watching <- struct{}{} }) }()
	<-watching
	look := func() (healthy, unchecked int) {
		t.Helper()
		list, err := pods.Pods(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range list {
			for _, c := range p.Containers {
				switch {
				case strings.HasSuffix(c.Name, "-unchecked") && c.Health == "":
					unchecked++
				case c.Health == workload.HealthHealthy:
					healthy++
				}
			}
		}
		return healthy, unchecked
	}
	eventually(t, "all are healthy", func() bool { healthy, unchecked := look(); return healthy == 3 && unchecked == 3 })
	time.Sleep(3 * time.Second) // until what started is no longer fresh
	look()
	drain(watching)
	before := calls.Load()
	const looks = 5
	for range looks {
		look()
		time.Sleep(300 * time.Millisecond) // in which health checks run
	}
	if n := calls.Load() - before; n != 2*looks {
		t.Errorf("%d looks at 6 containers took %d calls, want %d", looks, n, 2*looks)
	}
	if n := len(watching); n > 0 {
		t.Errorf("%d health checks that found nothing new woke the engine", n)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func drain(c <-chan struct{}) {
	for {
		select {
		case <-c:
		default:
			return
		}
	}
}

// countCalls returns a client whose calls are counted, the stream of events
// aside.
func countCalls(t *testing.T, pc *podman.Client) (*podman.Client, *atomic.Int64) {
	t.Helper()
	version, err := pc.Version(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Log("podman", version.Engine)
	uid := strings.TrimSpace(mustRun(t, "id", "-u", device.User))
	socket := filepath.Join("/run/user", uid, "podman/podman.sock")
	var calls atomic.Int64
	target, err := url.Parse("http://podman")
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.FlushInterval = -1
	proxy.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/events") {
			calls.Add(1)
		}
		proxy.ServeHTTP(w, r)
	})}
	path := filepath.Join(t.TempDir(), "s")
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	counting, err := podman.New(podman.Config{Socket: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(counting.Close)
	return counting, &calls
}

func mustRun(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).Output()
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	return string(out)
}
