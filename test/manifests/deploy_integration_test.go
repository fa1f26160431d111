//go:build integration

package manifests_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/project-flotta/flotta-agent/test/testenv"
)

// site is an API server that the control plane is installed into.
type site struct {
	*testing.T
	kube *testenv.Kube
}

func (s site) kubectl(input string, args ...string) string {
	s.Helper()
	out, err := s.kube.Kubectl(s.Context(), input, args...)
	if err != nil {
		s.Fatal(err)
	}
	return out
}

// deploy runs the script with settings in its environment.
func (s site) deploy(env string, args ...string) (string, error) {
	cmd := exec.CommandContext(s.Context(), filepath.Join(cluster.root, "config/deploy.sh"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+s.kube.Kubeconfig, "HOME="+s.kube.Dir,
		"PATH="+filepath.Dir(testenv.Tool(s.T, "kubectl"))+":"+os.Getenv("PATH"))
	cmd.Env = append(cmd.Env, strings.Fields(env)...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// roll says that deployments are ready, until ctx ends: nothing here runs pods.
func (s site) roll(ctx context.Context) {
	for ctx.Err() == nil {
		for _, name := range []string{"flotta-controller-manager", "flotta-edge-api"} {
			generation, err := s.kube.Kubectl(ctx, "", "-n", "flotta", "get", "deployment", name, "-o", "jsonpath={.metadata.generation}")
			if err == nil {
				_, _ = s.kube.Kubectl(ctx, "", "-n", "flotta", "patch", "deployment", name, "--subresource=status", "--type=merge", "-p",
					`{"status":{"observedGeneration":`+generation+`,"replicas":2,"updatedReplicas":2,"readyReplicas":2,"availableReplicas":2}}`)
			}
		}
	}
}

// The control plane is installed with the settings that were given, upgraded,
// removed without the fleet, and removed with it.
func TestDeploy(t *testing.T) {
	t.Parallel()
	k, err := testenv.StartKube(t.Context(), testenv.KubeConfig{Dir: t.TempDir(), Controllers: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Stop)
	s := site{T: t, kube: k}
	s.kubectl("", "create", "namespace", "factory")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.roll(ctx) }()
	defer func() { cancel(); <-done }()

	s.install()
	s.kubectl(strings.Replace(device("{}"), "namespace: default", "namespace: factory, finalizers: [device-finalizer]", 1), "apply", "-f", "-")
	s.kubectl("", "create", "secret", "generic", "flotta-ca", "-n", "flotta")
	if out, err := s.deploy("NAMESPACES=default,factory", "delete"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	left := s.kubectl("", "get", "deployments,services,configmaps,clusterroles,rolebindings,serviceaccounts,ingresses,secrets", "-A", "-o", "name")
	for line := range strings.Lines(left) {
		if strings.Contains(line, "flotta") && strings.TrimSpace(line) != "secret/flotta-ca" {
			t.Errorf("left behind: %s", line)
		}
	}
	if !strings.Contains(left, "secret/flotta-ca") {
		t.Errorf("the keys went too:\n%s", left)
	}
	s.kubectl("", "-n", "factory", "get", "edgedevice", "d")
	// Without the operator a purge says what it waits for.
	if out, err := s.deploy("TIMEOUT=2s", "purge"); err == nil || !strings.Contains(out, "does the operator run") {
		t.Errorf("purge of what nobody lets go: %v: %s", err, out)
	}
	if out, err := s.deploy("FORCE=1 TIMEOUT=2m", "purge"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out := s.kubectl("", "get", "crd,namespaces", "-o", "name"); strings.Contains(out, "flotta") {
		t.Errorf("left behind: %s", out)
	}
}

func (s site) install() {
	s.Helper()
	out, err := s.deploy("DOMAIN=edge.example.com NAMESPACES=default,factory IMG_TAG=1.2.3 IMG_REPO=registry.example.com:5000/edge TIMEOUT=2m", "apply")
	if err != nil {
		s.Fatalf("%v: %s", err, out)
	}
	sums := make([]string, 0, 2)
	sum := func() {
		sums = append(sums, s.kubectl("", "-n", "flotta", "get", "deployment", "flotta-edge-api", "-o", "jsonpath={.spec.template.metadata.annotations}"))
	}
	sum()
	for _, want := range []struct{ args, value string }{
		{"deployment/flotta-edge-api -o jsonpath={.spec.template.spec.containers[0].image}", "registry.example.com:5000/edge/flotta-edge-api:1.2.3"},
		{"deployment/flotta-controller-manager -o jsonpath={.spec.template.spec.containers[0].image}", "registry.example.com:5000/edge/flotta-operator:1.2.3"},
		{"configmap/flotta-edge-api-config -o jsonpath={.data.DOMAIN}/{.data.ALLOWED_NAMESPACES}", "edge.example.com/default,factory"},
		{"configmap/flotta-manager-config -o jsonpath={.data.ALLOWED_NAMESPACES}", "default,factory"},
		{"ingress/flotta-edge-api -o jsonpath={.spec.rules[0].host}", "edge.example.com"},
		{"rolebinding/flotta-edge-api-device-objects -n factory -o jsonpath={.subjects[0].name}", "flotta-edge-api"},
	} {
		if got := s.kubectl("", append([]string{"-n", "flotta", "get"}, strings.Fields(want.args)...)...); got != want.value {
			s.Errorf("%s is %q, want %q", want.args, got, want.value)
		}
	}
	if out, err := s.deploy("DOMAIN=other.example.com NAMESPACES=default,factory", "apply"); err != nil {
		s.Fatalf("%v: %s", err, out)
	}
	if sum(); sums[0] == sums[1] {
		s.Errorf("a change of settings does not reach the pods: %v", sums)
	}
}

// What cannot be right is refused before anything is changed.
func TestDeployRefuses(t *testing.T) {
	t.Parallel()
	s := site{T: t, kube: cluster.kube}
	for _, test := range []struct {
		env  string
		args []string
		want string
	}{
		{"", nil, "deploy.sh apply"},
		{"", []string{"install"}, "deploy.sh apply"},
		{"", []string{"apply", "nowhere"}, "no overlay nowhere"},
		{`IMG_TAG=1"`, []string{"print"}, "IMG_TAG"},
		{"DOMAIN=a;b", []string{"apply"}, "DOMAIN"},
	} {
		out, err := s.deploy(test.env, test.args...)
		if _, ok := errors.AsType[*exec.ExitError](err); !ok || !strings.Contains(out, test.want) {
			t.Errorf("%q %v: %v: %s", test.env, test.args, err, out)
		}
	}
}
