//go:build integration

package testenv_test

import (
	"strings"
	"testing"

	"github.com/project-flotta/flotta-agent/test/testenv"
)

// The control plane starts, serves our kinds, survives its API server, and
// refuses who has no role.
func TestKube(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	k, err := testenv.StartKube(ctx, testenv.KubeConfig{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Stop()
	if err := k.InstallCRDs(ctx); err != nil {
		t.Fatal(err)
	}
	if out, err := k.Kubectl(ctx, "", "get", "edgedevices,edgedevicesets,edsr,edgeworkloads,edgeconfigs,playbookexecutions", "-A"); err != nil {
		t.Fatal(out, err)
	}
	path := t.TempDir() + "/kubeconfig"
	if err := k.WriteKubeconfig(path, testenv.EdgeAPIToken); err != nil {
		t.Fatal(err)
	}
	out, err := k.Kubectl(ctx, "", "--kubeconfig", path, "get", "secrets")
	if err == nil || !strings.Contains(out, "forbidden") || !strings.Contains(out, testenv.EdgeAPIUser) {
		t.Errorf("a user without a role reads secrets: %s", out)
	}
	k.KillServer()
	if err := k.StartServer(); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Kubectl(ctx, "", "get", "edgedevices"); err != nil {
		t.Error(err)
	}
}
