package takeover

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/podman"
	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// layOut makes the host one of flotta v0.2.
func (h *host) layOut(dataDir string) {
	h.Helper()
	h.write(dataDir+"/device-config.json", savedText)
	h.write(dataDir+"/workloads/web/auth.json", "{}")
	h.write(dataDir+"/workload-mapping.json", "[]")
	h.play(dataDir, "web")
	h.play(dataDir, "stale")
	h.write("workers/device-worker.toml", "exec = \"/usr/libexec/yggdrasil/device-worker\"\nprotocol = \"grpc\"\nenv = []\n")
	h.secrets = []podman.Secret{{Name: "former"}, {Name: "mine"}, {Name: "labelled", Labels: map[string]string{"a": "b"}}}
}

// check fails the test unless everything was taken over.
func (h *host) check(dataDir string) {
	h.Helper()
	if left := h.left(dataDir); len(left) > 0 {
		h.Errorf("left: %v", left)
	}
	if diff := cmp.Diff([]string{"own-web"}, h.names()); diff != "" {
		h.Errorf("pods (-want +got):\n%s", diff)
	}
	for _, name := range []string{"web", "stale"} {
		if raw, err := os.ReadFile(h.path("state/volumes/" + name + "/file")); err != nil || string(raw) != name {
			h.Errorf("volume of %s: %q %v", name, raw, err)
		}
	}
	if raw, _ := os.ReadFile(h.path("aside/device-worker.toml.flotta-v0.2")); !strings.Contains(string(raw), "device-worker") {
		h.Errorf("file of the worker: %q", raw)
	}
	var names []string
	for _, s := range h.secrets {
		names = append(names, s.Name)
	}
	if diff := cmp.Diff([]string{"mine", "labelled"}, names); diff != "" {
		h.Errorf("secrets (-want +got):\n%s", diff)
	}
	if !h.has(dataDir+"/device-config.json") || !h.has(dataDir+"/workload-mapping.json") {
		h.Error("what the way back needs, or is not known, is gone")
	}
}

func TestTakeOver(t *testing.T) {
	t.Parallel()
	for _, dataDir := range []string{"state", "data"} {
		t.Run(dataDir, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, dataDir)
			h.layOut(dataDir)
			take := h.begin()
			if got := h.store.Current().State(); len(got.Workloads) != 1 || got.Version != "7" {
				t.Errorf("in force are %d workloads of version %q", len(got.Workloads), got.Version)
			}
			if len(h.ran) > 0 || len(h.pods) != 2 {
				t.Errorf("the beginning stopped something: %v, pods %v", h.ran, h.names())
			}
			ports, err := take.Ports(t.Context(), "web")
			if diff := cmp.Diff([]manifest.HostPort{{Protocol: "tcp", Port: 8080}}, ports); diff != "" || err != nil {
				t.Errorf("ports (-want +got):\n%s%v", diff, err)
			}
			if diff := cmp.Diff([]protocol.Mount{{Device: "/dev/sdb1", Directory: "/mnt/x", Type: "ext4"}}, take.Mounts()); diff != "" {
				t.Errorf("mounts (-want +got):\n%s", diff)
			}
			h.complete(take)
			h.check(dataDir)

			// Another start finds nothing to do, and what is in force stays.
			h.ok(h.store.Accept([]byte(`{"configuration": {}, "version": "8"}`)))
			again := h.begin()
			if again.pending() || h.store.Current().State().Version != "8" {
				t.Error("it begins once more")
			}
			h.ok(again.Forget(t.Context()))
			h.ok(again.Forget(t.Context()))
			if h.has(dataDir + "/device-config.json") {
				t.Error("a device that has left keeps the configuration")
			}
		})
	}
}

var errKilled = errors.New("killed")

// TestTakeOverEndsAnywhere ends the process at each step in turn, as often as it is
// reached, and begins once more.
func TestTakeOverEndsAnywhere(t *testing.T) {
	t.Parallel()
	for _, dataDir := range []string{"state", "data"} {
		steps := 0
		for at := 1; at == 1 || steps == at-1; at++ {
			h := newHost(t, dataDir)
			h.layOut(dataDir)
			steps = 0
			h.cfg.Step = func(string) {
				if steps++; steps == at {
					panic(errKilled)
				}
			}
			killed := func() (killed bool) {
				defer func() {
					if r := recover(); r != nil {
						err, is := r.(error)
						killed = is && errors.Is(err, errKilled)
						if !killed {
							panic(r)
						}
					}
				}()
				h.complete(h.begin())
				return false
			}()
			h.cfg.Step = nil
			if killed {
				steps = at
				h.complete(h.begin())
			}
			h.check(dataDir)
			if !killed {
				if at < 12 {
					t.Errorf("%s: only %d steps: this test shows nothing", dataDir, at-1)
				}
				break
			}
		}
	}
}

// TestOwnPodIsThereFirst: systemd started the agent's pod at boot, before the agent could
// remove the units of flotta v0.2, whose commands would stop what is called the same.
func TestOwnPodIsThereFirst(t *testing.T) {
	t.Parallel()
	h := newHost(t, "state")
	h.layOut("state")
	take := h.begin()
	h.ok(take.Retire(t.Context(), "web"))
	h.own("web")
	for range 3 {
		h.ok(take.rest(t.Context()))
	}
	h.check("state")
	for _, command := range h.ran {
		if strings.Contains(command, "web") {
			t.Errorf("ran: %s", command)
		}
	}
}

// TestVolumesOnAnotherFileSystem: their folder is mounted, and the agent does not go on
// without it. That it is mounted in fact, and after a boot, is tested on a device.
func TestVolumesOnAnotherFileSystem(t *testing.T) {
	t.Parallel()
	const memory = "/dev/shm"
	dir, err := os.MkdirTemp(memory, "takeover")
	if err != nil {
		t.Fatalf("a second file system is needed: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	h := newHost(t, "data")
	h.layOut("data")
	h.cfg.StateDir = dir
	take, err := New(h.cfg)
	h.ok(err)
	if bind, err := apart(h.path("data/volumes"), dir); !bind || err != nil {
		t.Fatalf("%s and %s have to be on two file systems: %v", h.dir, dir, err)
	}
	if err := take.Begin(t.Context()); err == nil || !strings.Contains(err.Error(), "is not seen at") {
		t.Errorf("it begins: %v", err)
	}
	name := strings.ReplaceAll(strings.Trim(dir, "/"), "/", "-") + "-volumes.mount"
	if diff := cmp.Diff([]string{"enable " + name, "start " + name}, h.ran); diff != "" {
		t.Errorf("commands (-want +got):\n%s", diff)
	}
	raw, err := os.ReadFile(h.path("system/" + name))
	if err != nil || !strings.Contains(string(raw), "What="+h.path("data/volumes")+"\nWhere="+dir+"/volumes\n") {
		t.Errorf("unit %q %v", raw, err)
	}
	if !h.has("data/volumes/web/file") || !h.active["web.service"] || h.store.Current().Digest() != "" {
		t.Error("something of the workloads was changed")
	}

	h.ok(os.MkdirAll(filepath.Join(dir, "volumes/other"), 0o755))
	h.ok(os.WriteFile(filepath.Join(dir, "volumes/other/file"), nil, 0o600))
	if err := take.Begin(t.Context()); err == nil || !strings.Contains(err.Error(), "move that away") {
		t.Errorf("it would hide what is there: %v", err)
	}
}

func TestVolumeOfBothIsNotReplaced(t *testing.T) {
	t.Parallel()
	h := newHost(t, "data")
	h.layOut("data")
	h.write("state/volumes/web/file", "newer")
	take, err := New(h.cfg)
	h.ok(err)
	if err := take.Begin(t.Context()); err == nil || !strings.Contains(err.Error(), "keep one of the two") {
		t.Errorf("it begins: %v", err)
	}
	if raw, _ := os.ReadFile(h.path("data/volumes/web/file")); string(raw) != "web" || !h.has("workers/device-worker.toml") {
		t.Error("something was changed")
	}
}

func TestPodsOfOthersStay(t *testing.T) {
	t.Parallel()
	h := newHost(t, "state")
	h.layOut("state")
	h.pod("mine", "/srv/mine")                          // of a person
	h.pod("db", h.path("state/volumes/other"))          // has the volume of another one
	h.pod("Odd Name", h.path("state/volumes/Odd Name")) // no workload is called so
	h.pod("found", h.path("state/volumes")+"/./found")  // flotta v0.2's, of which nothing else is left
	h.write("home/units/mine.service", "[Service]\nExecStart=/usr/bin/podman pod start mine\n")
	h.write("home/units/web-proxy.service", "# web-proxy.service\n# autogenerated by Podman 4.3.1\n1-infra")
	h.write("home/units/container-web-app2.service", "# container-web-app2.service\n# autogenerated by Podman 4.3.1\nBindsTo=web-app2.service\n")
	h.ok(os.Symlink("/etc/passwd", h.path("home/units/container-stale-x.service")))
	take := h.begin()
	h.complete(take)
	if diff := cmp.Diff([]string{"Odd Name-id", "db-id", "mine-id", "own-web"}, h.names()); diff != "" {
		t.Errorf("pods (-want +got):\n%s", diff)
	}
	want := []string{"home/units/container-stale-x.service", "home/units/container-web-app2.service", "home/units/mine.service", "home/units/web-proxy.service"}
	if diff := cmp.Diff(want, h.left("state")); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
	if len(h.secrets) != 3 {
		t.Errorf("secrets that somebody else may use are gone: %v", h.secrets)
	}
}

// TestWhatCannotBeRunIsKept: a workload that this agent does not start goes on as before.
func TestWhatCannotBeRunIsKept(t *testing.T) {
	t.Parallel()
	h := newHost(t, "state")
	h.layOut("state")
	take := h.begin()
	for range 3 {
		h.ok(take.rest(t.Context()))
	}
	if diff := cmp.Diff([]string{"web-id"}, h.names()); diff != "" || !h.enabled["web.service"] {
		t.Errorf("pods (-want +got):\n%s", diff)
	}
}

// TestNotToldAnything: without a configuration nobody can say what to remove.
func TestNotToldAnything(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"garbage": "\x00\xff{", "another device": strings.Replace(savedText, `"dev"`, `"other"`, 1), "no configuration": `{"workloads": []}`, "none": "",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, "state")
			h.layOut("state")
			h.ok(os.Remove(h.path("state/device-config.json")))
			if text != "" {
				h.write("state/device-config.json", text)
			}
			take := h.begin()
			h.ok(take.rest(t.Context()))
			if diff := cmp.Diff([]string{"stale-id", "web-id"}, h.names()); diff != "" || len(h.ran) > 0 {
				t.Errorf("pods (-want +got):\n%s%v", diff, h.ran)
			}
			if h.store.Current().Digest() != "" {
				t.Error("it is in force")
			}
			h.ok(h.store.Accept([]byte(`{"configuration": {}, "version": "1"}`)))
			h.ok(take.rest(t.Context()))
			if len(h.pods) != 0 {
				t.Errorf("pods that are not configured: %v", h.names())
			}
		})
	}
}

func TestHostWithoutFormerAgent(t *testing.T) {
	t.Parallel()
	h := newHost(t, "data")
	h.write("workers/device.toml", "exec = \"/usr/bin/flotta-agent\"\n")
	h.write("workers/other.toml", "exec = \"/usr/libexec/yggdrasil/package-worker\"\n")
	h.write("workers/odd.toml", "exec = \"device-worker\"\n")
	h.ok(os.Symlink(h.path("workers/link"), h.path("workers/link")))
	take := h.begin()
	if take.pending() || h.has("state/takeover.json") || len(h.left("x")) != 4 {
		t.Errorf("something was done: %v", h.left("x"))
	}
	h.ok(take.Retire(t.Context(), "web"))
	h.ok(take.Remove(t.Context(), "web"))
	h.ok(take.Forget(t.Context()))
}

func TestDamagedRecordIsMadeAnew(t *testing.T) {
	t.Parallel()
	h := newHost(t, "state")
	h.layOut("state")
	h.write("state/takeover.json", "{")
	h.complete(h.begin())
	h.check("state")
}

func TestRunTellsAndEnds(t *testing.T) {
	t.Parallel()
	h := newHost(t, "state")
	h.layOut("state")
	take := h.begin()
	h.own("web")
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- take.Run(ctx, func(e protocol.EventInfo) { h.events = append(h.events, e) }) }()
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	var reasons []string
	for _, e := range h.events {
		reasons = append(reasons, e.Reason)
	}
	want := []string{"TakenOverWorker", "TakenOverConfiguration", "TakenOverWorkload", "TakenOverWorkload", "TakenOver"}
	if diff := cmp.Diff(want, reasons); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// TestProcessIsSeen: the program of a process is known by its path, also when the file
// is gone.
func TestProcessIsSeen(t *testing.T) {
	t.Parallel()
	h := newHost(t, "state")
	for pid, exe := range map[int]string{7: "/usr/libexec/yggdrasil/device-worker", 8: "/usr/libexec/yggdrasil/device-worker (deleted)", 9: "/usr/bin/device-worker"} {
		h.ok(os.MkdirAll(filepath.Join(h.cfg.ProcDir, strconv.Itoa(pid)), 0o755))
		h.ok(os.Symlink(exe, filepath.Join(h.cfg.ProcDir, strconv.Itoa(pid), "exe")))
	}
	got := h.cfg.running("/usr/libexec/yggdrasil/device-worker")
	if diff := cmp.Diff([]int{7, 8}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
