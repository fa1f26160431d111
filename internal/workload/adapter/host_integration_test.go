//go:build integration

package adapter_test

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/workload"
	"github.com/project-flotta/flotta-agent/internal/workload/adapter"
	"github.com/project-flotta/flotta-agent/test/device"
	"github.com/project-flotta/flotta-agent/test/image"
)

// portPod publishes ports, and shares nothing else.
const portPod = `apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {io.project-flotta.workload: %s}}
spec:
  containers:
  - {name: main, image: %s, args: [sleep], ports: [{containerPort: 8080, hostPort: %d}, {containerPort: 53, hostPort: %d, protocol: UDP}]}
`

// hostPod lives in the network of the host.
const hostPod = `apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {io.project-flotta.workload: %s}}
spec:
  hostNetwork: true
  containers:
  - {name: main, image: %s, args: [serve, "%d"]}
`

// TestHostKnowsWhoseItsSocketsAre looks at the ports of a device's pods.
func TestHostKnowsWhoseItsSocketsAre(t *testing.T) {
	if os.Getenv(onDevice) != "" {
		list, err := adapter.NewHost(adapter.HostConfig{}).Sockets()
		if err != nil {
			t.Fatal(err)
		}
		if err := json.NewEncoder(os.Stdout).Encode(list); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Parallel()
	d := device.New(t, device.Config{})
	if err := d.AddImage(t.Context(), device.User, image.Spec{Ref: testImage}); err != nil {
		t.Fatal(err)
	}
	h := &portHost{T: t, d: d}
	h.install()
	h.play("published", fmt.Sprintf(portPod, "published", "published", testImage, 18080, 18053))
	h.play("shared", fmt.Sprintf(hostPod, "shared", "shared", testImage, 18090))
	h.owned("tcp", 18080, "published")
	h.owned("udp", 18053, "published")
	h.owned("tcp", 18090, "shared")
	h.run("systemd-run", "--unit=holder", "systemd-socket-activate", "--accept", "--inetd", "--listen=127.0.0.1:18099", "cat")
	h.owned("tcp", 18099, "")
}

// TestHostKnowsWhoseItsSocketsAreInRootMode is the same with containers of root,
// whose ports the kernel forwards; Podman only holds them.
func TestHostKnowsWhoseItsSocketsAreInRootMode(t *testing.T) {
	t.Parallel()
	host, err := device.DetectHost()
	if err != nil {
		t.Fatal(err)
	}
	cfg := device.Config{Cgroup: device.CgroupV1}
	if host.PureCgroupV2 {
		cfg.Cgroup = device.CgroupV2
	}
	d := device.New(t, cfg)
	if err := d.AddImage(t.Context(), "root", image.Spec{Ref: testImage}); err != nil {
		t.Fatal(err)
	}
	h := &portHost{T: t, d: d, root: true}
	h.install()
	h.play("published", fmt.Sprintf(portPod, "published", "published", testImage, 18080, 18053))
	h.play("shared", fmt.Sprintf(hostPod, "shared", "shared", testImage, 18090))
	h.owned("tcp", 18080, "published")
	h.owned("udp", 18053, "published")
	h.owned("tcp", 18090, "shared")
}

type portHost struct {
	*testing.T
	d    *device.Device
	root bool // in root's instance of systemd
}

func (h *portHost) run(args ...string) string {
	h.Helper()
	r, err := h.d.Run(h.Context(), args...)
	if err != nil {
		h.Fatal(err)
	}
	return r.Stdout
}

func (h *portHost) install() {
	h.Helper()
	self, err := os.Executable()
	if err == nil {
		err = h.d.CopyIn(self, "/usr/local/bin/adapter.test", 0o755)
	}
	if err != nil {
		h.Fatal(err)
	}
}

func (h *portHost) play(name, manifest string) {
	h.Helper()
	path := "/var/local/yggdrasil/device/workloads/" + name + "/manifest.yaml"
	if err := h.d.WriteFile(path, []byte(manifest), 0o644); err != nil {
		h.Fatal(err)
	}
	user, systemctl := device.User, []string{"systemctl", "--user", "start"}
	if h.root {
		user, systemctl = "root", []string{"systemctl", "start"}
	}
	if _, err := h.d.RunAs(h.Context(), user, append(systemctl, "flotta-workload@"+name)...); err != nil {
		h.Fatal(err)
	}
}

// sockets returns what the device says of that port.
func (h *portHost) sockets(protocol string, port uint16) []workload.Socket {
	h.Helper()
	out := h.run("env", onDevice+"=1", "/usr/local/bin/adapter.test", "-test.run=^TestHostKnowsWhoseItsSocketsAre$")
	first, _, _ := strings.Cut(out, "\n")
	var list, here []workload.Socket
	if err := json.Unmarshal([]byte(first), &list); err != nil {
		h.Fatalf("%v: %s", err, out)
	}
	for _, s := range list {
		if s.Protocol == protocol && s.Port == port {
			here = append(here, s)
		}
	}
	return here
}

// owned waits until somebody listens on that port: a unit that is started need
// not be as far as that.
func (h *portHost) owned(protocol string, port uint16, owner string) {
	h.Helper()
	var here []workload.Socket
	for end := time.Now().Add(20 * time.Second); len(here) == 0 && time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		here = h.sockets(protocol, port)
	}
	if len(here) != 1 || here[0].Workload != owner || here[0].PID == 0 || here[0].Command == "" {
		h.Errorf("%s port %d belongs to %+v, want workload %q", protocol, port, here, owner)
		h.Log(h.run("bash", "-c", `for p in $(pgrep 'conmon|rootlessport|slirp|app'); do echo; echo $p; tr '\0' ' ' </proc/$p/cmdline | cut -c1-300; echo; cat /proc/$p/cgroup; ls -l /proc/$p/fd | grep socket; tr '\0' '\n' </proc/$p/environ | head -20; done; cat /proc/net/tcp /proc/net/udp`))
	} else {
		h.Logf("%+v", here[0])
	}
}
