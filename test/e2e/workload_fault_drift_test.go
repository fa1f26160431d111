//go:build device

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/device"
	"github.com/project-flotta/flotta-agent/test/site"
)

// drift is something that a person does by hand to a workload.
type drift struct {
	workload string
	what     string
	by       func(r *rig, workload string)
	// settled returns nil when it is put right, beyond running as it should; may
	// be nil.
	settled func(r *rig, workload string) error
}

func podman(args ...string) func(*rig, string) {
	return func(r *rig, workload string) {
		r.byHand(strings.Split(strings.ReplaceAll("podman "+strings.Join(args, " "), "POD", workload), " ")...)
	}
}

func systemctl(args ...string) func(*rig, string) {
	return func(r *rig, workload string) {
		r.byHand(append(append([]string{"systemctl", "--user"}, args...), "flotta-workload@"+workload+".service")...)
	}
}

// byHand runs a command that may be told that it was in vain: what it does can be
// put right before it has ended.
func (r *rig) byHand(args ...string) {
	r.Helper()
	if _, err := r.edge.RunAs(r.ctx, device.User, args...); err != nil {
		r.Log(err)
	}
}

// drifts are what a person does without asking. Each befalls a workload of its
// own.
var drifts = []drift{
	{"d-rm", "podman pod rm", podman("pod", "rm", "--force", "POD"), nil},
	{"d-rm-one", "podman rm of one container", podman("rm", "--force", "POD-app"), nil},
	{"d-stop", "podman stop of one container", podman("stop", "--time", "1", "POD-app"), nil},
	{"d-kill", "podman kill", podman("kill", "POD-app"), nil},
	{"d-pause", "podman pause", podman("pause", "POD-app"), nil},
	{"d-unit-stop", "systemctl stop", systemctl("stop"), nil},
	{"d-unit-off", "systemctl disable", systemctl("disable"), nil},
	{"d-unit-now", "systemctl disable --now", systemctl("disable", "--now"), nil},
	{"d-gone", "deletion of the manifest", func(r *rig, workload string) {
		must(r.T, os.Remove(r.edge.Path(filepath.Join(stateDir, "workloads", workload, "manifest.yaml"))))
	}, nil},
	{"d-edit", "an edit of the manifest", func(r *rig, workload string) {
		file := filepath.Join(stateDir, "workloads", workload, "manifest.yaml")
		raw, err := r.edge.ReadFile(file)
		must(r.T, err)
		must(r.T, r.edge.WriteFile(file, append(raw, "# edited by hand\n"...), 0o640))
	}, func(r *rig, workload string) error {
		raw, err := r.edge.ReadFile(filepath.Join(stateDir, "workloads", workload, "manifest.yaml"))
		if err == nil && strings.Contains(string(raw), "edited by hand") {
			err = errors.New("the edit is in force")
		}
		return err
	}},
	{"d-drop-in", "deletion of the unit's drop-in", func(r *rig, workload string) {
		_, err := r.edge.Run(r.ctx, "sh", "-c", "rm "+dropIn(workload))
		must(r.T, err)
		r.byHand("systemctl", "--user", "daemon-reload")
	}, func(r *rig, workload string) error {
		_, err := r.edge.Run(r.ctx, "sh", "-c", "ls "+dropIn(workload))
		return err
	}},
	{"d-secret", "deletion of its secret", func(r *rig, _ string) {
		r.byHand("podman", "secret", "rm", "--all")
		r.byHand("podman", "stop", "--time", "1", "d-secret-app")
	}, func(r *rig, _ string) error {
		out, err := r.edge.Podman(r.ctx, "secret", "ls", "--noheading")
		if err == nil && out == "" {
			err = errors.New("there is no secret")
		}
		return err
	}},
}

// dropIn is where the settings of one unit are, for a shell.
func dropIn(workload string) string {
	return "/etc/systemd/user/flotta-workload@" + workload + ".service.d/*.conf"
}

// asItShould returns nil when a workload runs its proven manifest under an
// active and enabled unit.
func (r *rig) asItShould(workload, round string) error {
	if err := r.inForce(workload, round); err != nil {
		return err
	}
	for verb, want := range map[string]string{"is-active": "active", "is-enabled": "enabled"} {
		if state, _ := r.edge.UserUnit(r.ctx, verb, "flotta-workload@"+workload+".service"); state != want {
			return fmt.Errorf("its unit is %s", state)
		}
	}
	_, err := r.edge.Container(r.ctx, workload, "app")
	return err
}

// sleeper is a workload with a grace of its own, and with a secret.
func (r *rig) sleeper(name, round string) string {
	text := r.workload(name, "args: [sleep]\nenvFrom: [{secretRef: {name: keys}}]\nenv: [{name: ROUND, value: "+round+"}]", "")
	return strings.Replace(text, "    spec:\n", "    spec:\n      terminationGracePeriodSeconds: 7\n", 1)
}

func TestDriftByHand(t *testing.T) {
	t.Parallel()
	r := newRig(t, site.EdgeConfig{Settings: quickSync})
	r.save("keys.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: keys}\nstringData: {TOKEN: s3cr3t}\n")
	r.save("bystander.yaml", r.workload("bystander", "args: [sleep]", ""))
	for _, d := range drifts {
		r.save(d.workload+".yaml", r.sleeper(d.workload, "first"))
	}
	r.phase("bystander", "Running")
	for _, d := range drifts {
		r.phase(d.workload, "Running")
		r.until(d.workload+" runs", func() error { return r.asItShould(d.workload, "first") })
	}
	check := r.untouched("bystander")
	all := []string{"bystander"}
	for _, d := range drifts {
		d.by(r, d.workload)
		all = append(all, d.workload)
	}
	for _, d := range drifts {
		r.sub(d.what, func(r *rig) {
			if err := site.Until(r.ctx, patience, func() error {
				if d.settled != nil {
					if err := d.settled(r, d.workload); err != nil {
						return err
					}
				}
				return r.asItShould(d.workload, "first")
			}); err != nil {
				r.Fatalf("it is not put right: %v", err)
			}
		})
	}
	r.until("nothing is doubled", func() error { return r.nothingDoubled(all...) })
	check("after everything was put right")
	r.sub("but not under maintenance", maintenance)
}

// maintenance leaves alone what an administrator has put a marker on: one until
// it is removed, and one until the next boot.
func maintenance(r *rig) {
	const lasting, passing = "d-kill", "d-stop"
	markers := map[string]string{
		lasting: "/etc/flotta/maintenance/" + lasting,
		passing: "/run/flotta/maintenance/" + passing,
	}
	for workload, marker := range markers {
		must(r.T, r.edge.WriteFile(marker, nil, 0o644))
		systemctl("stop")(r, workload)
		r.save(workload+".yaml", r.sleeper(workload, "second"))
	}
	r.save("bystander.yaml", r.workload("bystander", "args: [sleep]\nenv: [{name: ROUND, value: second}]", ""))
	r.until("another workload is changed", func() error { return r.inForce("bystander", "second") })
	stopped := func(workload string) error {
		if _, err := r.edge.Container(r.ctx, workload, "app"); err == nil {
			return fmt.Errorf("%s runs although it is under maintenance", workload)
		}
		return nil
	}
	hold(r.T, 10*time.Second, func() error { return errors.Join(stopped(lasting), stopped(passing)) })
	must(r.T, r.edge.Shutdown(r.ctx))
	must(r.T, r.edge.PowerOn(r.ctx))
	r.running("bystander", "app")
	r.until(passing+" runs after the boot", func() error { return r.asItShould(passing, "second") })
	hold(r.T, 5*time.Second, func() error { return stopped(lasting) })
	must(r.T, os.Remove(r.edge.Path(markers[lasting])))
	r.until(lasting+" runs when its marker is gone", func() error { return r.asItShould(lasting, "second") })
}
