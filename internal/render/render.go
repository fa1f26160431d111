package render

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"

	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// ErrNotFound is what a Reader's errors satisfy, by errors.Is, when an object
// does not exist. Any other error ends a rendering.
var ErrNotFound = errors.New("not found")

// Reader finds the objects that a device's configuration is made of. What it
// returns is not changed by this package.
type Reader interface {
	EdgeDevice(ctx context.Context, namespace, name string) (*v1alpha1.EdgeDevice, error)
	EdgeDeviceSet(ctx context.Context, namespace, name string) (*v1alpha1.EdgeDeviceSet, error)
	// Workloads returns the workloads that are meant for the device, see
	// Matches, in any order and each name once.
	Workloads(ctx context.Context, device *v1alpha1.EdgeDevice) ([]v1alpha1.EdgeWorkload, error)
	ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	// Route returns the host name of an OpenShift Route. Where there are no
	// Routes at all, none exists.
	Route(ctx context.Context, namespace, name string) (host string, err error)
}

// Source is an object that was read, or looked for in vain. An empty Name is
// every object of that kind in the namespace.
type Source struct {
	Kind      string
	Namespace string
	Name      string
}

// Result is a rendered configuration. A later rendering needs Message and
// Problems of it, so these are what to persist.
type Result struct {
	// Message is complete, Version included.
	Message protocol.DeviceConfigurationMessage
	// JSON is the canonical encoding of Message.
	JSON []byte
	// Version is a hash of the content, in hexadecimal digits.
	Version string
	// ETag is Version as a strong HTTP entity tag, quotes included.
	ETag string
	// Problems is sorted and holds nothing twice.
	Problems []Problem
	// Sources is sorted, holds nothing twice, and is all that the result
	// depends on besides the previous one.
	Sources []Source
}
