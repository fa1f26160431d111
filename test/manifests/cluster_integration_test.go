//go:build integration

package manifests_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/project-flotta/flotta-agent/test/testenv"
)

// cluster is the one API server of all tests here.
var cluster struct {
	kube *testenv.Kube
	root string
}

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "manifests:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if cluster.root, err = testenv.Root(); err != nil {
		return 1, err
	}
	dir, err := os.MkdirTemp("", "flotta-manifests-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if cluster.kube, err = testenv.StartKube(ctx, testenv.KubeConfig{Dir: dir}); err != nil {
		return 1, err
	}
	defer cluster.kube.Stop()
	if err := prepare(ctx); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// foreign are kinds that other projects install, without their schemas, and the
// namespace that OpenShift has.
var foreign = crd("route.openshift.io", "routes", "Route") + crd("gateway.networking.k8s.io", "gateways", "Gateway") +
	crd("gateway.networking.k8s.io", "tlsroutes", "TLSRoute") +
	"---\napiVersion: v1\nkind: Namespace\nmetadata: {name: openshift-ingress-operator}\n"

func crd(group, plural, kind string) string {
	return fmt.Sprintf(`---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: %[2]s.%[1]s
  annotations: {api-approved.kubernetes.io: "unapproved, for a test"}
spec:
  group: %[1]s
  names: {plural: %[2]s, kind: %[3]s, listKind: %[3]sList, singular: %[4]s}
  scope: Namespaced
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
`, group, plural, kind, strings.ToLower(kind))
}

func prepare(ctx context.Context) error {
	k := cluster.kube
	if err := k.Apply(ctx, foreign); err != nil {
		return err
	}
	// The definitions are installed as an administrator does it.
	for _, folder := range []string{"config/crd", "config/rbac"} {
		if _, err := k.Kubectl(ctx, "", "apply", "--validate=strict", "-k", filepath.Join(cluster.root, folder)); err != nil {
			return err
		}
	}
	_, err := k.Kubectl(ctx, "", "wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
	return err
}

// kubectl runs kubectl as the administrator. The test fails when it does.
func kubectl(t *testing.T, input string, args ...string) string {
	t.Helper()
	out, err := cluster.kube.Kubectl(t.Context(), input, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// strict are the arguments that have a manifest checked in full and not stored.
var strict = []string{"apply", "--validate=strict", "--dry-run=server", "-f", "-"}
