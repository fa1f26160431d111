package render

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
)

// Matches reports whether w is meant for d. Both must be in one namespace. A
// workload that names a device is for that one alone; otherwise its selector
// decides, by the rules of Kubernetes: an empty selector chooses every device.
// Without either, a workload is for nobody. The error says that the selector is
// invalid.
func Matches(w *v1alpha1.EdgeWorkload, d *v1alpha1.EdgeDevice) (bool, error) {
	if w.Namespace != d.Namespace {
		return false, nil
	}
	if w.Spec.Device != "" {
		return w.Spec.Device == d.Name, nil
	}
	if w.Spec.DeviceSelector == nil {
		return false, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(w.Spec.DeviceSelector)
	if err != nil {
		return false, fmt.Errorf("parse device selector of %s/%s: %w", w.Namespace, w.Name, err)
	}
	return selector.Matches(labels.Set(d.Labels)), nil
}
