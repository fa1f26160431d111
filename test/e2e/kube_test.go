//go:build device

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/test/site"
)

func TestKubeWorkloads(t *testing.T) {
	t.Parallel()
	r := newKubeRig(t, site.EdgeConfig{})
	r.sub("by device name, change, delete and re-create", deployChangeDelete)
	r.sub("by label", deployByLabel)
	r.sub("two containers, neither named like the pod", deployTwoContainers)
	r.sub("host port, ConfigMap and Secret", deployEnvironment)
	r.sub("an image that appears later", deployMissingImage)
	r.sub("a change that does not start is rolled back", deployBadUpdate)
}

func TestKubeTargets(t *testing.T) {
	t.Parallel()
	r := newKubeRig(t, site.EdgeConfig{})
	r.sub("no device matches", kubeNoMatch)
	r.sub("the selector is edited", kubeSelectorEdit)
	r.sub("by device set", kubeDeviceSet)
	r.sub("a host port that is taken", kubePortTaken)
	r.sub("a Secret that is missing", kubeMissingSecret)
	r.sub("the same manifests applied again", kubeApplyAgain)
}

// selected is a workload for the devices that a selector chooses.
func (r *rig) selected(name, selector string) string {
	return strings.Replace(r.workload(name, "args: [sleep]", ""),
		fmt.Sprintf("device: %q", r.edge.ID()), "deviceSelector: "+selector, 1)
}

func kubeNoMatch(r *rig) {
	r.save("w.yaml", r.selected("nobody", "{matchLabels: {example.com/place: moon}}"))
	r.says("NoDevices", "get", "edgeworkload", "nobody", "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].reason}`)
	hold(r.T, 7*time.Second, func() error {
		if _, err := r.edge.Container(r.ctx, "nobody", "app"); err == nil {
			return fmt.Errorf("a workload for another device runs")
		}
		return nil
	})
	r.remove("w.yaml")
}

func kubeSelectorEdit(r *rig) {
	r.device("example.com/place: hall", "")
	r.save("w.yaml", r.selected("edited", "{matchExpressions: [{key: example.com/place, operator: In, values: [hall]}]}"))
	r.running("edited", "app")
	r.says("1 1", "get", "edgeworkload", "edited", "-o", "jsonpath={.status.matched} {.status.running}")
	r.save("w.yaml", r.selected("edited", "{matchExpressions: [{key: example.com/place, operator: In, values: [yard]}]}"))
	r.gone("edited")
	r.until("the device's status does not list it", func() error {
		if phase := r.edge.Phase("edited"); phase != "" {
			return fmt.Errorf("it is %s", phase)
		}
		return nil
	})
	r.remove("w.yaml")
	r.device("", "")
}

func kubeDeviceSet(r *rig) {
	r.save("set.yaml", `apiVersion: management.project-flotta.io/v1alpha1
kind: EdgeDeviceSet
metadata: {name: halls}
spec:
  heartbeat: {periodSeconds: 2}
  storage: {s3: {secretName: storage, configMapName: storage}}
`)
	r.device("flotta/member-of: halls", "")
	r.save("w.yaml", r.selected("member", "{matchLabels: {flotta/member-of: halls}}"))
	r.running("member", "app")
	r.device("", "")
	r.gone("member")
	r.remove("w.yaml")
	r.remove("set.yaml")
}

func kubePortTaken(r *rig) {
	serve := "args: [serve, '8080']\nports: [{containerPort: 8080, hostPort: 18085}]\nenv: [{name: WHO, value: %s}]"
	r.save("first.yaml", r.workload("first", fmt.Sprintf(serve, "first"), ""))
	r.answers("18085", "/env?name=WHO", "first")
	id := r.running("first", "app")
	r.save("second.yaml", r.workload("second", fmt.Sprintf(serve, "second"), ""))
	r.until("the second workload is reported as failed", func() error {
		if phase := r.edge.Phase("second"); phase == "" || phase == "Running" || phase == "Deploying" {
			return fmt.Errorf("phase is %q", phase)
		}
		return nil
	})
	if now := r.running("first", "app"); now != id {
		r.Error("the workload that holds the port was restarted")
	}
	r.remove("first.yaml")
	r.gone("first")
	r.answers("18085", "/env?name=WHO", "second")
	r.remove("second.yaml")
	r.gone("second")
}

func kubeMissingSecret(r *rig) {
	r.save("good.yaml", r.workload("good", "args: [sleep]", ""))
	r.running("good", "app")
	r.save("w.yaml", r.workload("lacking", "args: [sleep]\nenvFrom: [{secretRef: {name: later}}]", ""))
	r.says("True SecretNotFound", "get", "edgedevice", r.edge.ID(), "-o",
		`jsonpath={.status.conditions[?(@.type=="Degraded")].status} {.status.conditions[?(@.type=="Degraded")].reason}`)
	r.until("an Event says so", func() error {
		if events := r.site.Events(r.edge.ID()); !strings.Contains(events, "SecretNotFound") || !strings.Contains(events, "later") {
			return fmt.Errorf("events:\n%s", events)
		}
		return nil
	})
	r.phase("good", "Running")
	r.save("later.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: later}\nstringData: {KEY: value}\n")
	r.running("lacking", "app")
	r.says("False", "get", "edgedevice", r.edge.ID(), "-o", `jsonpath={.status.conditions[?(@.type=="Degraded")].status}`)
	for _, name := range []string{"w.yaml", "later.yaml", "good.yaml"} {
		r.remove(name)
	}
	r.gone("lacking")
	r.gone("good")
}

func kubeApplyAgain(r *rig) {
	text := r.workload("again", "args: [sleep]", "")
	r.save("w.yaml", text)
	id := r.running("again", "app")
	r.says("True", "get", "edgeworkload", "again", "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
	before := r.kubectl("get", "edgeworkload", "again", "-o", "jsonpath={.metadata.resourceVersion} {.metadata.generation}")
	r.save("w.yaml", text)
	if after := r.kubectl("get", "edgeworkload", "again", "-o", "jsonpath={.metadata.resourceVersion} {.metadata.generation}"); after != before {
		r.Errorf("applying the same manifest again changed it: %s, then %s", before, after)
	}
	if now := r.running("again", "app"); now != id {
		r.Error("applying the same manifest again restarted the container")
	}
	r.remove("w.yaml")
	r.gone("again")
}

func TestKubeFilesTravelBothWays(t *testing.T) {
	t.Parallel()
	r := newKubeRig(t, site.EdgeConfig{})
	r.save("w.yaml", r.workload("courier", "args: [serve, '8080']\nports: [{containerPort: 8080, hostPort: 18080}]", syncPaths))
	r.running("courier", "app")
	r.sub("egress", syncEgress)
	r.sub("ingress", syncIngress)
	r.sub("the last upload is reported", syncReported)
}

// asks waits until the device has asked to be managed.
func (r *rig) asks() {
	r.Helper()
	r.until("the device asks", func() error {
		if !r.site.Requested(r.edge.ID()) {
			return fmt.Errorf("no request")
		}
		return nil
	})
}

// A device that was deleted stops, loses its rights, and needs a new approval.
func TestKubeDeviceLife(t *testing.T) {
	t.Parallel()
	s := newKubeSite(t)
	e := newEdge(t, s, site.EdgeConfig{})
	r := &rig{T: t, ctx: t.Context(), site: s, edge: e}
	r.asks()
	hold(t, 5*time.Second, func() error {
		if _, err := s.Device(e.ID()); err == nil {
			return fmt.Errorf("the device was let in without approval")
		}
		return nil
	})
	must(t, e.Enrol(t.Context()))
	r.device("", "")
	r.save("w.yaml", r.workload("tenant", "args: [write, /export/kept, data]", ""))
	r.running("tenant", "app")
	r.phase("tenant", "Running")
	must(t, e.Condition(v1alpha1.ConditionApproved))
	must(t, e.Condition(v1alpha1.ConditionOnline))
	r.until("its configuration is applied", func() error { return e.Condition(v1alpha1.ConditionConfigurationApplied) })

	must(t, s.Delete(t.Context(), e.ID()))
	r.gone("tenant")
	if raw, err := os.ReadFile(e.Path(filepath.Join(site.Export("tenant"), "kept"))); err != nil || string(raw) != "data\n" {
		t.Errorf("the workload's file is %q, %v; want it kept", raw, err)
	}
	if _, err := s.Device(e.ID()); err == nil {
		t.Error("the device is there again without a new approval")
	}
}

func TestKubeDeclinedDevice(t *testing.T) {
	t.Parallel()
	s := newKubeSite(t)
	e := newEdge(t, s, site.EdgeConfig{})
	r := &rig{T: t, ctx: t.Context(), site: s, edge: e}
	r.asks()
	must(t, s.Decline(t.Context(), e.ID()))
	r.until("the request is declined", func() error {
		out := shared.cluster
		text, err := out.Kube.Kubectl(r.ctx, "", "get", "edsr", e.ID(), "-o", `jsonpath={.status.conditions[?(@.status=="true")].type}`)
		if err == nil && text != v1alpha1.SignedRequestDeclined {
			err = fmt.Errorf("its state is %q", text)
		}
		return err
	})
	hold(t, 5*time.Second, func() error {
		if _, err := s.Device(e.ID()); err == nil {
			return fmt.Errorf("the declined device was let in")
		}
		return nil
	})
}

func TestKubeOnlyTheDeviceItselfIsAnswered(t *testing.T) {
	t.Parallel()
	onlyItselfIsAnswered(t, newKubeSite(t))
}

// With 100 ms each way and a tenth of the packets lost, everything works.
func TestKubeSlowAndLossyNetwork(t *testing.T) {
	t.Parallel()
	s := newKubeSite(t)
	s.APIPath.Delay(100 * time.Millisecond)
	s.S3Path.Delay(100 * time.Millisecond)
	e := newEdge(t, s, site.EdgeConfig{})
	must(t, e.LosePackets(t.Context(), 10))
	r := &rig{T: t, ctx: t.Context(), site: s, edge: e}
	must(t, e.Enrol(t.Context()))
	r.device("", "")
	r.save("w.yaml", r.workload("far", "args: [write, /export/out/now, hello]", "data: {egress: [{source: out, target: far}]}\n"))
	r.running("far", "app")
	r.phase("far", "Running")
	r.object("far/now", "hello\n")
}
