package render

import (
	corev1 "k8s.io/api/core/v1"
)

// reference is one mention of a ConfigMap or a Secret in a pod spec.
type reference struct {
	name     string
	keys     []string // nil: all of them
	optional bool
}

// references are all mentions, in the order of the pod spec, which may name an
// object more than once.
type references struct {
	configMaps []reference
	secrets    []reference
}

// collect finds the references that the device has to resolve: environment
// variables and volumes, init containers included. Secrets for pulling images
// are not among them; those travel as an auth file.
func collect(spec *corev1.PodSpec) references {
	var refs references
	for i := range spec.InitContainers {
		refs.container(&spec.InitContainers[i])
	}
	for i := range spec.Containers {
		refs.container(&spec.Containers[i])
	}
	for i := range spec.Volumes {
		refs.volume(&spec.Volumes[i])
	}
	return refs
}

func (r *references) container(c *corev1.Container) {
	for i := range c.Env {
		from := c.Env[i].ValueFrom
		if from == nil { // a literal value
			continue
		}
		if ref := from.ConfigMapKeyRef; ref != nil {
			r.configMap(ref.Name, []string{ref.Key}, ref.Optional)
		}
		if ref := from.SecretKeyRef; ref != nil {
			r.secret(ref.Name, []string{ref.Key}, ref.Optional)
		}
	}
	for i := range c.EnvFrom {
		if ref := c.EnvFrom[i].ConfigMapRef; ref != nil {
			r.configMap(ref.Name, nil, ref.Optional)
		}
		if ref := c.EnvFrom[i].SecretRef; ref != nil {
			r.secret(ref.Name, nil, ref.Optional)
		}
	}
}

func (r *references) volume(v *corev1.Volume) {
	if source := v.ConfigMap; source != nil {
		r.configMap(source.Name, itemKeys(source.Items), source.Optional)
	}
	if source := v.Secret; source != nil {
		r.secret(source.SecretName, itemKeys(source.Items), source.Optional)
	}
	if v.Projected == nil {
		return
	}
	for i := range v.Projected.Sources {
		if source := v.Projected.Sources[i].ConfigMap; source != nil {
			r.configMap(source.Name, itemKeys(source.Items), source.Optional)
		}
		if source := v.Projected.Sources[i].Secret; source != nil {
			r.secret(source.Name, itemKeys(source.Items), source.Optional)
		}
	}
}

func (r *references) configMap(name string, keys []string, optional *bool) {
	r.configMaps = append(r.configMaps, reference{name: name, keys: keys, optional: optional != nil && *optional})
}

func (r *references) secret(name string, keys []string, optional *bool) {
	r.secrets = append(r.secrets, reference{name: name, keys: keys, optional: optional != nil && *optional})
}

func itemKeys(items []corev1.KeyToPath) []string {
	var keys []string
	for _, item := range items {
		keys = append(keys, item.Key)
	}
	return keys
}
