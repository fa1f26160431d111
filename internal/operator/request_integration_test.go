//go:build integration

package operator

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
)

// Defect 7.2.14: conditions of requests piled up.
func TestDefect7214RequestIsGrantedWhenApproved(t *testing.T) {
	r := newRig(t)
	id := r.id("dev")
	q := r.request(id)
	r.edit(q, func() { q.Spec.TargetSet = "halls" })
	r.state(id, v1alpha1.SignedRequestPending)
	for i := range 5 { // each of these is a reconcile
		r.edit(q, func() { metav1.SetMetaDataAnnotation(&q.ObjectMeta, "example.com/note", fmt.Sprint(i)) })
	}
	if err := r.admin.Get(r.Context(), r.key(id), &v1alpha1.EdgeDevice{}); !apierrors.IsNotFound(err) {
		t.Fatalf("a device without approval: %v", err)
	}
	r.edit(q, func() { q.Spec.Approved = true })
	r.state(id, v1alpha1.SignedRequestApproved)
	r.must(r.admin.Get(r.Context(), requestName(id), q))
	if len(q.Status.Conditions) != 2 {
		t.Errorf("conditions: %+v", q.Status.Conditions)
	}
	d := r.read(id)
	if !fleet.AwaitsRegistration(d) || d.Labels[v1alpha1.LabelMemberOf] != "halls" ||
		!controllerutil.ContainsFinalizer(d, v1alpha1.FinalizerEdgeDevice) || d.Spec.RequestTime == nil {
		t.Errorf("the device is %+v", d)
	}
	if list, err := r.kube.Kubectl(r.Context(), "", "get", "edsr", id); err != nil || !strings.Contains(list, "approved") {
		t.Errorf("kubectl get edsr: %v\n%s", err, list)
	}
}

// Defect 7.1.8: there was no way to decline.
func TestDefect718RequestIsDeclined(t *testing.T) {
	r := newRig(t)
	id := r.id("dev")
	q := r.request(id)
	r.edit(q, func() { metav1.SetMetaDataAnnotation(&q.ObjectMeta, v1alpha1.AnnotationDeclined, "true") })
	r.state(id, v1alpha1.SignedRequestDeclined)
	r.edit(q, func() { q.Spec.Approved = true })
	r.state(id, v1alpha1.SignedRequestDeclined)
	if err := r.admin.Get(r.Context(), r.key(id), &v1alpha1.EdgeDevice{}); !apierrors.IsNotFound(err) {
		t.Fatalf("the declined device: %v", err)
	}
	r.edit(q, func() { delete(q.Annotations, v1alpha1.AnnotationDeclined) })
	r.state(id, v1alpha1.SignedRequestApproved)
	r.read(id)
}

// Defect 7.1.5: a device chose any namespace.
func TestDefect715NamespacesAreAllowed(t *testing.T) {
	r := newRig(t)
	kept := &v1alpha1.EdgeDeviceSignedRequest{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.DefaultNamespace, Name: r.id("dev")},
		Spec:       v1alpha1.EdgeDeviceSignedRequestSpec{TargetNamespace: "kube-system", Approved: true},
	}
	r.create(kept)
	if text := r.state(kept.Name, v1alpha1.SignedRequestPending); !strings.Contains(text, `"kube-system"`) {
		t.Errorf("message %q", text)
	}
	// One that is allowed and does not exist: said, and looked at again.
	missing := &v1alpha1.EdgeDeviceSignedRequest{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.DefaultNamespace, Name: r.id("late")},
		Spec:       v1alpha1.EdgeDeviceSignedRequestSpec{TargetNamespace: testNamespace(maxNamespaces), Approved: true},
	}
	r.create(missing)
	if text := r.state(missing.Name, v1alpha1.SignedRequestPending); !strings.Contains(text, "not found") {
		t.Errorf("message %q", text)
	}
	r.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: testNamespace(maxNamespaces)}})
	r.state(missing.Name, v1alpha1.SignedRequestApproved)
	var list v1alpha1.EdgeDeviceList
	r.must(r.admin.List(r.Context(), &list, client.InNamespace("kube-system")))
	if len(list.Items) > 0 {
		t.Errorf("devices in kube-system: %v", list.Items)
	}
}

// Defects 7.1.8 and 7.2.12: a deleted device could come back at once, and foreign
// finalizers were overwritten.
func TestDefect7212DeletedDeviceNeedsANewApproval(t *testing.T) {
	r := newRig(t)
	id := r.id("dev")
	q := r.request(id)
	r.edit(q, func() { q.Spec.Approved = true })
	r.state(id, v1alpha1.SignedRequestApproved)
	d := r.read(id)
	r.edit(d, func() { controllerutil.AddFinalizer(d, "example.com/mine") })
	r.workload("w", byName(id))
	r.lists(id, "w")
	if d = r.read(id); !controllerutil.ContainsFinalizer(d, "example.com/mine") {
		t.Fatalf("finalizers are %v", d.Finalizers)
	}
	r.must(r.admin.Delete(r.Context(), d))
	r.gone(q)
	r.until("our finalizer is removed, and ours alone", func() error {
		if d := r.read(id); len(d.Finalizers) != 1 || d.Finalizers[0] != "example.com/mine" {
			return fmt.Errorf("finalizers are %v", d.Finalizers)
		}
		return nil
	})
	// It asks again while the old one is still there.
	q = r.request(id)
	r.edit(q, func() { q.Spec.Approved = true })
	r.edit(d, func() { controllerutil.RemoveFinalizer(d, "example.com/mine") })
	r.state(id, v1alpha1.SignedRequestApproved)
	if again := r.read(id); again.UID == d.UID || !fleet.AwaitsRegistration(again) {
		t.Errorf("the new device is %+v", again)
	}
}

// A device that was removed by force must be able to ask again.
func TestRequestOfAVanishedDeviceIsRemoved(t *testing.T) {
	r := newRig(t)
	id := r.id("dev")
	q := r.request(id)
	r.edit(q, func() { q.Spec.Approved = true })
	r.state(id, v1alpha1.SignedRequestApproved)
	// As if the operator had been away while somebody took the finalizer off.
	d := r.read(id)
	r.must(r.admin.Delete(r.Context(), d))
	r.gone(d)
	granted := r.request(id)
	r.state(id, v1alpha1.SignedRequestPending)
	r.must(r.admin.Get(r.Context(), requestName(id), granted))
	granted.Status.Conditions = fleet.WithRequestCondition(nil, v1alpha1.SignedRequestApproved, "", time.Now())
	r.must(r.admin.Status().Update(r.Context(), granted))
	// Looked at again, as at its start, the operator finds that there is no device.
	r.edit(granted, func() { metav1.SetMetaDataAnnotation(&granted.ObjectMeta, "example.com/note", "") })
	r.gone(granted)
}

// A device that an administrator applies is approved by that.
func TestAppliedDeviceMayRegister(t *testing.T) {
	r := newRig(t)
	id := r.id("dev")
	d := &v1alpha1.EdgeDevice{ObjectMeta: metav1.ObjectMeta{Namespace: r.ns, Name: id}}
	r.create(d)
	r.state(id, v1alpha1.SignedRequestApproved)
	r.until("it may register", func() error {
		if d = r.read(id); !fleet.AwaitsRegistration(d) {
			return fmt.Errorf("labels %v", d.Labels)
		}
		return nil
	})
	// Registered, it is not new again.
	r.edit(d, func() {
		delete(d.Labels, v1alpha1.LabelSignedRequest)
		metav1.SetMetaDataAnnotation(&d.ObjectMeta, v1alpha1.AnnotationRegisteredKeys, "00")
	})
	r.workload("w", byName(id))
	r.lists(id, "w")
	if d = r.read(id); fleet.AwaitsRegistration(d) {
		t.Error("a registered device may register anew")
	}
	// One of a name that belongs elsewhere is not let in.
	other := &v1alpha1.EdgeDevice{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: id}}
	r.create(other)
	r.until("a person is told", func() error {
		if text := r.events(id); !strings.Contains(text, "NamedElsewhere") {
			return fmt.Errorf("events:\n%s", text)
		}
		return nil
	})
	r.must(r.admin.Get(r.Context(), client.ObjectKeyFromObject(other), other))
	if fleet.AwaitsRegistration(other) {
		t.Error("it may register all the same")
	}
}

// A device that flotta v0.2 registered has no key on record, and stays as it is.
func TestDeviceOfFlottaV02IsTakenOver(t *testing.T) {
	r := newRig(t)
	id := r.id("old")
	w := r.workload("kept", byName(id))
	d := &v1alpha1.EdgeDevice{ObjectMeta: metav1.ObjectMeta{
		Namespace: r.ns, Name: id, Finalizers: []string{v1alpha1.FinalizerEdgeDevice},
		Labels: map[string]string{v1alpha1.LabelWorkloadPrefix + "kept": "true", v1alpha1.LabelWorkloadPrefix + "stale": "true"},
	}}
	r.create(d)
	uploaded := metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	r.report(id, func(d *v1alpha1.EdgeDevice) {
		d.Status.Workloads = []v1alpha1.WorkloadStatus{{Name: w.Name, Phase: "Running", LastDataUpload: &uploaded}, {Name: "stale"}}
		d.Status.Phase = "up"
	})
	r.lists(id, "kept")
	d = r.read(id)
	if fleet.AwaitsRegistration(d) || d.Status.Workloads[0].Phase != "Running" || !d.Status.Workloads[0].LastDataUpload.Equal(&uploaded) {
		t.Errorf("the device is %+v", d)
	}
}

func TestAutomaticApproval(t *testing.T) {
	t.Parallel()
	p, err := startPlane(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kube.Stop)
	begin(t, p, func(c *Config) { c.AutoApprove = true })
	r := newRigOn(t, p)
	id := r.id("dev")
	q := r.request(id)
	r.state(id, v1alpha1.SignedRequestApproved)
	r.must(r.admin.Get(r.Context(), requestName(id), q))
	if !q.Spec.Approved {
		t.Error("spec.approved is not set")
	}
	other := &v1alpha1.EdgeDeviceSignedRequest{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.DefaultNamespace, Name: r.id("bold")},
		Spec:       v1alpha1.EdgeDeviceSignedRequestSpec{TargetNamespace: "kube-system"},
	}
	r.create(other)
	r.state(other.Name, v1alpha1.SignedRequestPending)
}
