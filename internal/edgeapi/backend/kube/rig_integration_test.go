//go:build integration

package kube

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
	"github.com/project-flotta/flotta-agent/test/testenv"
)

// shared is the one control plane of all tests here; each has its own namespace.
var cluster struct {
	kube *testenv.Kube
	n    atomic.Int64
	log  testenv.Log // of all backends
}

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	dir, err := os.MkdirTemp("", "kube")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if cluster.kube, err = testenv.StartKube(ctx, testenv.KubeConfig{Dir: dir}); err == nil {
		defer cluster.kube.Stop()
		err = errors.Join(cluster.kube.InstallCRDs(ctx), installRoles(ctx))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if code != 0 {
		fmt.Fprintf(os.Stderr, "backends:\n%s", cluster.log.Tail(200))
	}
	// Connections to the API server, which all that speak with it share, end
	// with it.
	cluster.kube.Stop()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// installRoles gives the service account of the Edge API the rights that it is
// deployed with, and no others.
func installRoles(ctx context.Context) error {
	root, err := testenv.Root()
	if err != nil {
		return err
	}
	_, err = cluster.kube.Kubectl(ctx, "", "apply", "-k", filepath.Join(root, "config", "rbac"))
	return err
}

// edgeAPI is how the Edge API speaks with the API server.
func edgeAPI() *rest.Config { return restConfig(testenv.EdgeAPIToken) }

func restConfig(token string) *rest.Config {
	return &rest.Config{
		Host: cluster.kube.URL, BearerToken: token, TLSClientConfig: rest.TLSClientConfig{CAFile: cluster.kube.CAFile},
	}
}

// rig is a namespace, what an administrator can do in it, and backends.
type rig struct {
	t         testing.TB
	namespace string
	admin     *client
	backend   *Backend
	registry  *prometheus.Registry
	log       *slog.Logger
}

func newRig(t testing.TB, adjust ...func(*Config)) *rig {
	t.Helper()
	r := bareRig(t)
	r.backend = r.run(adjust...)
	return r
}

func bareRig(t testing.TB) *rig {
	t.Helper()
	admin, err := newClient(restConfig(cluster.kube.Token))
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{
		t: t, admin: admin, namespace: fmt.Sprintf("test-%d", cluster.n.Add(1)), registry: prometheus.NewRegistry(),
		log: slog.New(slog.NewTextHandler(&cluster.log, nil)),
	}
	r.makeNamespace(r.namespace)
	r.apply(deviceRoles)
	return r
}

// deviceRoles is what a namespace with devices needs.
const deviceRoles = `apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: flotta-edge-api-device-objects, namespace: $NS}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: flotta-edge-api-device-objects}
subjects: [{kind: ServiceAccount, name: flotta-edge-api, namespace: flotta}]`

func (r *rig) makeNamespace(name string) {
	r.t.Helper()
	_, err := r.admin.core.Namespaces().Create(r.t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		r.t.Fatal(err)
	}
}

// run starts a backend and waits until it is ready. It ends with the test.
func (r *rig) run(adjust ...func(*Config)) *Backend {
	r.t.Helper()
	b := r.start(adjust...)
	r.eventually("ready", func() bool { return b.Ready(r.t.Context()) == nil })
	return b
}

// start starts a backend. It ends with the test.
func (r *rig) start(adjust ...func(*Config)) *Backend {
	r.t.Helper()
	cfg := Config{REST: edgeAPI(), Logger: r.log, Registerer: prometheus.NewRegistry()}
	for _, a := range adjust {
		a(&cfg)
	}
	b, err := New(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	r.t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				r.t.Error(err)
			}
		case <-time.After(20 * time.Second):
			r.t.Error("the backend does not end")
		}
	})
	return b
}

// through is how the Edge API speaks with the API server, with a function in
// between.
func through(between func(next http.RoundTripper, q *http.Request) (*http.Response, error)) func(*Config) {
	return func(c *Config) {
		c.REST = edgeAPI()
		c.REST.Wrap(func(next http.RoundTripper) http.RoundTripper {
			return tripper(func(q *http.Request) (*http.Response, error) { return between(next, q) })
		})
	}
}

type tripper func(*http.Request) (*http.Response, error)

func (f tripper) RoundTrip(q *http.Request) (*http.Response, error) { return f(q) }

func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("not within 30 s: %s", what)
		}
	}
}

func (r *rig) name(id string) edgeapi.Device { return edgeapi.Device{Namespace: r.namespace, ID: id} }

// plural names of what apply can make.
var plurals = map[string]string{
	"EdgeDevice": "edgedevices", "EdgeDeviceSet": "edgedevicesets", "EdgeWorkload": "edgeworkloads",
	"EdgeDeviceSignedRequest": "edgedevicesignedrequest", "PlaybookExecution": "playbookexecutions",
	"Secret": "secrets", "ConfigMap": "configmaps", "Role": "roles", "RoleBinding": "rolebindings",
	"ClusterRole": "clusterroles", "ClusterRoleBinding": "clusterrolebindings", "Route": "routes",
	"CustomResourceDefinition": "customresourcedefinitions",
}

func (r *rig) path(apiVersion, kind, namespace, name string) string {
	path := "/apis/" + apiVersion
	if !strings.Contains(apiVersion, "/") {
		path = "/api/" + apiVersion
	}
	if namespace != "" {
		path += "/namespaces/" + namespace
	}
	return path + "/" + plurals[kind] + "/" + name
}

// apply makes or changes objects, as kubectl apply --server-side.
func (r *rig) apply(manifests string) {
	r.t.Helper()
	for document := range strings.SplitSeq(manifests, "\n---\n") {
		var meta struct {
			metav1.TypeMeta `json:",inline"`
			Metadata        metav1.ObjectMeta `json:"metadata"`
		}
		document = strings.ReplaceAll(document, "$NS", r.namespace)
		if err := yaml.Unmarshal([]byte(document), &meta); err != nil {
			r.t.Fatal(err)
		}
		err := r.admin.flotta.Patch(types.ApplyYAMLPatchType).AbsPath(r.path(meta.APIVersion, meta.Kind, meta.Metadata.Namespace, meta.Metadata.Name)).
			Param("fieldManager", "test").Param("force", "true").Body([]byte(document)).Do(r.t.Context()).Error()
		if err != nil {
			r.t.Fatalf("%v in:\n%s", err, document)
		}
	}
}

func (r *rig) remove(apiVersion, kind, name string) {
	r.t.Helper()
	if err := r.admin.flotta.Delete().AbsPath(r.path(apiVersion, kind, r.namespace, name)).Do(r.t.Context()).Error(); err != nil {
		r.t.Fatal(err)
	}
}

// device makes a device that has registered with key, and waits until the
// backends know it.
func (r *rig) device(id string, labels map[string]string, backends ...*Backend) edgeapi.Device {
	r.t.Helper()
	d := fleet.NewDevice(r.namespace, id, "", time.Now())
	maps.Copy(d.Labels, labels)
	delete(d.Labels, v1alpha1.LabelSignedRequest)
	d.Annotations = map[string]string{v1alpha1.AnnotationRegisteredKeys: key1}
	d.Status = v1alpha1.EdgeDeviceStatus{}
	r.create(d)
	for _, b := range append(backends, r.backend) {
		if b != nil {
			r.eventually("device known", func() bool { return b.devices.find(r.name(id)) != nil })
		}
	}
	return r.name(id)
}

func (r *rig) create(d *v1alpha1.EdgeDevice) {
	r.t.Helper()
	if err := r.admin.flotta.Post().Namespace(d.Namespace).Resource(edgeDevices).Body(d).Do(r.t.Context()).Error(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) get(d edgeapi.Device) *v1alpha1.EdgeDevice {
	r.t.Helper()
	object, err := r.admin.device(r.t.Context(), d.Namespace, d.ID)
	if err != nil {
		r.t.Fatal(err)
	}
	return object
}

// patchStatus is what another writer does, such as the operator.
func (r *rig) patchStatus(d edgeapi.Device, patch string) {
	r.t.Helper()
	err := r.admin.flotta.Patch(types.MergePatchType).Namespace(d.Namespace).Resource(edgeDevices).Name(d.ID).SubResource("status").
		Body([]byte(patch)).Do(r.t.Context()).Error()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) patchMeta(d edgeapi.Device, patch string) {
	r.t.Helper()
	err := r.admin.flotta.Patch(types.MergePatchType).Namespace(d.Namespace).Resource(edgeDevices).Name(d.ID).
		Body([]byte(patch)).Do(r.t.Context()).Error()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) configuration(d edgeapi.Device) (edgeapi.Rendered, protocol.DeviceConfigurationMessage) {
	r.t.Helper()
	c, err := r.backend.Configuration(r.t.Context(), d)
	if err != nil {
		r.t.Fatal(err)
	}
	var m protocol.DeviceConfigurationMessage
	if err := json.Unmarshal(c.JSON, &m); err != nil {
		r.t.Fatal(err)
	}
	return c, m
}

// until renders until ok.
func (r *rig) until(d edgeapi.Device, what string, ok func(protocol.DeviceConfigurationMessage) bool) protocol.DeviceConfigurationMessage {
	r.t.Helper()
	var m protocol.DeviceConfigurationMessage
	r.eventually(what, func() bool {
		_, m = r.configuration(d)
		return ok(m)
	})
	return m
}

func (r *rig) heartbeat(d edgeapi.Device, h protocol.Heartbeat) {
	r.t.Helper()
	if err := r.backend.Heartbeat(r.t.Context(), d, h); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) events(d edgeapi.Device) []corev1.Event {
	r.t.Helper()
	list, err := r.admin.core.Events(d.Namespace).List(r.t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + d.ID})
	if err != nil {
		r.t.Fatal(err)
	}
	return list.Items
}

func condition(d *v1alpha1.EdgeDevice, kind string) metav1.Condition {
	for _, c := range d.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return metav1.Condition{}
}

func workloadNames(m protocol.DeviceConfigurationMessage) string {
	var names []string
	for _, w := range m.Workloads {
		names = append(names, w.Name)
	}
	return strings.Join(names, " ")
}

const (
	key1 = "1111111111111111111111111111111111111111111111111111111111111111"
	key2 = "2222222222222222222222222222222222222222222222222222222222222222"
	key3 = "3333333333333333333333333333333333333333333333333333333333333333"
)
