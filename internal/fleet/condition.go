package fleet

import (
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
)

// SetCondition sets one condition of a device. Its time changes with its status
// only.
func SetCondition(d *v1alpha1.EdgeDevice, c metav1.Condition, now time.Time) {
	d.Status.Conditions = WithCondition(d.Status.Conditions, c, now)
}

// WithCondition returns the list with c in the place of the one of its type. The
// list that it got is not changed.
func WithCondition(list []metav1.Condition, c metav1.Condition, now time.Time) []metav1.Condition {
	list = slices.Clone(list)
	c.LastTransitionTime = Timestamp(now)
	i := slices.IndexFunc(list, func(o metav1.Condition) bool { return o.Type == c.Type })
	if i < 0 {
		return append(list, c)
	}
	if list[i].Status == c.Status {
		c.LastTransitionTime = list[i].LastTransitionTime
	}
	list[i] = c
	return list
}

// Timestamp is a time as the API stores it: UTC, in whole seconds.
func Timestamp(t time.Time) metav1.Time { return metav1.NewTime(t.UTC().Truncate(time.Second)) }

// The state of a request is the condition that is true; flotta v0.2 writes these
// values in lower case.
const (
	requestTrue  = "true"
	requestFalse = "false"
)

// WithRequestCondition makes kind, one of v1alpha1.SignedRequest*, the one
// condition that is true, and the last, because that one is shown in listings.
// A list that says so already is returned as it is.
func WithRequestCondition(list []v1alpha1.EdgeDeviceSignedRequestCondition, kind, message string, now time.Time) []v1alpha1.EdgeDeviceSignedRequestCondition {
	at := Timestamp(now)
	wanted := v1alpha1.EdgeDeviceSignedRequestCondition{Type: kind, Status: requestTrue, Message: message, LastTransitionTime: &at}
	if n := len(list); n > 0 {
		if last := list[n-1]; last.Type == kind && last.Status == requestTrue && last.Message == message &&
			!slices.ContainsFunc(list[:n-1], func(c v1alpha1.EdgeDeviceSignedRequestCondition) bool { return c.Status != requestFalse }) {
			return list
		}
	}
	next := slices.DeleteFunc(slices.Clone(list), func(c v1alpha1.EdgeDeviceSignedRequestCondition) bool { return c.Type == kind })
	for i := range next {
		if next[i].Status != requestFalse {
			next[i].Status, next[i].LastTransitionTime = requestFalse, &at
		}
	}
	return append(next, wanted)
}

// IsDeclined reports whether an administrator refused the request.
func IsDeclined(r *v1alpha1.EdgeDeviceSignedRequest) bool {
	return hasRequestCondition(r, v1alpha1.SignedRequestDeclined)
}

// IsGranted reports whether the device of the request was made.
func IsGranted(r *v1alpha1.EdgeDeviceSignedRequest) bool {
	return hasRequestCondition(r, v1alpha1.SignedRequestApproved)
}

func hasRequestCondition(r *v1alpha1.EdgeDeviceSignedRequest, kind string) bool {
	return slices.ContainsFunc(r.Status.Conditions, func(c v1alpha1.EdgeDeviceSignedRequestCondition) bool {
		return c.Type == kind && c.Status == requestTrue
	})
}

// Condition returns the condition of a device with that type, or nil. It must not
// be changed.
func Condition(d *v1alpha1.EdgeDevice, kind string) *metav1.Condition {
	if i := slices.IndexFunc(d.Status.Conditions, func(c metav1.Condition) bool { return c.Type == kind }); i >= 0 {
		return &d.Status.Conditions[i]
	}
	return nil
}
