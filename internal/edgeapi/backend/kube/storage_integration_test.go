//go:build integration

package kube

import (
	"context"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Storage of a claim has precedence. Its host is the Route where there is one.
func TestStorageByClaim(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.ForeignInterval = 200 * time.Millisecond })
	r.apply(`apiVersion: v1
kind: ConfigMap
metadata: {name: dev1, namespace: $NS}
data: {BUCKET_NAME: claimed, BUCKET_HOST: s3.openshift-storage.svc, BUCKET_PORT: "80", BUCKET_REGION: ""}
---
apiVersion: v1
kind: Secret
metadata: {name: dev1, namespace: $NS}
stringData: {AWS_ACCESS_KEY_ID: id, AWS_SECRET_ACCESS_KEY: secret}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: own, namespace: $NS}
data: {BUCKET_NAME: own, BUCKET_HOST: s3.example.com, BUCKET_PORT: "443", BUCKET_REGION: eu}
---
apiVersion: v1
kind: Secret
metadata: {name: own, namespace: $NS}
stringData: {AWS_ACCESS_KEY_ID: id, AWS_SECRET_ACCESS_KEY: secret}`)
	d := r.device("dev1", nil)
	r.patchMeta(d, `{"spec":{"storage":{"s3":{"secretName":"own","configMapName":"own"}}}}`)
	s3 := func(m protocol.DeviceConfigurationMessage) protocol.S3StorageConfiguration {
		if m.Configuration.Storage == nil || m.Configuration.Storage.S3 == nil {
			return protocol.S3StorageConfiguration{}
		}
		return *m.Configuration.Storage.S3
	}
	r.until(d, "own bucket", func(m protocol.DeviceConfigurationMessage) bool { return s3(m).BucketName == "own" })
	r.patchStatus(d, `{"status":{"dataObc":"dev1"}}`)
	m := r.until(d, "claimed bucket", func(m protocol.DeviceConfigurationMessage) bool { return s3(m).BucketName == "claimed" })
	if c := s3(m); c.BucketHost != "s3.openshift-storage.svc" || c.BucketPort != 80 || c.BucketRegion != "ignore" {
		t.Errorf("without a Route: %+v", c)
	}
	if c := condition(r.get(d), v1alpha1.ConditionDegraded); c.Status == metav1.ConditionTrue {
		t.Errorf("a cluster without Routes: %+v", c)
	}
	r.makeRoute()
	r.apply("apiVersion: v1\nkind: Secret\nmetadata: {name: router-ca, namespace: openshift-ingress-operator}\nstringData: {tls.crt: authority}")
	r.eventually("a Role is missing", func() bool {
		r.configuration(d)
		return strings.Contains(condition(r.get(d), v1alpha1.ConditionDegraded).Message, "needs a Role there")
	})
	r.apply(routeRoles)
	m = r.until(d, "Route", func(m protocol.DeviceConfigurationMessage) bool { return s3(m).BucketHost == "s3.apps.example.com" })
	if c := s3(m); c.BucketPort != 443 || c.BucketRegion != "ignore" || c.AWSCABundle != base64.StdEncoding.EncodeToString([]byte("authority")) {
		t.Errorf("with a Route: %+v", c)
	}
}

// makeRoute makes the cluster one that has Routes, with the one of the store.
func (r *rig) makeRoute() {
	r.t.Helper()
	r.apply(`apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: routes.route.openshift.io}
spec:
  group: route.openshift.io
  scope: Namespaced
  names: {plural: routes, kind: Route, listKind: RouteList, singular: route}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}`)
	r.t.Cleanup(func() {
		for _, kind := range []string{"crd/routes.route.openshift.io", "-n=openshift-storage role,rolebinding --all", "-n=openshift-ingress-operator secret,role,rolebinding --all"} {
			if _, err := cluster.kube.Kubectl(context.Background(), "", append([]string{"delete"}, strings.Fields(kind)...)...); err != nil {
				r.t.Error(err)
			}
		}
	})
	r.makeNamespace("openshift-storage")
	r.makeNamespace("openshift-ingress-operator")
	if _, err := cluster.kube.Kubectl(r.t.Context(), "", "wait", "--for=condition=Established", "--timeout=60s", "crd/routes.route.openshift.io"); err != nil {
		r.t.Fatal(err)
	}
	r.eventually("Route made", func() bool {
		_, err := cluster.kube.Kubectl(r.t.Context(), "apiVersion: route.openshift.io/v1\nkind: Route\nmetadata: {name: s3, namespace: openshift-storage}\nspec: {host: s3.apps.example.com}", "apply", "-f", "-")
		return err == nil
	})
}

// routeRoles is what the Edge API needs on OpenShift.
const routeRoles = `apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: flotta-edge-api, namespace: openshift-storage}
rules: [{apiGroups: [route.openshift.io], resources: [routes], resourceNames: [s3], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: flotta-edge-api, namespace: openshift-storage}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: flotta-edge-api}
subjects: [{kind: ServiceAccount, name: flotta-edge-api, namespace: flotta}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: flotta-edge-api, namespace: openshift-ingress-operator}
rules: [{apiGroups: [""], resources: [secrets], resourceNames: [router-ca], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: flotta-edge-api, namespace: openshift-ingress-operator}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: flotta-edge-api}
subjects: [{kind: ServiceAccount, name: flotta-edge-api, namespace: flotta}]`
