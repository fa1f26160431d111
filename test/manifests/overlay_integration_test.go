//go:build integration

package manifests_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

func overlays(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(cluster.root, "config/overlays"))
	if err != nil || len(entries) == 0 {
		t.Fatalf("there are no overlays: %v", err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// Everything is accepted without a warning: also not that a pod would break the
// rules that the namespace is under. Applied again it changes nothing.
//
//nolint:paralleltest // the overlays share names, so one comes after the other
func TestOverlays(t *testing.T) {
	for _, name := range overlays(t) {
		dir := filepath.Join(cluster.root, "config/overlays", name)
		out := kubectl(t, "", "apply", "--validate=strict", "-k", dir)
		if strings.Contains(out, "Warning") || strings.Contains(out, "warning") {
			t.Errorf("%s is applied with warnings:\n%s", name, out)
		}
		if out, err := cluster.kube.Kubectl(t.Context(), "", "diff", "-k", dir); err != nil {
			t.Errorf("%s would change when applied again: %s", name, out)
		}
		out = kubectl(t, "", "delete", "--ignore-not-found", "-k", filepath.Join(cluster.root, "config/operator"))
		if !strings.Contains(out, "flotta-controller-manager") {
			t.Errorf("%s: no operator was deleted:\n%s", name, out)
		}
		kubectl(t, "", "delete", "--ignore-not-found", "-k", filepath.Join(cluster.root, "config/edge-api"))
		kubectl(t, "", "delete", "--ignore-not-found", "-n", "flotta", "routes,gateways,tlsroutes,ingresses,services", "--all")
	}
}

// What runs is confined, and is started and probed where it listens.
func TestDeployments(t *testing.T) {
	t.Parallel()
	for _, name := range overlays(t) {
		found := deployments(t, name)
		if len(found) != 2 {
			t.Fatalf("%s: %d deployments, want 2", name, len(found))
		}
		for _, d := range found {
			confined(t, name, d)
			c := d.Spec.Template.Spec.Containers[0]
			var ports []string
			for _, p := range c.Ports {
				ports = append(ports, p.Name)
			}
			for _, probe := range []*corev1.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
				if probe == nil || probe.HTTPGet == nil || !slices.Contains(ports, probe.HTTPGet.Port.StrVal) {
					t.Errorf("%s/%s: probe %v asks no port of %v", name, d.Name, probe, ports)
				}
			}
			if c.Resources.Requests.Cpu().IsZero() || c.Resources.Limits.Memory().IsZero() {
				t.Errorf("%s/%s: resources %+v", name, d.Name, c.Resources)
			}
		}
	}
}

func confined(t *testing.T, overlay string, d appsv1.Deployment) {
	t.Helper()
	pod := d.Spec.Template.Spec
	if s := pod.SecurityContext; s == nil || s.RunAsNonRoot == nil || !*s.RunAsNonRoot || s.SeccompProfile == nil {
		t.Errorf("%s/%s: security context of the pod: %+v", overlay, d.Name, s)
	}
	if user := pod.SecurityContext.RunAsUser; (user != nil) != (overlay != "openshift") || user != nil && *user != 65532 {
		t.Errorf("%s/%s: runs as %v", overlay, d.Name, user)
	}
	for _, c := range pod.Containers {
		s := c.SecurityContext
		if s == nil || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem ||
			s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation ||
			s.Capabilities == nil || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) {
			t.Errorf("%s/%s: security context: %+v", overlay, d.Name, s)
		}
	}
	if len(pod.TopologySpreadConstraints) == 0 {
		t.Errorf("%s/%s: replicas may all be on one node", overlay, d.Name)
	}
}

func deployments(t *testing.T, overlay string) []appsv1.Deployment {
	t.Helper()
	text := kubectl(t, "", "kustomize", filepath.Join(cluster.root, "config/overlays", overlay))
	out := kubectl(t, text, "create", "--dry-run=client", "--validate=false", "-o", "json", "-f", "-")
	var found []appsv1.Deployment
	decoder := json.NewDecoder(strings.NewReader(out))
	for decoder.More() {
		var list struct {
			Kind  string
			Items []json.RawMessage
		}
		var raw json.RawMessage
		if err := decoder.Decode(&raw); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(raw, &list); err != nil {
			t.Fatal(err)
		}
		if list.Kind != "List" {
			list.Items = []json.RawMessage{raw}
		}
		for _, item := range list.Items {
			var d appsv1.Deployment
			if err := json.Unmarshal(item, &d); err == nil && d.Kind == "Deployment" {
				found = append(found, d)
			}
		}
	}
	return found
}
