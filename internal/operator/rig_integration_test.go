//go:build integration

package operator

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/test/testenv"
)

// shared is a control plane with an operator that waits for an administrator's
// approval. It has exactly the rights that are shipped.
var shared struct {
	*plane
	n   atomic.Int64
	log testenv.Log // of all operators
}

const (
	maxNamespaces = 40
	// offlineAfter is short, to see both sides of it.
	offlineAfter = 4 * time.Second
	within       = 90 * time.Second
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "operator")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if shared.plane, err = startPlane(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer shared.kube.Stop()
	ctrllog.SetLogger(logr.FromSlogHandler(slog.NewTextHandler(&shared.log, nil)))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- shared.run(ctx, func(*Config) {}) }()
	code := m.Run()
	cancel()
	if err := <-done; err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if code != 0 {
		fmt.Fprintf(os.Stderr, "operators:\n%s", shared.log.Tail(200))
	}
	return code
}

// plane is an API server with our definitions and roles.
type plane struct {
	kube  *testenv.Kube
	admin client.Client
}

func startPlane(dir string) (*plane, error) {
	ctx := context.Background()
	root, err := testenv.Root()
	if err != nil {
		return nil, err
	}
	kube, err := testenv.StartKube(ctx, testenv.KubeConfig{Dir: dir})
	if err != nil {
		return nil, err
	}
	p := &plane{kube: kube}
	if err := p.fill(ctx, root); err != nil {
		kube.Stop()
		return nil, err
	}
	return p, nil
}

func (p *plane) fill(ctx context.Context, root string) error {
	if err := p.kube.InstallCRDs(ctx); err != nil {
		return err
	}
	if _, err := p.kube.Kubectl(ctx, "", "apply", "-k", filepath.Join(root, "config/rbac")); err != nil {
		return err
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return err
	}
	var err error
	p.admin, err = client.New(p.rest(p.kube.Token), client.Options{Scheme: scheme})
	return err
}

func (p *plane) rest(token string) *rest.Config {
	return &rest.Config{
		Host: p.kube.URL, BearerToken: token, QPS: 1000, Burst: 1000, TLSClientConfig: rest.TLSClientConfig{CAFile: p.kube.CAFile},
	}
}

func (p *plane) run(ctx context.Context, adjust func(*Config)) error {
	namespaces := []string{"default"}
	for i := range maxNamespaces {
		namespaces = append(namespaces, testNamespace(i+1))
	}
	cfg := Config{
		REST: p.rest(testenv.OperatorToken), Namespaces: namespaces, OfflineAfter: offlineAfter,
		Concurrency: 3, WorkloadConcurrency: 5, ConfigConcurrency: 5, MetricsAddr: "0", ProbeAddr: "0",
		ControlNamespace: "flotta", Logger: slog.New(slog.NewTextHandler(&shared.log, nil)),
	}
	adjust(&cfg)
	o, err := New(cfg)
	if err != nil {
		return err
	}
	return o.Run(ctx)
}

func testNamespace(n int) string { return fmt.Sprintf("test-%d", n) }

// rig is a namespace of a plane.
type rig struct {
	*testing.T
	*plane
	ns string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	t.Parallel()
	return newRigOn(t, shared.plane)
}

func newRigOn(t *testing.T, p *plane) *rig {
	t.Helper()
	r := &rig{T: t, plane: p, ns: testNamespace(int(shared.n.Add(1)))}
	r.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: r.ns}})
	return r
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *rig) create(o client.Object) {
	r.Helper()
	r.must(r.admin.Create(r.Context(), o))
}

// until waits for something to become true.
func (r *rig) until(what string, check func() error) {
	r.Helper()
	deadline := time.Now().Add(within)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			r.Fatalf("%s: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// id is a device's name that no other test uses.
func (r *rig) id(name string) string { return name + "-" + r.ns }

func (r *rig) request(id string) *v1alpha1.EdgeDeviceSignedRequest {
	r.Helper()
	q := &v1alpha1.EdgeDeviceSignedRequest{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.DefaultNamespace, Name: id},
		Spec:       v1alpha1.EdgeDeviceSignedRequestSpec{TargetNamespace: r.ns},
	}
	r.create(q)
	return q
}

// state waits until a request says that, and returns its message.
func (r *rig) state(id, kind string) string {
	r.Helper()
	var message string
	r.until("request "+id+" is "+kind, func() error {
		var q v1alpha1.EdgeDeviceSignedRequest
		if err := r.admin.Get(r.Context(), requestName(id), &q); err != nil {
			return err
		}
		i := slices.IndexFunc(q.Status.Conditions, func(c v1alpha1.EdgeDeviceSignedRequestCondition) bool { return c.Status == "true" })
		if i < 0 || q.Status.Conditions[i].Type != kind {
			return fmt.Errorf("conditions are %+v", q.Status.Conditions)
		}
		message = q.Status.Conditions[i].Message
		return nil
	})
	return message
}

// device makes a device as if it had registered, and waits until it is taken in.
func (r *rig) device(id string, labels map[string]string, adjust ...func(*v1alpha1.EdgeDevice)) *v1alpha1.EdgeDevice {
	r.Helper()
	d := &v1alpha1.EdgeDevice{ObjectMeta: metav1.ObjectMeta{
		Namespace: r.ns, Name: id, Labels: labels, Annotations: map[string]string{v1alpha1.AnnotationRegisteredKeys: "00"},
	}}
	for _, a := range adjust {
		a(d)
	}
	r.create(d)
	r.until("device "+id+" is kept", func() error {
		if d = r.read(id); fleet.Condition(d, v1alpha1.ConditionApproved) == nil {
			return fmt.Errorf("conditions are %+v", d.Status.Conditions)
		}
		return nil
	})
	return d
}

func (r *rig) key(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: r.ns, Name: name}
}

func (r *rig) read(id string) *v1alpha1.EdgeDevice {
	r.Helper()
	var d v1alpha1.EdgeDevice
	r.must(r.admin.Get(r.Context(), r.key(id), &d))
	return &d
}

// edit changes an object as an administrator does.
func (r *rig) edit(o client.Object, change func()) {
	r.Helper()
	for {
		r.must(r.admin.Get(r.Context(), client.ObjectKeyFromObject(o), o))
		change()
		err := r.admin.Update(r.Context(), o)
		if apierrors.IsConflict(err) {
			continue
		}
		r.must(err)
		return
	}
}

// report changes the status of a device as the Edge API does: by an update that
// fails when the device changed meanwhile, and is computed anew then.
func (r *rig) report(id string, change func(*v1alpha1.EdgeDevice)) {
	r.Helper()
	for {
		d := r.read(id)
		change(d)
		err := r.admin.Status().Update(r.Context(), d)
		if apierrors.IsConflict(err) {
			continue
		}
		r.must(err)
		return
	}
}

func (r *rig) workload(name string, adjust func(*v1alpha1.EdgeWorkloadSpec)) *v1alpha1.EdgeWorkload {
	r.Helper()
	w := &v1alpha1.EdgeWorkload{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.ns, Name: name},
		Spec: v1alpha1.EdgeWorkloadSpec{
			Type: v1alpha1.WorkloadTypePod,
			Pod:  &v1alpha1.Pod{Spec: v1alpha1.PodSpec{Raw: []byte(`{"containers":[{"name":"app","image":"example.com/app"}]}`)}},
		},
	}
	adjust(&w.Spec)
	r.create(w)
	return w
}

func byName(device string) func(*v1alpha1.EdgeWorkloadSpec) {
	return func(s *v1alpha1.EdgeWorkloadSpec) { s.Device = device }
}

func byLabels(labels map[string]string) func(*v1alpha1.EdgeWorkloadSpec) {
	return func(s *v1alpha1.EdgeWorkloadSpec) { s.DeviceSelector = &metav1.LabelSelector{MatchLabels: labels} }
}

// lists waits until a device lists exactly these workloads, in status and labels.
func (r *rig) lists(id string, want ...string) {
	r.Helper()
	r.until("device "+id+" lists "+strings.Join(want, ","), func() error {
		d := r.read(id)
		var status, labels []string
		for _, s := range d.Status.Workloads {
			status = append(status, s.Name)
		}
		for key := range withPrefix(d.Labels, v1alpha1.LabelWorkloadPrefix) {
			labels = append(labels, strings.TrimPrefix(key, v1alpha1.LabelWorkloadPrefix))
		}
		slices.Sort(labels)
		if !slices.Equal(status, want) || !slices.Equal(labels, want) {
			return fmt.Errorf("status lists %v, labels %v", status, labels)
		}
		return nil
	})
}

// gone waits until an object does not exist any more.
func (r *rig) gone(o client.Object) {
	r.Helper()
	r.until(fmt.Sprintf("%T %s is gone", o, o.GetName()), func() error {
		err := r.admin.Get(r.Context(), client.ObjectKeyFromObject(o), o)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("it is there, with finalizers %v", o.GetFinalizers())
		}
		return err
	})
}

func (r *rig) events(name string) string {
	r.Helper()
	var list corev1.EventList
	r.must(r.admin.List(r.Context(), &list))
	var text strings.Builder
	for _, e := range list.Items {
		if e.InvolvedObject.Name == name {
			fmt.Fprintf(&text, "%s %s: %s\n", e.Type, e.Reason, e.Message)
		}
	}
	return text.String()
}
