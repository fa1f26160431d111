package render

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// previous is what an earlier result offers: the workloads that were rendered
// without a problem, in it or in one before it, and its secrets.
type previous struct {
	workloads map[string]protocol.Workload
	secrets   map[string]string
}

func newPrevious(last *Result) previous {
	p := previous{workloads: map[string]protocol.Workload{}, secrets: map[string]string{}}
	if last == nil {
		return p
	}
	for _, w := range last.Message.Workloads {
		p.workloads[w.Name] = w
	}
	for _, problem := range last.Problems {
		if !problem.Kept {
			delete(p.workloads, problem.Workload)
		}
	}
	for _, s := range last.Message.Secrets {
		p.secrets[s.Name] = s.Data
	}
	return p
}

// keep returns the workload as it was and the secrets that it needs: those of
// today as far as they are there, the rest as they were.
func (j *job) keep(ctx context.Context, name string) (protocol.Workload, bundle, bool, error) {
	w, ok := j.previous.workloads[name]
	if !ok {
		return protocol.Workload{}, nil, false, nil
	}
	var spec corev1.PodSpec
	if err := yaml.Unmarshal([]byte(w.Specification), &spec); err != nil {
		return protocol.Workload{}, nil, false, nil
	}
	secrets := bundle{}
	for _, ref := range collect(&spec).secrets {
		if err := j.keepSecret(ctx, secrets, ref); err != nil {
			return protocol.Workload{}, nil, false, err
		}
	}
	return w, secrets, true, nil
}

func (j *job) keepSecret(ctx context.Context, secrets bundle, ref reference) error {
	now, err := j.objects.secret(ctx, ref.name)
	if err != nil {
		return err
	}
	before, err := decodeSecret(j.previous.secrets[ref.name])
	if err == nil && (now == nil || ref.keys != nil) {
		secrets.add(ref, before)
	}
	if now != nil {
		secrets.add(ref, now)
	}
	return nil
}
