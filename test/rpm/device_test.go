//go:build device

package rpm

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/console"
	"github.com/project-flotta/flotta-agent/test/device"
	"github.com/project-flotta/flotta-agent/test/image"
	"github.com/project-flotta/flotta-agent/test/site"
)

// patience is how long anything may take on a machine under load.
const patience = 90 * time.Second

// rig is a site with one device.
type rig struct {
	*testing.T
	site *site.Site
	edge *site.Edge
}

func newRig(t *testing.T, cfg site.EdgeConfig) *rig {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "site")
	must(t, os.Mkdir(dir, 0o750))
	s, err := site.Start(t.Context(), site.Config{Dir: dir, AutoApprove: true})
	must(t, err)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close site: %v", err)
		}
	})
	e, err := s.NewEdge(t.Context(), cfg)
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			t.Logf("journal of %s:\n%s", e.Name(), e.Journal(ctx, 250))
		}
	})
	return &rig{T: t, site: s, edge: e}
}

// manage waits until the device is registered and runs a workload, whose
// container it returns.
func (r *rig) manage() string {
	r.Helper()
	must(r.T, r.edge.FindUser(r.Context()))
	must(r.T, r.edge.AddImage(r.Context(), device.User, image.Spec{Ref: "localhost/flotta-test:v1"}))
	must(r.T, r.edge.Registered(r.Context()))
	r.workload("first")
	return r.running()
}

// workload has the device told of its workload.
func (r *rig) workload(edition string) {
	r.Helper()
	must(r.T, r.site.WriteManifest("web.yaml", fmt.Sprintf(`apiVersion: management.project-flotta.io/v1alpha1
kind: EdgeWorkload
metadata: {name: web}
spec:
  type: pod
  device: %q
  pod:
    spec:
      containers:
      - name: app
        image: localhost/flotta-test:v1
        env: [{name: EDITION, value: %s}]
        ports: [{containerPort: 8080, hostPort: 18080}]
`, r.edge.ID(), edition)))
}

func (r *rig) until(what string, f func() error) {
	r.Helper()
	if err := site.Until(r.Context(), patience, f); err != nil {
		r.Fatalf("%s: %v", what, err)
	}
}

// running waits until the workload runs and is seen to, and returns its
// container and when it was started.
func (r *rig) running() (id string) {
	r.Helper()
	r.until("the workload runs", func() (err error) {
		if id, err = r.edge.Container(r.Context(), "web", "app"); err != nil {
			return err
		}
		started, err := r.edge.Podman(r.Context(), "inspect", "--format", "{{.State.StartedAt}}", id)
		id += " " + started
		return err
	})
	r.until("it is known to run", func() error {
		if phase := r.edge.Phase("web"); phase != "Running" {
			return fmt.Errorf("it is %q", phase)
		}
		return nil
	})
	return id
}

// agent waits until an agent of that version runs and is well, and returns its
// process.
func (r *rig) agent(version string) (pid string) {
	r.Helper()
	r.until("agent "+version+" is well", func() error {
		result, err := r.edge.Run(r.Context(), "flotta-agent", "status", "-o", "json")
		if result.Code != 0 {
			return err
		}
		var d console.Document
		if err := json.Unmarshal([]byte(result.Stdout), &d); err != nil {
			return err
		}
		if d.Version != version || !d.Healthy {
			return fmt.Errorf("it is %s, healthy %v", d.Version, d.Healthy)
		}
		result, err = r.edge.Run(r.Context(), "pgrep", "-x", "flotta-agent")
		pid = strings.TrimSpace(result.Stdout)
		return err
	})
	return pid
}

// rpm runs rpm on the device, on packages of this machine.
func (r *rig) rpm(args []string, packages ...string) string {
	r.Helper()
	line := append([]string{"sh", "-c", `force=; if rpm --help | grep -q -e --force-debian; then force=--force-debian; fi
exec rpm $force --nodeps "$@" 2>&1`, "rpm"}, args...)
	for i, path := range packages {
		target := "/root/" + strconv.Itoa(i) + ".rpm"
		must(r.T, r.edge.CopyIn(path, target, 0o600))
		line = append(line, target)
	}
	result, err := r.edge.Run(r.Context(), line...)
	if err != nil {
		r.Fatalf("%v: %s", err, result.Stdout)
	}
	return result.Stdout
}

// sh runs a line of shell on the device that has to succeed.
func (r *rig) sh(line string) string {
	r.Helper()
	result, err := r.edge.Run(r.Context(), "sh", "-c", line)
	if err != nil {
		r.Fatalf("%v: %s", err, result.Stdout)
	}
	return strings.TrimSpace(result.Stdout)
}

// is checks what lines of shell print.
func (r *rig) is(want map[string]string) {
	r.Helper()
	for line, want := range want {
		if got := r.sh(line + " || :"); got != want {
			r.Errorf("%s: %q, want %q", line, got, want)
		}
	}
}

const settings = site.DefaultSettings + "# mine\n"

// TestLife is a device's whole way through rpm: installed while it runs,
// enrolled, upgraded, taken back, erased, and installed anew.
func TestLife(t *testing.T) {
	t.Parallel()
	for _, transport := range []site.Transport{site.Yggd, site.Direct} {
		t.Run(string(transport), func(t *testing.T) {
			t.Parallel()
			live(t, transport)
		})
	}
}

func live(t *testing.T, transport site.Transport) {
	r := newRig(t, site.EdgeConfig{Bare: true, Transport: transport})
	must(t, r.edge.WriteFile("/etc/subuid", []byte("somebody:589824:65536\n"), 0o644))
	must(t, r.edge.WriteFile("/etc/subgid", nil, 0o644))
	// yggd takes whatever is there for a worker, what rpm puts aside as well.
	shipped := read(t, root, "config/yggdrasil/device.toml")
	must(t, r.edge.WriteFile("/etc/yggdrasil/workers/device.toml", []byte("# mine\n"+shipped), 0o644))
	r.rpm([]string{"-U"}, pack(t, older, "", "-greenboot")...)
	r.is(map[string]string{
		"ls /etc/yggdrasil/workers":                                                        "device.toml",
		"cat /etc/flotta/device.toml.rpmnew":                                               strings.TrimSpace(shipped),
		"cat /etc/subuid":                                                                  "somebody:589824:65536\nflotta:655360:65536",
		"cat /etc/subgid":                                                                  "flotta:655360:65536",
		"systemctl --global is-enabled flotta-workloads.target":                            "enabled",
		"systemctl is-enabled flotta-workloads.target":                                     "disabled",
		"systemctl is-enabled flotta-agent.service":                                        "disabled",
		"systemctl is-enabled flotta-subids.service":                                       "static",
		"loginctl show-user flotta --property=Linger --value":                              "yes",
		"stat -c '%a %U:%G' /var/local/yggdrasil/device/volumes /var/lib/flotta-greenboot": "711 flotta:flotta\n755 root:root",
	})
	must(t, r.edge.WriteFile("/etc/flotta/agent.toml", []byte(settings), 0o644))
	r.sh("systemctl enable --now " + r.edge.Service())

	container := r.manage()
	pid := r.agent(older)
	r.sh("echo kept >/var/local/yggdrasil/device/volumes/web/file")
	for _, step := range []struct {
		version string
		args    []string
	}{{newer, []string{"-U"}}, {older, []string{"-U", "--oldpackage"}}} {
		r.rpm(step.args, pack(t, step.version, "", "-greenboot")...)
		before := pid
		if pid = r.agent(step.version); pid == before {
			t.Errorf("agent %s is the process %s of the one before", step.version, pid)
		}
		if now := r.running(); now != container {
			t.Errorf("with agent %s, the workload was restarted: %s, before %s", step.version, now, container)
		}
		r.is(map[string]string{
			"cat /etc/flotta/agent.toml":                          strings.TrimSpace(settings),
			"ls /etc/yggdrasil/workers":                           "device.toml",
			"loginctl show-user flotta --property=Linger --value": "yes",
			"systemctl is-enabled " + r.edge.Service():            "enabled",
		})
	}
	const credential = "sha256sum /etc/pki/flotta/*.pem"
	known := r.sh(credential)
	r.erased()

	r.rpm([]string{"-U"}, pack(t, newer, "")...)
	must(t, r.edge.WriteFile("/etc/flotta/agent.toml", []byte(settings), 0o644))
	r.sh("systemctl enable " + r.edge.Service() + "; systemctl restart " + r.edge.Service())
	r.agent(newer)
	r.running()
	r.is(map[string]string{
		"cat /var/local/yggdrasil/device/volumes/web/file": "kept",
		credential: known, // the device is the one that it was
	})
	r.workload("second")
	r.until("it does what it is told", func() error {
		out, err := r.edge.Podman(r.Context(), "inspect", "--format", "{{.Config.Env}}", "web-app")
		if err == nil && !strings.Contains(out, "EDITION=second") {
			err = fmt.Errorf("the environment of the workload is %s", out)
		}
		return err
	})
}

// erased erases the packages, and looks for what is left.
func (r *rig) erased() {
	r.Helper()
	uid := strconv.Itoa(r.edge.UID())
	said := r.rpm([]string{"-e", "flotta-agent", "flotta-agent-greenboot"})
	for _, kept := range []string{
		"/var/local/yggdrasil/device", "/var/home/flotta", "/var/lib/flotta-greenboot", "/etc/flotta", "the user flotta", "key and certificate",
	} {
		if !strings.Contains(said, "flotta-agent: kept: "+kept) {
			r.Errorf("nothing is said of %s: %s", kept, said)
		}
	}
	for line := range strings.Lines(said) {
		if !strings.HasPrefix(line, "flotta-agent: ") && !strings.HasPrefix(line, "warning: /etc/") {
			r.Errorf("it says %q", line)
		}
	}
	// What somebody wrote on the device is not the package's.
	drop, carrier, settingsLeft := "", "active", ""
	if r.edge.Transport == site.Direct {
		drop, carrier, settingsLeft = "/etc/systemd/system/flotta-agent.service.d", "inactive", "agent.toml.d"
	}
	r.is(map[string]string{
		"find /usr /etc/systemd /run/systemd -xdev -name '*flotta*'": drop,
		"pgrep -l -u flotta":                               "",
		"pgrep -l -x flotta-agent":                         "",
		"ls /var/lib/systemd/linger":                       "",
		"systemctl is-active user@" + uid + ".service":     "inactive",
		"systemctl is-active " + r.edge.Service():          carrier,
		"systemctl --failed --no-legend":                   "",
		"nft list tables | grep flotta":                    "",
		"ls -A /etc/yggdrasil/workers":                     "",
		"ls /etc/flotta | grep -v '\\.rpm'":                settingsLeft,
		"head -n 1 /etc/flotta/device.toml.rpmsave":        "# mine",
		"cat /var/local/yggdrasil/device/volumes/web/file": "kept",
		"cat /etc/flotta/agent.toml.rpmsave":               strings.TrimSpace(settings),
	})
}

// TestImage boots an image that the packages were put into before, with the layout
// of ostree: nobody can write to /usr.
func TestImage(t *testing.T) {
	t.Parallel()
	r := newRig(t, site.EdgeConfig{Packages: pack(t, older, "", "-greenboot"), Ostree: true, Settings: settings})
	r.manage()
	r.agent(older)
	r.is(map[string]string{
		"touch /usr/x 2>&1":              "touch: cannot touch '/usr/x': Read-only file system",
		"cat /etc/flotta/agent.toml":     strings.TrimSpace(settings),
		"ls /etc/flotta":                 "agent.toml\nagent.toml.d\nagent.toml.rpmnew\nmaintenance\npki",
		"systemctl --failed --no-legend": "",
	})
	// The device's own files, merged over those of another image.
	r.sh("sed -i /^flotta:/d /etc/subuid /etc/subgid; sync")
	must(t, r.edge.PowerCut())
	must(t, r.edge.PowerOn(t.Context()))
	r.running()
	if got := r.sh("cat /etc/subuid"); !strings.Contains(got, "flotta:600000:65536") {
		t.Errorf("after the boot, subuid is %q", got)
	}
}
