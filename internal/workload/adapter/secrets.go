package adapter

import (
	"context"
	"errors"

	"github.com/project-flotta/flotta-agent/internal/podman"
	"github.com/project-flotta/flotta-agent/internal/secret"
	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
)

// labelManaged marks the secrets that are ours.
const labelManaged = "io.project-flotta.managed"

// The first Podman whose secrets have labels. Before it, the form
// of the name has to do.
const (
	labelsSinceMajor = 4
	labelsSinceMinor = 3
)

// Secrets returns the names of the secrets that are ours.
func (p *Pods) Secrets(ctx context.Context) ([]string, error) {
	list, err := p.client.Secrets(ctx)
	if err != nil {
		return nil, err
	}
	names := manifest.NewSecretNames()
	there := make(map[string]bool, len(list))
	var out []string
	for _, s := range list {
		there[s.ID] = true
		if !names.Ours(s.Name) {
			continue
		}
		ours, err := p.marked(ctx, s)
		if err != nil {
			return nil, err
		}
		if ours {
			out = append(out, s.Name)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for id := range p.marks {
		if !there[id] {
			delete(p.marks, id)
		}
	}
	return out, nil
}

// marked reports whether a secret of our form carries our mark. Podman 4.3 shows
// labels only to who inspects a secret, so what was found out is kept: a secret
// never changes, and another one of its name has another ID.
func (p *Pods) marked(ctx context.Context, s podman.Secret) (bool, error) {
	p.mu.Lock()
	marked, known := p.marks[s.ID]
	p.mu.Unlock()
	if known {
		return marked, nil
	}
	version, err := p.Version(ctx)
	if err != nil {
		return false, err
	}
	if hasLabels(version) {
		if len(s.Labels) == 0 {
			s, err = p.client.Secret(ctx, s.Name)
			if errors.Is(err, podman.ErrNotFound) {
				return false, nil
			}
			if err != nil {
				return false, err
			}
		}
		marked = s.Labels[labelManaged] != ""
	} else {
		marked = true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.marks[s.ID] = marked
	return marked, nil
}

// hasLabels reports whether the secrets of that version have labels.
func hasLabels(version string) bool {
	major, minor := versionNumbers(version)
	return major > labelsSinceMajor || major == labelsSinceMajor && minor >= labelsSinceMinor
}

// CreateSecret makes a secret unless it is there.
func (p *Pods) CreateSecret(ctx context.Context, name string, data secret.Value) error {
	err := p.client.CreateSecret(ctx, podman.NewSecret{
		Name: name, Data: []byte(data.Reveal()), Labels: map[string]string{labelManaged: "true"},
	})
	if errors.Is(err, podman.ErrExists) {
		return nil
	}
	return err
}

// RemoveSecret removes a secret unless it is gone.
func (p *Pods) RemoveSecret(ctx context.Context, name string) error {
	err := p.client.RemoveSecret(ctx, name)
	if errors.Is(err, podman.ErrNotFound) {
		return nil
	}
	return err
}
