//go:build integration

package manifests_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/project-flotta/flotta-agent/test/testenv"
)

// looser is a definition of flotta v0.2 as far as it matters: it checks less, and
// names a webhook.
const looser = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: edgedevices.management.project-flotta.io}
spec:
  group: management.project-flotta.io
  names: {plural: edgedevices, kind: EdgeDevice, listKind: EdgeDeviceList, singular: edgedevice}
  scope: Namespaced
  conversion:
    strategy: Webhook
    webhook:
      conversionReviewVersions: [v1]
      clientConfig: {service: {name: flotta-webhook-service, namespace: flotta, path: /convert}}
  versions:
  - name: v1alpha1
    served: true
    storage: true
    subresources: {status: {}}
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`

// The definitions of flotta v0.2 are replaced, its webhook goes, and objects that
// it took and the new definitions refuse can still be used, mended and removed.
func TestUpgradeFromV02(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	k, err := testenv.StartKube(ctx, testenv.KubeConfig{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Stop()
	run := func(input string, args ...string) string {
		t.Helper()
		out, err := k.Kubectl(ctx, input, args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	const crd = "crd/edgedevices.management.project-flotta.io"
	run(looser, "apply", "-f", "-")
	run("", "wait", "--for=condition=Established", "--timeout=60s", crd)
	old := strings.Replace(device("{storage: {s3: {createOBC: true, secretName: a}}, mounts: [{folder: b}]}"), "namespace: default", "finalizers: [device-finalizer]", 1)
	run(old, "apply", "-f", "-")
	run("", "apply", "--validate=strict", "-k", filepath.Join(cluster.root, "config/crd"))
	run("", "wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
	if got := run("", "get", crd, "-o", "jsonpath={.spec.conversion}"); got != `{"strategy":"None"}` {
		t.Errorf("conversion is %s", got)
	}
	// The new schema takes a moment to come into force.
	refused := false
	for range 100 {
		out, err := k.Kubectl(ctx, strings.ReplaceAll(old, "name: d", "name: e"), strict...)
		if refused = err != nil && strings.Contains(out, "give one or the other"); refused {
			break
		}
	}
	if !refused {
		t.Fatal("the new schema does not come into force")
	}
	run("", "label", "edgedevice", "d", "line=4")
	run("", "patch", "edgedevice", "d", "--subresource=status", "--type=merge", "-p", `{"status":{"phase":"up"}}`)
	run("", "patch", "edgedevice", "d", "--type=merge", "-p", `{"spec":{"heartbeat":{"periodSeconds":7}}}`)
	run("", "patch", "edgedevice", "d", "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
	run("", "delete", "edgedevice", "d")
}
