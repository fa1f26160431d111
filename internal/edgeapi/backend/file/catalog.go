package file

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/internal/render"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
)

// Problem is something wrong with a file below the backend's folder.
type Problem struct {
	File    string `json:"file"` // relative to the backend's folder
	Line    int    `json:"line,omitempty"`
	Object  string `json:"object,omitempty"` // kind namespace/name, if the text says so
	Message string `json:"message"`

	key   objectKey              // zero when the text does not say
	holds []objectKey            // what the file holds, when key is zero
	meant *v1alpha1.EdgeWorkload // as far as it could be read: whom it is for
}

func (p Problem) text() string {
	if p.Line > 0 {
		return fmt.Sprintf("%s, line %d: %s", p.File, p.Line, p.Message)
	}
	return p.File + ": " + p.Message
}

// same reports whether two problems read the same.
func (p Problem) same(o Problem) bool {
	return p.File == o.File && p.Line == o.Line && p.Object == o.Object && p.Message == o.Message
}

// catalog is all that the manifests say, at one moment. It is never changed.
type catalog struct {
	objects   map[objectKey]object
	workloads map[string][]*v1alpha1.EdgeWorkload // by namespace, in the order of their names
	devices   map[string][]edgeapi.Device         // EdgeDevices by name
	problems  []Problem
}

// newCatalog puts the objects of all files together. Files come in the order of
// their paths: of two objects with one name the first counts.
func newCatalog(files []*manifest) *catalog {
	c := &catalog{
		objects:   make(map[objectKey]object),
		workloads: make(map[string][]*v1alpha1.EdgeWorkload),
		devices:   make(map[string][]edgeapi.Device),
	}
	for _, f := range files {
		c.problems = append(c.problems, f.problems...)
		for _, o := range f.objects {
			if first, taken := c.objects[o.key]; taken {
				c.problems = append(c.problems, Problem{
					File: o.file, Line: o.line, Object: o.key.String(), key: o.key,
					Message: fmt.Sprintf("the same object is in %s, line %d; that one counts", first.file, first.line),
				})
				continue
			}
			c.objects[o.key] = o
			switch v := o.value.(type) {
			case *v1alpha1.EdgeWorkload:
				c.workloads[v.Namespace] = append(c.workloads[v.Namespace], v)
			case *v1alpha1.EdgeDevice:
				c.devices[v.Name] = append(c.devices[v.Name], edgeapi.Device{Namespace: v.Namespace, ID: v.Name})
			}
		}
	}
	for _, list := range c.workloads {
		slices.SortFunc(list, func(a, b *v1alpha1.EdgeWorkload) int { return strings.Compare(a.Name, b.Name) })
	}
	return c
}

// changed returns the names of the objects that differ between two catalogs.
func (c *catalog) changed(next *catalog) map[objectKey]bool {
	diff := make(map[objectKey]bool)
	sum := func(c *catalog, k objectKey) [sha256.Size]byte { return c.objects[k].sum }
	for k := range c.objects {
		if _, ok := next.objects[k]; !ok || sum(c, k) != sum(next, k) {
			diff[k] = true
		}
	}
	for k := range next.objects {
		if _, ok := c.objects[k]; !ok {
			diff[k] = true
		}
	}
	return diff
}

// find returns the object of type *T with that name.
func find[T any](c *catalog, kind, namespace, name string) (*T, error) {
	o, ok := c.objects[objectKey{kind, namespace, name}]
	if !ok {
		return nil, fmt.Errorf("%s %s/%s: %w", kind, namespace, name, render.ErrNotFound)
	}
	return any(o.value).(*T), nil
}

// device returns the manifest of a device, or nil.
func (c *catalog) device(d edgeapi.Device) *v1alpha1.EdgeDevice {
	found, err := find[v1alpha1.EdgeDevice](c, v1alpha1.KindEdgeDevice, d.Namespace, d.ID)
	if err != nil {
		return nil
	}
	return found
}

// request returns the pre-approval of a device, or nil.
func (c *catalog) request(id string) *v1alpha1.EdgeDeviceSignedRequest {
	found, err := find[v1alpha1.EdgeDeviceSignedRequest](c, v1alpha1.KindEdgeDeviceSignedRequest, v1alpha1.DefaultNamespace, id)
	if err != nil {
		return nil
	}
	return found
}

// reader reads for the rendering of one device.
type reader struct {
	*catalog
	self *v1alpha1.EdgeDevice // as it counts: manifest and state merged
}

// EdgeDevice implements render.Reader.
func (r reader) EdgeDevice(_ context.Context, namespace, name string) (*v1alpha1.EdgeDevice, error) {
	if r.self.Namespace == namespace && r.self.Name == name {
		return r.self, nil
	}
	return nil, fmt.Errorf("device %s/%s: %w", namespace, name, render.ErrNotFound)
}

// EdgeDeviceSet implements render.Reader.
func (r reader) EdgeDeviceSet(_ context.Context, namespace, name string) (*v1alpha1.EdgeDeviceSet, error) {
	return find[v1alpha1.EdgeDeviceSet](r.catalog, v1alpha1.KindEdgeDeviceSet, namespace, name)
}

// Workloads implements render.Reader. Selectors were checked when they were
// decoded; one that is wrong all the same chooses nobody.
func (r reader) Workloads(_ context.Context, device *v1alpha1.EdgeDevice) ([]v1alpha1.EdgeWorkload, error) {
	var list []v1alpha1.EdgeWorkload
	for _, w := range r.workloads[device.Namespace] {
		if ok, err := render.Matches(w, device); ok && err == nil {
			list = append(list, *w)
		}
	}
	return list, nil
}

// ConfigMap implements render.Reader.
func (r reader) ConfigMap(_ context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	return find[corev1.ConfigMap](r.catalog, kindConfigMap, namespace, name)
}

// Secret implements render.Reader.
func (r reader) Secret(_ context.Context, namespace, name string) (*corev1.Secret, error) {
	return find[corev1.Secret](r.catalog, kindSecret, namespace, name)
}

// Route implements render.Reader. Manifests hold no Routes.
func (r reader) Route(_ context.Context, namespace, name string) (string, error) {
	return "", fmt.Errorf("route %s/%s: %w", namespace, name, render.ErrNotFound)
}

var _ render.Reader = reader{}
