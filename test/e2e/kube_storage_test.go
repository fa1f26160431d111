//go:build device

package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/project-flotta/flotta-agent/test/site"
	"github.com/project-flotta/flotta-agent/test/testenv"
)

// A bucket that is asked for is claimed, waited for, used, and given back with
// the device. The test plays the provisioner of buckets.
func TestKubeBucketClaim(t *testing.T) {
	t.Parallel()
	cluster := kubeCluster(t)
	root, err := testenv.Root()
	must(t, err)
	_, err = cluster.Kube.Kubectl(t.Context(), "", "apply", "-f", filepath.Join(root, "internal/operator/testdata/objectbucketclaim.yaml"))
	must(t, err)
	_, err = cluster.Kube.Kubectl(t.Context(), "", "wait", "--for=condition=Established", "--timeout=60s", "crd/objectbucketclaims.objectbucket.io")
	must(t, err)

	r := newKubeRig(t, site.EdgeConfig{})
	r.save("device.yaml", fmt.Sprintf(`apiVersion: management.project-flotta.io/v1alpha1
kind: EdgeDevice
metadata: {name: %q}
spec:
  heartbeat: {periodSeconds: 2}
  storage: {s3: {createOBC: true}}
`, r.edge.ID()))
	r.says(r.edge.ID(), "get", "objectbucketclaim", r.edge.ID(), "-o", "jsonpath={.spec.generateBucketName}")
	r.save("w.yaml", r.workload("courier", "args: [serve, '8080']\nports: [{containerPort: 8080, hostPort: 18080}]", syncPaths))
	r.running("courier", "app")
	if got := r.kubectl("get", "edgedevice", r.edge.ID(), "-o", "jsonpath={.status.dataObc}"); got != "" {
		t.Errorf("the claim %q is used before it is bound", got)
	}

	// What the provisioner leaves: a ConfigMap and a Secret named like the claim.
	for _, kind := range []string{"configmap", "secret"} {
		text := r.kubectl("get", kind, "storage", "-o", "yaml")
		r.save("claim-"+kind+".yaml", strings.ReplaceAll(text, "name: storage", "name: "+r.edge.ID()))
	}
	r.kubectl("patch", "objectbucketclaim", r.edge.ID(), "--subresource=status", "--type=merge", "-p", `{"status":{"phase":"Bound"}}`)
	r.says(r.edge.ID(), "get", "edgedevice", r.edge.ID(), "-o", "jsonpath={.status.dataObc}")
	r.sub("egress", syncEgress)
	r.sub("ingress", syncIngress)

	must(t, r.site.Delete(t.Context(), r.edge.ID()))
	r.gone("courier")
	r.until("the claim is removed with the device", func() error {
		if out := r.kubectl("get", "objectbucketclaims", "-o", "name"); out != "" {
			return fmt.Errorf("still there: %s", out)
		}
		return nil
	})
}
