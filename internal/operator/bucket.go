package operator

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
)

const (
	claimGroup   = "objectbucket.io"
	claimVersion = "v1alpha1"
	claimKind    = "ObjectBucketClaim"
	claimClass   = "openshift-storage.noobaa.io"
	claimBound   = "Bound"
	// lookForClaims is how often it is looked whether the cluster knows claims
	// by now: a storage operator may be installed after this one.
	lookForClaims = 10 * time.Second
)

// buckets claims a bucket for devices that ask for one.
type buckets struct {
	env
	watched *atomic.Bool // whether the cluster knows claims, and the cache has them
}

func newClaim() *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(schema.GroupVersionKind{Group: claimGroup, Version: claimVersion, Kind: claimKind})
	return u
}

// watch reconciles a device when its claim changes, from when the cluster knows
// claims.
func (b *buckets) watch(mgr manager.Manager, c controller.Controller) error {
	b.watched = &atomic.Bool{}
	watched, log := b.watched, b.log
	return mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		ticker := time.NewTicker(lookForClaims)
		defer ticker.Stop()
		for {
			_, err := mgr.GetRESTMapper().RESTMapping(schema.GroupKind{Group: claimGroup, Kind: claimKind}, claimVersion)
			if err == nil {
				src := source.Kind[client.Object](mgr.GetCache(), newClaim(),
					handler.EnqueueRequestForOwner(mgr.GetScheme(), mgr.GetRESTMapper(), &v1alpha1.EdgeDevice{}))
				if err := c.Watch(src); err != nil {
					return fmt.Errorf("watch bucket claims: %w", err)
				}
				watched.Store(true)
				return nil
			}
			if !meta.IsNoMatchError(err) {
				log.Warn("look for bucket claims", "error", err)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-ticker.C:
			}
		}
	}))
}

// claim makes a device that asks for a bucket have one, and says in its status
// how far that is. It returns when to look again, or zero.
func (b *buckets) claim(ctx context.Context, d *v1alpha1.EdgeDevice, now time.Time) (time.Duration, error) {
	wanted, err := b.wanted(ctx, d)
	if err != nil {
		return 0, err
	}
	if !wanted {
		// One that is used already stays, with what is in it.
		return 0, nil
	}
	ready := func(status metav1.ConditionStatus, reason, message string) {
		fleet.SetCondition(d, metav1.Condition{Type: v1alpha1.ConditionBucketReady, Status: status, Reason: reason, Message: message}, now)
	}
	if !b.watched.Load() {
		ready(metav1.ConditionFalse, "NotSupported", "the cluster has no "+claimKind+" of "+claimGroup)
		return lookForClaims, nil
	}
	claim := newClaim()
	switch err := b.client.Get(ctx, client.ObjectKeyFromObject(d), claim); {
	case apierrors.IsNotFound(err):
		if err := b.create(ctx, d); err != nil {
			return 0, err
		}
		d.Status.DataOBC = ""
		ready(metav1.ConditionFalse, "Pending", "the bucket was claimed")
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("read bucket claim: %w", err)
	}
	return 0, b.follow(ctx, d, claim, ready)
}

// wanted reports whether the settings in force ask for a bucket, those of the
// set when the device belongs to one.
func (b *buckets) wanted(ctx context.Context, d *v1alpha1.EdgeDevice) (bool, error) {
	settings := d.Spec.DeviceSettings
	if name := d.Labels[v1alpha1.LabelMemberOf]; name != "" {
		var set v1alpha1.EdgeDeviceSet
		err := b.client.Get(ctx, types.NamespacedName{Namespace: d.Namespace, Name: name}, &set)
		if client.IgnoreNotFound(err) != nil {
			return false, fmt.Errorf("read device set: %w", err)
		}
		if err == nil {
			settings = set.Spec.DeviceSettings
		}
	}
	asked := b.cfg.AutoClaim
	if s := settings.Storage; s != nil && s.S3 != nil {
		if s.S3.SecretName != "" || s.S3.ConfigMapName != "" {
			return false, nil
		}
		asked = asked || s.S3.CreateOBC
	}
	return asked, nil
}

func (b *buckets) create(ctx context.Context, d *v1alpha1.EdgeDevice) error {
	claim := newClaim()
	claim.SetNamespace(d.Namespace)
	claim.SetName(d.Name)
	claim.SetOwnerReferences([]metav1.OwnerReference{ownerOf(d)})
	claim.Object["spec"] = map[string]any{"generateBucketName": d.Name, "storageClassName": claimClass}
	if err := b.client.Create(ctx, claim, client.FieldOwner(FieldOwner)); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create bucket claim: %w", err)
	}
	b.say(d, "BucketClaimed", "made %s %s", claimKind, d.Name)
	return nil
}

func ownerOf(d *v1alpha1.EdgeDevice) metav1.OwnerReference {
	owner := metav1.NewControllerRef(d, v1alpha1.GroupVersion().WithKind(v1alpha1.KindEdgeDevice))
	// With it, deleting the device needs the right to block for the claim.
	owner.BlockOwnerDeletion = nil
	return *owner
}

// follow takes over a claim's state. A claim that an operator of flotta v0.2 made
// has no owner and becomes the device's; another one is not touched.
func (b *buckets) follow(ctx context.Context, d *v1alpha1.EdgeDevice, claim *unstructured.Unstructured, ready func(metav1.ConditionStatus, string, string)) error {
	if !metav1.IsControlledBy(claim, d) {
		if generated, _, _ := unstructured.NestedString(claim.Object, "spec", "generateBucketName"); generated != d.Name || metav1.GetControllerOf(claim) != nil {
			ready(metav1.ConditionFalse, "ClaimIsForeign", "the "+claimKind+" "+claim.GetName()+" was not made for this device")
			return nil
		}
		if err := b.patch(ctx, claim, func() { claim.SetOwnerReferences(append(claim.GetOwnerReferences(), ownerOf(d))) }); err != nil {
			return err
		}
	}
	phase, _, _ := unstructured.NestedString(claim.Object, "status", "phase")
	if phase == claimBound {
		d.Status.DataOBC = claim.GetName()
		ready(metav1.ConditionTrue, claimBound, "the bucket is there")
		return nil
	}
	ready(metav1.ConditionFalse, "Pending", fleet.Clip(fmt.Sprintf("the claim is not bound, its phase is %q", phase)))
	return nil
}

// remove deletes the device's claim, and with it the bucket.
func (b *buckets) remove(ctx context.Context, d *v1alpha1.EdgeDevice) error {
	if !b.watched.Load() {
		return nil
	}
	claim := newClaim()
	if err := b.client.Get(ctx, client.ObjectKeyFromObject(d), claim); err != nil {
		return client.IgnoreNotFound(err)
	}
	if !metav1.IsControlledBy(claim, d) && d.Status.DataOBC != claim.GetName() {
		return nil
	}
	uid := claim.GetUID()
	return client.IgnoreNotFound(b.client.Delete(ctx, claim, client.Preconditions{UID: &uid}))
}
