package render

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// workloads renders all that is meant for the device, in the order of names, and
// gathers their secrets.
func (j *job) workloads(ctx context.Context) ([]protocol.Workload, error) {
	specs, err := j.objects.workloads(ctx, j.device)
	if err != nil {
		return nil, err
	}
	var list []protocol.Workload
	for i := range specs {
		if specs[i].DeletionTimestamp != nil {
			continue
		}
		w, err := j.workload(ctx, &specs[i])
		if err != nil {
			return nil, fmt.Errorf("render workload %s: %w", specs[i].Name, err)
		}
		list = append(list, w)
	}
	slices.SortFunc(list, func(a, b protocol.Workload) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// workload renders one workload, or keeps the last good rendering of it when
// something is missing.
func (j *job) workload(ctx context.Context, spec *v1alpha1.EdgeWorkload) (protocol.Workload, error) {
	d := draft{job: j, spec: spec, secrets: bundle{}}
	if err := d.render(ctx); err != nil {
		return protocol.Workload{}, err
	}
	if len(d.problems) == 0 {
		j.bundle.merge(d.secrets)
		return d.out, nil
	}
	kept, secrets, ok, err := j.keep(ctx, spec.Name)
	if err != nil {
		return protocol.Workload{}, err
	}
	for _, p := range d.problems {
		p.Workload, p.Kept = spec.Name, ok
		j.broken(p)
	}
	if ok {
		j.bundle.merge(secrets)
		return kept, nil
	}
	j.bundle.merge(d.secrets)
	return d.out, nil
}

// draft is one workload being rendered. What is missing becomes a problem, and
// the rest goes on without it.
type draft struct {
	job      *job
	spec     *v1alpha1.EdgeWorkload
	out      protocol.Workload
	secrets  bundle
	problems []Problem
}

func (d *draft) broken(p *Problem) { d.problems = append(d.problems, *p) }

func (d *draft) render(ctx context.Context) error {
	d.out = protocol.Workload{
		Name:          d.spec.Name,
		Namespace:     d.spec.Namespace,
		Labels:        podmanOnly(d.spec.Labels),
		Annotations:   podmanOnly(d.spec.Annotations),
		Data:          dataPaths(d.spec.Spec.Data),
		LogCollection: d.spec.Spec.LogCollection,
	}
	// An empty type is one that a manifest file left out.
	if t := d.spec.Spec.Type; t != "" && t != v1alpha1.WorkloadTypePod {
		d.broken(&Problem{Reason: ReasonUnsupportedType, Message: fmt.Sprintf("type %q is not %q", t, v1alpha1.WorkloadTypePod)})
	}
	if err := d.podSpec(ctx); err != nil {
		return err
	}
	if err := d.authFile(ctx); err != nil {
		return err
	}
	return d.metrics(ctx)
}

// podmanOnly returns what is meant for the pod, without the prefix that says so.
func podmanOnly(set map[string]string) map[string]string {
	out := map[string]string{}
	for key, value := range set {
		if name, ok := strings.CutPrefix(key, v1alpha1.PodmanPrefix); ok && name != "" {
			out[name] = value
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

func dataPaths(spec *v1alpha1.DataConfiguration) *protocol.DataConfiguration {
	if spec == nil {
		return nil
	}
	paths := func(in []v1alpha1.DataPath) []protocol.DataPath {
		out := make([]protocol.DataPath, 0, len(in))
		for _, p := range in {
			out = append(out, protocol.DataPath{Source: p.Source, Target: p.Target})
		}
		return out
	}
	out := &protocol.DataConfiguration{Ingress: paths(spec.Ingress), Egress: paths(spec.Egress)}
	if spec.Quota != nil {
		// The API server refuses negative ones, files are not checked; the device
		// would only say that it ignores one.
		out.QuotaBytes = max(spec.Quota.Value(), 0)
	}
	return out
}

// podSpec renders the specification and what it refers to.
func (d *draft) podSpec(ctx context.Context) error {
	if d.spec.Spec.Pod == nil {
		d.broken(&Problem{Reason: ReasonInvalidPodSpec, Message: "there is no pod spec"})
		return nil
	}
	text, err := yamlOf(d.spec.Spec.Pod.Spec)
	if err != nil {
		d.broken(&Problem{Reason: ReasonInvalidPodSpec, Message: err.Error()})
		return nil
	}
	d.out.Specification = text
	spec, err := d.spec.Spec.Pod.Spec.Decode()
	if err != nil {
		d.broken(&Problem{Reason: ReasonInvalidPodSpec, Message: err.Error()})
		return nil
	}
	if len(spec.Containers) == 0 {
		d.broken(&Problem{Reason: ReasonInvalidPodSpec, Message: "the pod has no containers"})
	}
	refs := collect(&spec)
	if err := d.configMaps(ctx, refs.configMaps); err != nil {
		return err
	}
	return d.secretRefs(ctx, refs.secrets)
}

// configMaps renders every ConfigMap that is referred to once, by name.
func (d *draft) configMaps(ctx context.Context, refs []reference) error {
	texts := map[string]string{}
	for _, ref := range refs {
		object, err := d.job.objects.configMap(ctx, ref.name)
		if err != nil {
			return err
		}
		if object == nil {
			if !ref.optional {
				d.broken(notFound("ConfigMap", ref.name))
			}
			continue
		}
		for _, key := range ref.keys {
			_, text := object.Data[key]
			_, binary := object.BinaryData[key]
			if !text && !binary && !ref.optional {
				d.broken(keyNotFound("ConfigMap", ref.name, key))
			}
		}
		text, err := configMapYAML(ref.name, object)
		if err != nil {
			d.broken(&Problem{Reason: ReasonInvalidConfigMap, Message: fmt.Sprintf("ConfigMap %q: %v", ref.name, err)})
			continue
		}
		texts[ref.name] = text
	}
	d.out.ConfigMaps = sortedValues(texts)
	return nil
}

func (d *draft) secretRefs(ctx context.Context, refs []reference) error {
	for _, ref := range refs {
		data, err := d.job.objects.secret(ctx, ref.name)
		if err != nil {
			return err
		}
		if data == nil {
			if !ref.optional {
				d.broken(notFound("Secret", ref.name))
			}
			continue
		}
		for _, key := range ref.keys {
			if _, ok := data[key]; !ok && !ref.optional {
				d.broken(keyNotFound("Secret", ref.name, key))
			}
		}
		d.secrets.add(ref, data)
	}
	return nil
}

func (d *draft) authFile(ctx context.Context) error {
	registries := d.spec.Spec.ImageRegistries
	if registries == nil || registries.AuthFileSecret == nil {
		return nil
	}
	value, problem, err := d.job.objects.secretKey(ctx, registries.AuthFileSecret.Name, v1alpha1.AuthFileKey)
	if err != nil {
		return err
	}
	if problem != nil {
		d.broken(problem)
		return nil
	}
	d.out.ImageRegistries = &protocol.ImageRegistries{AuthFile: string(value)}
	return nil
}

func (d *draft) metrics(ctx context.Context) error {
	spec := d.spec.Spec.Metrics
	if spec == nil || spec.Port <= 0 {
		return nil
	}
	list, problem, err := d.job.allowList(ctx, spec.AllowList)
	if err != nil {
		return err
	}
	if problem != nil {
		d.broken(problem)
		return nil
	}
	d.out.Metrics = &protocol.WorkloadMetrics{
		Path:      metricsPath(spec.Path),
		Port:      spec.Port,
		Interval:  metricsInterval(spec.Interval),
		AllowList: list,
	}
	for name, c := range spec.Containers {
		if d.out.Metrics.Containers == nil {
			d.out.Metrics.Containers = map[string]protocol.ContainerMetrics{}
		}
		d.out.Metrics.Containers[name] = protocol.ContainerMetrics{
			Disabled: c.Disabled,
			Path:     metricsPath(c.Path),
			Port:     c.Port,
		}
	}
	return nil
}

func metricsPath(path string) string {
	if path == "" {
		return v1alpha1.DefaultMetricsPath
	}
	return path
}
