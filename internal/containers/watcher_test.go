package containers_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/containers"
	"github.com/project-flotta/flotta-agent/internal/podman"
)

const label = "io.project-flotta.workload"

// fake is a Podman that answers as a real one was recorded to, but for what the
// test changes.
type fake struct {
	t      *testing.T
	socket string

	mu       sync.Mutex
	server   *http.Server
	list     []map[string]any
	inspects map[string]map[string]any // by ID
	asked    map[string]int            // inspections by ID
	damaged  string                    // ID of what cannot be inspected
	streams  []chan string             // of open event streams
	opened   int
	lists    int // answers to who asked for the list
}

func newFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{
		t: t, socket: filepath.Join(t.TempDir(), "s"),
		inspects: map[string]map[string]any{}, asked: map[string]int{},
	}
	decode(t, "list.json", &f.list)
	for _, name := range []string{"px-c.json", "ph-c.json"} {
		var one map[string]any
		decode(t, name, &one)
		f.inspects[one["Id"].(string)] = one
	}
	t.Cleanup(f.stop)
	return f
}

func decode(t *testing.T, name string, out any) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, out); err != nil {
		t.Fatal(err)
	}
}

// start serves on the socket.
func (f *fake) start() {
	f.t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(context.WithoutCancel(f.t.Context()), "unix", f.socket)
	if err != nil {
		f.t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(f.serve), ReadHeaderTimeout: time.Minute}
	f.mu.Lock()
	f.server = server
	f.mu.Unlock()
	go func() { _ = server.Serve(listener) }()
}

// stop makes Podman go away, with its socket and its streams.
func (f *fake) stop() {
	f.mu.Lock()
	server := f.server
	f.mu.Unlock()
	if server != nil {
		_ = server.Close()
	}
	f.cut()
}

// cut ends the streams of events.
func (f *fake) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.streams {
		close(s)
	}
	f.streams = nil
}

func (f *fake) serve(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/v4.0.0/libpod")
	id, isInspect := strings.CutSuffix(strings.TrimPrefix(path, "/containers/"), "/json")
	switch {
	case path == "/events":
		f.stream(w, r)
	case path == "/containers/json":
		f.mu.Lock()
		defer f.mu.Unlock()
		f.lists++
		_ = json.NewEncoder(w).Encode(f.list)
	case isInspect:
		f.mu.Lock()
		defer f.mu.Unlock()
		f.asked[id]++
		if id == f.damaged {
			http.Error(w, `{"cause":"no such file","message":"read state: no such file"}`, http.StatusInternalServerError)
			return
		}
		if one := f.inspects[id]; one != nil {
			_ = json.NewEncoder(w).Encode(one)
			return
		}
		http.Error(w, `{"cause":"no such container","message":"no such container"}`, http.StatusNotFound)
	default:
		http.NotFound(w, r)
	}
}

func (f *fake) stream(w http.ResponseWriter, r *http.Request) {
	events := make(chan string, 16)
	f.mu.Lock()
	f.streams = append(f.streams, events)
	f.opened++
	f.mu.Unlock()
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	for {
		select {
		case <-r.Context().Done():
			return
		case text, open := <-events:
			if !open {
				return
			}
			_, _ = w.Write([]byte(text + "\n"))
			_ = http.NewResponseController(w).Flush()
		}
	}
}

// change changes the state and says so on the streams.
func (f *fake) change(how func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	how()
	for _, s := range f.streams {
		s <- `{"Type":"container","Action":"died","Actor":{"ID":"x","Attributes":{}},"timeNano":1}`
	}
}

func (f *fake) count(id string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked[id]
}

func (f *fake) listed() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lists
}

// watch runs a watcher of the fake until the test ends.
func (f *fake) watch() *containers.Watcher {
	f.t.Helper()
	client, err := podman.New(podman.Config{Socket: f.socket})
	if err != nil {
		f.t.Fatal(err)
	}
	return run(f.t, containers.Config{
		Podman: client, Label: label, Log: slog.New(slog.DiscardHandler),
		Init: func(workload, container string) bool { return workload == "px" && container == "setup" },
	}, time.Hour)
}

func run(t *testing.T, cfg containers.Config, resync time.Duration) *containers.Watcher {
	t.Helper()
	w, err := containers.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.SetResync(resync)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		cfg.Podman.Close()
	})
	return w
}

// await waits until the list is as the test wants it, woken by Changed.
func await(t *testing.T, w *containers.Watcher, what string, ok func([]containers.Container, bool) bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		changed := w.Changed()
		list, known := w.Current()
		if ok(list, known) {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("not in time: %s; known %t, list %+v", what, known, list)
		}
	}
}

func names(list []containers.Container) string {
	var out []string
	for _, c := range list {
		text := c.Workload + "/" + c.Container
		if c.Running {
			text += "+"
		}
		out = append(out, text)
	}
	return strings.Join(out, " ")
}

const (
	idC  = "48f2e695f68e62dbd11abaee3c3ef6604a2bddc11cebc1ddbdb4733906de52b8"
	idHC = "b7c3dfbfb5e83ca88c777e147b5e74c08ba41169fad4ceaff67cbf8f517dd2df"
)

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	client, err := podman.New(podman.Config{Socket: "/s"})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	for _, cfg := range []containers.Config{{}, {Podman: client, Label: label}, {Podman: client, Log: log}, {Label: label, Log: log}} {
		if _, err := containers.New(cfg); err == nil {
			t.Errorf("New(%+v) accepted it", cfg)
		}
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.start()
	w := f.watch()
	await(t, w, "the list is known", func(_ []containers.Container, known bool) bool { return known })
	list, _ := w.Current()
	at := func(text string) time.Time {
		v, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	const logs = "/var/lib/containers/storage/overlay-containers/"
	want := []containers.Container{
		{
			ID: idHC, Name: "ph-c", Workload: "ph", Container: "c", Running: true, HostNetwork: true, InfraPID: 1840,
			Created: at("2026-11-21T22:10:19.90321916Z"), Started: at("2026-11-21T22:10:20.015417302Z"),
			LogDriver: "k8s-file", LogPath: logs + idHC + "/userdata/ctr.log",
		},
		{
			ID: idC, Name: "px-c", Workload: "px", Container: "c", Running: true, InfraPID: 1802,
			Created: at("2026-11-21T22:10:19.378522675Z"), Started: at("2026-11-21T22:10:19.883363187Z"),
			LogDriver: "k8s-file", LogPath: logs + idC + "/userdata/ctr.log",
		},
	}
	if diff := cmp.Diff(want, list); diff != "" {
		t.Errorf("list (-want +got):\n%s", diff)
	}
}

// One container that Podman cannot tell about hides no other one.
func TestDamagedContainer(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.damaged = idHC
	f.start()
	await(t, f.watch(), "the other one is known", func(list []containers.Container, known bool) bool {
		return known && names(list) == "px/c+"
	})
}

// TestEvents sees a container end, start again and another one come, with one
// inspection for each life.
func TestEvents(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.start()
	w := f.watch()
	await(t, w, "both run", func(list []containers.Container, _ bool) bool { return names(list) == "ph/c+ px/c+" })
	f.change(func() {
		f.list[0]["State"], f.list[1]["State"] = "exited", "exited"
		f.inspects[idC]["State"].(map[string]any)["Running"] = false
	})
	await(t, w, "px ended", func(list []containers.Container, _ bool) bool {
		return names(list) == "ph/c+ px/c" && list[1].InfraPID == 0
	})
	f.change(func() {
		f.list[0]["State"], f.list[1]["State"] = "running", "running"
		f.list[0]["Pid"], f.list[1]["Pid"] = 2000, 2001 // within the same second
		f.inspects[idC]["State"].(map[string]any)["StartedAt"] = "2026-11-21T22:10:19.999Z"
	})
	await(t, w, "px runs again", func(list []containers.Container, _ bool) bool {
		return names(list) == "ph/c+ px/c+" && list[1].InfraPID == 2000 && list[1].Started.Nanosecond() == 999e6
	})
	f.change(func() {
		f.list[0]["Pid"], f.list[1]["Pid"] = 3000, 3001 // again, and it was never seen ended
		f.inspects[idC]["State"].(map[string]any)["StartedAt"] = "2026-11-21T22:10:19.9999Z"
	})
	await(t, w, "px was started again", func(list []containers.Container, _ bool) bool {
		return names(list) == "ph/c+ px/c+" && list[1].InfraPID == 3000 && list[1].Started.Nanosecond() == 9999e5
	})
	f.change(func() {
		setup := maps.Clone(f.list[1])
		setup["Id"], setup["Names"] = "setup", []string{"px-setup"}
		gone := map[string]any{"Id": "gone", "Names": []string{"px-gone"}, "Labels": setup["Labels"], "PodName": "px", "State": "created"}
		f.list = append(f.list, setup, gone) // the second one is removed before it is inspected
		f.inspects["setup"] = f.inspects[idC]
	})
	await(t, w, "a third came", func(list []containers.Container, _ bool) bool {
		return names(list) == "ph/c+ px/c+ px/setup+" && list[2].Init && !list[1].Init
	})
	if c, hc := f.count(idC), f.count(idHC); c != 4 || hc != 1 {
		t.Errorf("%d and %d inspections, want one for each of four lives, and one", c, hc)
	}
}

// TestStreamEnds misses nothing that happens while no stream is open.
func TestStreamEnds(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.start()
	w := f.watch()
	await(t, w, "both run", func(list []containers.Container, _ bool) bool { return names(list) == "ph/c+ px/c+" })
	f.mu.Lock()
	f.list = f.list[:2]
	f.mu.Unlock()
	f.cut()
	await(t, w, "ph is gone", func(list []containers.Container, known bool) bool { return known && names(list) == "px/c+" })
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.opened < 2 {
		t.Errorf("%d streams were opened", f.opened)
	}
}

// TestLostEvent notices in the end what Podman told nobody.
func TestLostEvent(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.start()
	client, err := podman.New(podman.Config{Socket: f.socket})
	if err != nil {
		t.Fatal(err)
	}
	w := run(t, containers.Config{Podman: client, Label: label, Log: slog.New(slog.DiscardHandler)}, 50*time.Millisecond)
	await(t, w, "both run", func(list []containers.Container, _ bool) bool { return names(list) == "ph/c+ px/c+" })
	for deadline := time.Now().Add(30 * time.Second); f.listed() < 3; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the state is not read again and again")
		}
	}
	f.mu.Lock()
	f.list = f.list[:2]
	f.mu.Unlock()
	await(t, w, "ph is gone", func(list []containers.Container, _ bool) bool { return names(list) == "px/c+" })
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.opened != 1 {
		t.Errorf("%d streams were opened, want one", f.opened)
	}
}

// TestAbsent keeps what was seen while Podman is away, and says that it may not
// be true.
func TestAbsent(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	w := f.watch()
	if list, known := w.Current(); known || len(list) > 0 {
		t.Errorf("before podman answered: %+v, %t", list, known)
	}
	f.start()
	await(t, w, "both run", func(list []containers.Container, known bool) bool { return known && names(list) == "ph/c+ px/c+" })
	f.stop()
	await(t, w, "podman is away", func(list []containers.Container, known bool) bool {
		return !known && names(list) == "ph/c+ px/c+"
	})
	f.start()
	await(t, w, "podman is back", func(list []containers.Container, known bool) bool { return known && len(list) == 2 })
}
