//go:build integration

package adapter_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/podman"
	"github.com/project-flotta/flotta-agent/internal/systemd"
	"github.com/project-flotta/flotta-agent/internal/workload"
	"github.com/project-flotta/flotta-agent/internal/workload/adapter"
)

// patience covers the template's TimeoutStopSec.
const patience = 100 * time.Second

// host is the Podman and the service manager that a test is about, on a device.
type host struct {
	*testing.T
	owner   string
	podman  *podman.Client
	manager *systemd.Client
	pods    *adapter.Pods
	units   *adapter.Units
	dropIns string
}

func (h *host) sub(name string, f func(h *host)) {
	h.Run(name, func(t *testing.T) {
		one := *h
		one.T = t
		f(&one)
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newUnits is a new life of the agent.
func (h *host) newUnits() *adapter.Units {
	h.Helper()
	units, err := adapter.NewUnits(adapter.UnitsConfig{Client: h.manager, DropIns: h.dropIns})
	must(h.T, err)
	return units
}

// place writes a manifest with that specification.
func (h *host) place(name, spec string) {
	h.Helper()
	place(h.T, name, "digest", testImage)
	text := fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata:\n  name: %s\n  labels: {io.project-flotta.workload: %[1]s, io.project-flotta.digest: digest}\nspec:\n%s", name, spec)
	must(h.T, os.WriteFile(manifestPath(name), []byte(text), 0o644))
}

func manifestPath(name string) string {
	return filepath.Join("/var/local/yggdrasil/device/workloads", name, "manifest.yaml")
}

// container is one of a specification.
func container(name, more string) string {
	return fmt.Sprintf("  - name: %s\n    image: %s\n    imagePullPolicy: IfNotPresent\n    %s\n", name, testImage, more)
}

// as runs a command as the owner of the pods.
func (h *host) as(args ...string) string {
	h.Helper()
	if h.owner != "root" {
		args = append([]string{"runuser", "--user", h.owner, "--", "env", "--chdir=/", "XDG_RUNTIME_DIR=" + h.runtimeDir(), "HOME=/var/home/" + h.owner}, args...)
	}
	out, err := exec.CommandContext(h.Context(), args[0], args[1:]...).CombinedOutput()
	if err != nil {
		h.Errorf("%v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (h *host) runtimeDir() string {
	account, err := user.Lookup(h.owner)
	must(h.T, err)
	return "/run/user/" + account.Uid
}

// systemctl asks the manager that the test is about.
func (h *host) systemctl(args ...string) string {
	h.Helper()
	if h.owner != "root" {
		args = append([]string{"--user"}, args...)
	}
	return h.as(append([]string{"systemctl"}, args...)...)
}

func (h *host) containers() string {
	h.Helper()
	return h.as("podman", "ps", "--all", "--noheading", "--format", "{{.Names}} {{.Status}}")
}

// settled waits until the unit is in that state.
func (h *host) settled(name string, state workload.UnitState) workload.Unit {
	h.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		u, err := h.units.Unit(h.Context(), name)
		must(h.T, err)
		if u.State == state {
			return u
		}
		if time.Now().After(deadline) {
			h.Fatalf("unit of %s is %+v, want it %s", name, u, state)
		}
	}
}

// codes returns the exit codes of a pod's containers that have ended.
func (h *host) codes(name string) (status string, codes map[string]int32) {
	h.Helper()
	p, there, err := h.pods.Pod(h.Context(), name)
	must(h.T, err)
	if !there {
		h.Fatalf("pod %s is not there", name)
	}
	codes = map[string]int32{}
	for _, c := range p.Containers {
		if c.Status == workload.ContainerExited || c.Status == workload.ContainerStopped {
			codes[strings.TrimPrefix(c.Name, name+"-")] = c.ExitCode
		}
	}
	return p.Status, codes
}

// removed takes a workload away as the reconciler does, and checks that nothing
// is left.
func (h *host) removed(names ...string) {
	h.Helper()
	ctx := h.Context()
	for _, name := range names {
		must(h.T, errors.Join(h.units.Disable(ctx, name), h.units.Stop(ctx, name),
			h.units.Configure(ctx, name, workload.UnitSettings{}), h.pods.RemovePod(ctx, name)))
		must(h.T, os.RemoveAll(filepath.Dir(manifestPath(name))))
	}
	if left := h.containers(); left != "" {
		h.Errorf("left of %v: %s", names, left)
	}
	units, err := h.units.Units(ctx)
	must(h.T, err)
	for _, name := range names {
		if u, listed := units[name]; listed {
			h.Errorf("unit left: %+v", u)
		}
	}
	if left, _ := filepath.Glob(h.dropIns + "/flotta-workload@*"); len(left) != 0 {
		h.Errorf("drop-ins left: %v", left)
	}
}
