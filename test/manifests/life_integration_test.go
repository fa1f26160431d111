//go:build integration

package manifests_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/project-flotta/flotta-agent/test/testenv"
)

// The part of the kind test that needs no nodes: the control plane with nothing
// but the roles that are shipped, and a device made of curl.
func TestDeviceOfKind(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	dir := t.TempDir()
	build := exec.CommandContext(ctx, "go", "build", "-o", dir, "./cmd/flotta-operator", "./cmd/flotta-edge-api")
	build.Dir = cluster.root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	k, err := testenv.StartKube(ctx, testenv.KubeConfig{Dir: t.TempDir(), Controllers: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Stop)
	for _, folder := range []string{"crd", "rbac"} {
		if out, err := k.Kubectl(ctx, "", "apply", "-k", filepath.Join(cluster.root, "config", folder)); err != nil {
			t.Fatal(out, err)
		}
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(read(t, log.Name()))
		}
		_ = log.Close()
	})
	kubeconfig := func(name, token string) string {
		path := filepath.Join(dir, name)
		if err := k.WriteKubeconfig(path, token); err != nil {
			t.Fatal(err)
		}
		return path
	}
	operator, err := testenv.StartOperator(ctx, testenv.OperatorConfig{
		Binary: filepath.Join(dir, "flotta-operator"), Kubeconfig: kubeconfig("operator.kubeconfig", testenv.OperatorToken), Log: log,
		Env: shipped(t, k, "operator", "flotta-manager-config"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(operator.Stop)
	api, err := testenv.StartEdgeAPI(ctx, testenv.EdgeAPIConfig{
		Binary: filepath.Join(dir, "flotta-edge-api"), Dir: t.TempDir(), Log: log,
		Env: append(shipped(t, k, "edge-api", "flotta-edge-api-config"), "KUBECONFIG="+kubeconfig("edge-api.kubeconfig", testenv.EdgeAPIToken)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(api.Stop)
	script := exec.CommandContext(ctx, filepath.Join(cluster.root, "test/kind/device.sh"), "127.0.0.1", strconv.Itoa(api.Port))
	script.Env = append(os.Environ(), "KUBECONFIG="+k.Kubeconfig, "PATH="+filepath.Dir(testenv.Tool(t, "kubectl"))+":"+os.Getenv("PATH"))
	if out, err := script.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// shipped are the settings that a program is shipped with, but for the ports,
// which other tests may have taken.
func shipped(t *testing.T, k *testenv.Kube, folder, name string) []string {
	t.Helper()
	file := filepath.Join(cluster.root, "config", folder, "settings.yaml")
	if out, err := k.Kubectl(t.Context(), "", "apply", "-f", file); err != nil {
		t.Fatal(out, err)
	}
	out, err := k.Kubectl(t.Context(), "", "-n", "flotta", "get", "configmap", name,
		"-o", `go-template={{range $key, $value := .data}}{{$key}}={{$value}}{{"\n"}}{{end}}`)
	if err != nil {
		t.Fatal(out, err)
	}
	return slices.DeleteFunc(strings.Split(strings.TrimSpace(out), "\n"), func(setting string) bool {
		key, _, _ := strings.Cut(setting, "=")
		return key == "METRICS_ADDR" || key == "PROBE_ADDR" || key == "HTTPS_PORT"
	})
}
