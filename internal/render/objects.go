package render

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
)

// objects reads what one rendering needs: every object once, so that the
// message does not mix two states of it, and all of them noted as sources.
type objects struct {
	reader     Reader
	namespace  string
	configMaps map[string]*corev1.ConfigMap // nil: not there
	secrets    map[string]map[string][]byte // nil: not there
	seen       map[Source]struct{}
}

func newObjects(r Reader, namespace string) *objects {
	return &objects{
		reader:     r,
		namespace:  namespace,
		configMaps: map[string]*corev1.ConfigMap{},
		secrets:    map[string]map[string][]byte{},
		seen:       map[Source]struct{}{},
	}
}

func (o *objects) looked(kind, namespace, name string) {
	o.seen[Source{Kind: kind, Namespace: namespace, Name: name}] = struct{}{}
}

func (o *objects) sources() []Source {
	return slices.SortedFunc(maps.Keys(o.seen), func(a, b Source) int {
		return cmp.Or(
			cmp.Compare(a.Kind, b.Kind),
			cmp.Compare(a.Namespace, b.Namespace),
			cmp.Compare(a.Name, b.Name),
		)
	})
}

// named reports whether an object can have that name. What cannot exist is not
// looked for, so that no Reader ever sees a hostile name.
func named(name string) bool { return len(validation.IsDNS1123Subdomain(name)) == 0 }

// configMap returns nil when there is none.
func (o *objects) configMap(ctx context.Context, name string) (*corev1.ConfigMap, error) {
	if object, ok := o.configMaps[name]; ok || !named(name) {
		return object, nil
	}
	o.looked("ConfigMap", o.namespace, name)
	object, err := o.reader.ConfigMap(ctx, o.namespace, name)
	if errors.Is(err, ErrNotFound) {
		object, err = nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read configmap %s: %w", name, err)
	}
	o.configMaps[name] = object
	return object, nil
}

// secret returns the decoded data, nil when there is no such Secret.
func (o *objects) secret(ctx context.Context, name string) (map[string][]byte, error) {
	if data, ok := o.secrets[name]; ok || !named(name) {
		return data, nil
	}
	o.looked("Secret", o.namespace, name)
	object, err := o.reader.Secret(ctx, o.namespace, name)
	if errors.Is(err, ErrNotFound) {
		object, err = nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read secret %s: %w", name, err)
	}
	o.secrets[name] = secretData(object)
	return o.secrets[name], nil
}

// secretData merges stringData over data, as the API server does when a Secret
// is written.
func secretData(object *corev1.Secret) map[string][]byte {
	if object == nil {
		return nil
	}
	data := make(map[string][]byte, len(object.Data)+len(object.StringData))
	maps.Copy(data, object.Data)
	for key, text := range object.StringData {
		data[key] = []byte(text)
	}
	return data
}

// deviceSet returns nil when there is none.
func (o *objects) deviceSet(ctx context.Context, name string) (*v1alpha1.EdgeDeviceSet, error) {
	if !named(name) {
		return nil, nil
	}
	o.looked(v1alpha1.KindEdgeDeviceSet, o.namespace, name)
	set, err := o.reader.EdgeDeviceSet(ctx, o.namespace, name)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read device set %s: %w", name, err)
	}
	return set, nil
}

func (o *objects) workloads(ctx context.Context, device *v1alpha1.EdgeDevice) ([]v1alpha1.EdgeWorkload, error) {
	o.looked(v1alpha1.KindEdgeWorkload, o.namespace, "")
	list, err := o.reader.Workloads(ctx, device)
	if err != nil {
		return nil, fmt.Errorf("list workloads: %w", err)
	}
	return list, nil
}

// secretKey returns one key of a Secret, or why it is not there.
func (o *objects) secretKey(ctx context.Context, name, key string) ([]byte, *Problem, error) {
	data, err := o.secret(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	if data == nil {
		return nil, notFound("Secret", name), nil
	}
	value, ok := data[key]
	if !ok {
		return nil, keyNotFound("Secret", name, key), nil
	}
	return value, nil, nil
}
