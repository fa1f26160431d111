//go:build device

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/project-flotta/flotta-agent/test/device"
	"github.com/project-flotta/flotta-agent/test/image"
	"github.com/project-flotta/flotta-agent/test/site"
)

func TestEnrolApproveRegister(t *testing.T) {
	t.Parallel()
	s := newSite(t, false)
	e := newEdge(t, s, site.EdgeConfig{})
	until(t, "the device asks", func() error {
		if !s.Requested(e.ID()) {
			return fmt.Errorf("no request")
		}
		return nil
	})
	if err := e.Condition("Registered"); err == nil {
		t.Fatal("registered before the approval")
	}
	must(t, e.Enrol(t.Context()))
	// yggd noticed the new certificate: configurations are only for those who
	// have one, and a heartbeat says that one arrived.
	until(t, "the device reports with its own certificate", func() error {
		d, err := s.Device(e.ID())
		if err == nil && (d.Status.LastSeenTime == nil || d.Status.Phase != "up") {
			err = fmt.Errorf("it is %q, last seen %v", d.Status.Phase, d.Status.LastSeenTime)
		}
		return err
	})
	for _, path := range []string{"/etc/pki/flotta/cert.pem", "/etc/pki/flotta/key.pem"} {
		r, err := e.Run(t.Context(), "readlink", "-f", path)
		must(t, err)
		if got := strings.TrimSpace(r.Stdout); got != "/etc/pki/flotta/flotta-credentials.pem" {
			t.Errorf("%s leads to %s, want the one file with both", path, got)
		}
	}
}

func TestWorkloads(t *testing.T) {
	t.Parallel()
	r := newRig(t, site.EdgeConfig{})
	r.sub("by device name, change, delete and re-create", deployChangeDelete)
	r.sub("by label", deployByLabel)
	r.sub("two containers, neither named like the pod", deployTwoContainers)
	r.sub("host port, ConfigMap and Secret", deployEnvironment)
	r.sub("an image that appears later", deployMissingImage)
	r.sub("a broken manifest beside a good one", deployBrokenBesideGood)
	r.sub("a change that does not start is rolled back", deployBadUpdate)
}

func deployChangeDelete(r *rig) {
	r.save("w.yaml", r.workload("plain", "args: [sleep]", ""))
	first := r.running("plain", "app")
	r.phase("plain", "Running")
	r.save("w.yaml", r.workload("plain", "args: [sleep]\nenv: [{name: CHANGED, value: '1'}]", ""))
	second := r.replaced("plain", "app", first)
	env, err := r.edge.Podman(r.ctx, "inspect", "--format", "{{.Config.Env}}", second)
	must(r.T, err)
	if !strings.Contains(env, "CHANGED=1") || !strings.Contains(env, "DEVICE_ID="+r.edge.ID()) {
		r.Errorf("environment %s lacks the change or the device's id", env)
	}
	r.remove("w.yaml")
	r.gone("plain")
	r.save("w.yaml", r.workload("plain", "args: [sleep]", ""))
	if third := r.running("plain", "app"); third == first || third == second {
		r.Error("the re-created workload is an old container")
	}
	r.remove("w.yaml")
	r.gone("plain")
}

func deployByLabel(r *rig) {
	r.save("w.yaml", strings.Replace(r.workload("labelled", "args: [sleep]", ""),
		fmt.Sprintf("device: %q", r.edge.ID()), "deviceSelector: {matchLabels: {example.com/place: hall}}", 1))
	r.device("example.com/place: hall", "")
	r.running("labelled", "app")
	r.device("example.com/place: yard", "")
	r.gone("labelled")
	r.device("", "")
	r.remove("w.yaml")
}

func deployTwoContainers(r *rig) {
	r.save("w.yaml", r.workload("pair", "args: [sleep]", "")+indent("- name: second\n  image: "+imageV1+"\n  args: [sleep]\n", 6))
	r.running("pair", "app")
	r.running("pair", "second")
	r.phase("pair", "Running")
	r.remove("w.yaml")
	r.gone("pair")
}

func deployEnvironment(r *rig) {
	r.save("config.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: words}\ndata: {GREETING: hello}\n")
	r.save("secret.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: keys}\nstringData: {TOKEN: s3cr3t, OTHER: unused}\n")
	r.save("w.yaml", r.workload("env", `args: [serve, "8080"]
ports: [{containerPort: 8080, hostPort: 18080}]
envFrom: [{configMapRef: {name: words}}]
env:
- {name: PASSWORD, valueFrom: {secretKeyRef: {name: keys, key: TOKEN}}}
- {name: LITERAL, value: plain}
`, ""))
	for name, want := range map[string]string{"GREETING": "hello", "PASSWORD": "s3cr3t", "LITERAL": "plain"} {
		r.answers("18080", "/env?name="+name, want)
	}
	manifest, err := r.edge.ReadFile("/var/local/yggdrasil/device/workloads/env/manifest.yaml")
	must(r.T, err)
	if strings.Contains(string(manifest), "s3cr3t") || strings.Contains(string(manifest), "czNjcjN0") {
		r.Error("the manifest on the device holds the secret's value")
	}
	old := r.running("env", "app")
	r.save("secret.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: keys}\nstringData: {TOKEN: changed, OTHER: unused}\n")
	r.replaced("env", "app", old)
	r.answers("18080", "/env?name=PASSWORD", "changed")
	for _, name := range []string{"w.yaml", "config.yaml", "secret.yaml"} {
		r.remove(name)
	}
	r.gone("env")
	r.until("its secrets are gone", func() error {
		out, err := r.edge.Podman(r.ctx, "secret", "ls", "--noheading")
		if err == nil && out != "" {
			err = fmt.Errorf("podman secret ls: %s", out)
		}
		return err
	})
}

func deployMissingImage(r *rig) {
	r.save("w.yaml", strings.Replace(r.workload("late", "args: [sleep]", ""), imageV1, imageV2, 1))
	r.until("the missing image is reported", func() error {
		if !strings.Contains(r.site.Events(r.edge.ID()), "WorkloadFailed") {
			return fmt.Errorf("events: %s", r.site.Events(r.edge.ID()))
		}
		return nil
	})
	must(r.T, r.edge.AddImage(r.ctx, device.User, image.Spec{Ref: imageV2}))
	r.running("late", "app")
	r.phase("late", "Running")
	r.remove("w.yaml")
	r.gone("late")
}

func deployBrokenBesideGood(r *rig) {
	r.save("good.yaml", r.workload("good", "args: [sleep]", ""))
	id := r.running("good", "app")
	r.save("broken.yaml", "kind: EdgeWorkload\nmetadata: {name: [\n")
	r.save("odd.yaml", r.workload("odd", "volumeMounts: [{name: none, mountPath: /x}]", ""))
	r.save("fine.yaml", r.workload("fine", "args: [sleep]", ""))
	r.running("fine", "app")
	r.until("the broken files are named", func() error {
		if problems := r.site.Problems(); !strings.Contains(problems, "broken.yaml") {
			return fmt.Errorf("problems: %s", problems)
		}
		return nil
	})
	r.until("the workload that cannot start is reported", func() error {
		if phase := r.edge.Phase("odd"); phase == "" || phase == "Running" || phase == "Deploying" {
			return fmt.Errorf("phase is %q", phase)
		}
		return nil
	})
	if now := r.running("good", "app"); now != id {
		r.Error("the good workload was restarted by its broken neighbours")
	}
	for _, name := range []string{"good", "odd", "fine", "broken"} {
		r.remove(name + ".yaml")
	}
	r.gone("good")
	r.gone("fine")
	r.gone("odd")
}

func deployBadUpdate(r *rig) {
	r.save("w.yaml", r.workload("careful", "args: [serve, '8080']\nports: [{containerPort: 8080, hostPort: 18081}]\nenv: [{name: ROUND, value: one}]", ""))
	r.answers("18081", "/env?name=ROUND", "one")
	r.save("w.yaml", r.workload("careful", "args: [exit, '3']\nports: [{containerPort: 8080, hostPort: 18081}]", ""))
	r.until("the failed update is reported", func() error {
		if !strings.Contains(r.site.Events(r.edge.ID()), "careful") {
			return fmt.Errorf("events: %s", r.site.Events(r.edge.ID()))
		}
		return nil
	})
	r.answers("18081", "/env?name=ROUND", "one")
	r.save("w.yaml", r.workload("careful", "args: [serve, '8080']\nports: [{containerPort: 8080, hostPort: 18081}]\nenv: [{name: ROUND, value: three}]", ""))
	r.answers("18081", "/env?name=ROUND", "three")
	r.remove("w.yaml")
	r.gone("careful")
}
