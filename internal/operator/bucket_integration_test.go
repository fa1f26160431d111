//go:build integration

package operator

import (
	"context"
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
)

// bucket waits until a device's condition BucketReady has that reason.
func (r *rig) bucket(id, reason, claim string) {
	r.Helper()
	r.until("bucket of "+id+" is "+reason, func() error {
		d := r.read(id)
		c := fleet.Condition(d, v1alpha1.ConditionBucketReady)
		if c == nil || c.Reason != reason || d.Status.DataOBC != claim {
			return fmt.Errorf("condition %+v, claim %q", c, d.Status.DataOBC)
		}
		return nil
	})
}

func (r *rig) claim(name string) *unstructured.Unstructured {
	r.Helper()
	u := newClaim()
	r.must(r.admin.Get(r.Context(), r.key(name), u))
	return u
}

// bind is what a provisioner of buckets does.
func (r *rig) bind(name string) {
	r.Helper()
	u := r.claim(name)
	u.Object["status"] = map[string]any{"phase": claimBound}
	r.must(r.admin.Status().Update(r.Context(), u))
}

// Defect 7.2.16: buckets stayed for ever, and sets could not ask for them.
func TestDefect7216Buckets(t *testing.T) {
	r := newRig(t)
	asking := func(d *v1alpha1.EdgeDevice) {
		d.Spec.Storage = &v1alpha1.Storage{S3: &v1alpha1.S3Storage{CreateOBC: true}}
	}
	own := r.id("own")
	r.device(own, nil, asking)
	r.bucket(own, "NotSupported", "")

	_, err := r.kube.Kubectl(r.Context(), "", "apply", "-f", "testdata/objectbucketclaim.yaml")
	r.must(err)
	r.bucket(own, "Pending", "")
	u := r.claim(own)
	if name, _, _ := unstructured.NestedString(u.Object, "spec", "generateBucketName"); name != own || !metav1.IsControlledBy(u, r.read(own)) {
		t.Errorf("the claim is %v", u.Object)
	}
	r.bind(own)
	r.bucket(own, "Bound", own)

	// Deleted by hand, it is claimed anew, and not used before it is bound.
	r.must(r.admin.Delete(r.Context(), u))
	r.bucket(own, "Pending", "")
	r.bind(own)
	r.bucket(own, "Bound", own)

	// A set asks for its members, and is heeded instead of the device.
	set := &v1alpha1.EdgeDeviceSet{ObjectMeta: metav1.ObjectMeta{Namespace: r.ns, Name: "set"}}
	r.create(set)
	member := r.id("member")
	r.device(member, map[string]string{v1alpha1.LabelMemberOf: "set"}, asking)
	r.workload("w", byName(member))
	r.lists(member, "w")
	if err := r.admin.Get(r.Context(), r.key(member), newClaim()); err == nil {
		t.Error("a claim was made that the set does not ask for")
	}
	r.edit(set, func() { set.Spec.Storage = &v1alpha1.Storage{S3: &v1alpha1.S3Storage{CreateOBC: true}} })
	r.bucket(member, "Pending", "")

	// One of flotta v0.2 has no owner and is taken over; another one is not touched.
	old, foreign := newClaim(), newClaim()
	for u, id := range map[*unstructured.Unstructured]string{old: r.id("old"), foreign: r.id("foreign")} {
		u.SetNamespace(r.ns)
		u.SetName(id)
		u.Object["spec"] = map[string]any{"generateBucketName": id}
		if u == foreign {
			u.Object["spec"] = map[string]any{"generateBucketName": "pictures"}
		}
		r.create(u)
		r.device(id, nil, asking)
	}
	r.bind(r.id("old"))
	r.bucket(r.id("old"), "Bound", r.id("old"))
	r.bucket(r.id("foreign"), "ClaimIsForeign", "")

	for _, id := range []string{own, member, r.id("old"), r.id("foreign")} {
		d := r.read(id)
		r.must(r.admin.Delete(r.Context(), d))
		r.gone(d)
	}
	r.until("the claims went with the devices, except the foreign one", func() error {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(newClaim().GroupVersionKind())
		r.must(r.admin.List(r.Context(), list, client.InNamespace(r.ns)))
		if len(list.Items) != 1 || list.Items[0].GetName() != r.id("foreign") {
			return fmt.Errorf("there are %d", len(list.Items))
		}
		return nil
	})
}

// A claim for every device that names no storage, when the operator is told to.
func TestBucketsAreClaimedForAll(t *testing.T) {
	t.Parallel()
	p, err := startPlane(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kube.Stop)
	if _, err := p.kube.Kubectl(t.Context(), "", "apply", "-f", "testdata/objectbucketclaim.yaml"); err != nil {
		t.Fatal(err)
	}
	begin(t, p, func(c *Config) { c.AutoClaim = true })
	r := newRigOn(t, p)
	plain, external := r.id("plain"), r.id("external")
	r.device(plain, nil)
	r.device(external, nil, func(d *v1alpha1.EdgeDevice) {
		d.Spec.Storage = &v1alpha1.Storage{S3: &v1alpha1.S3Storage{SecretName: "s", ConfigMapName: "c"}}
	})
	r.bucket(plain, "Pending", "")
	if c := fleet.Condition(r.read(external), v1alpha1.ConditionBucketReady); c != nil {
		t.Errorf("a device with its own storage has %+v", c)
	}
}

// begin runs an operator until the test ends, and returns how to end it before.
func begin(t *testing.T, p *plane, adjust func(*Config)) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.run(ctx, adjust) }()
	ended := false
	stop = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return stop
}
