package adapter

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/project-flotta/flotta-agent/internal/podman"
	"github.com/project-flotta/flotta-agent/internal/secret"
	"github.com/project-flotta/flotta-agent/internal/workload"
	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
)

// Pods is a workload.PodRuntime on Podman.
type Pods struct {
	client *podman.Client

	mu       sync.Mutex
	restarts map[string]restartCount // by container ID
}

// restartCount is valid for as long as the container has not started anew.
type restartCount struct {
	startedAt time.Time
	status    string
	count     int
}

// NewPods returns the runtime behind client.
func NewPods(client *podman.Client) *Pods {
	return &Pods{client: client, restarts: map[string]restartCount{}}
}

// Pods returns every pod of ours.
func (p *Pods) Pods(ctx context.Context) ([]workload.Pod, error) {
	pods, seen, err := p.list(ctx, manifest.LabelWorkload)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for id := range p.restarts {
		if !seen[id] {
			delete(p.restarts, id)
		}
	}
	return pods, nil
}

// Pod returns the pod of one workload.
func (p *Pods) Pod(ctx context.Context, name string) (workload.Pod, bool, error) {
	pods, _, err := p.list(ctx, manifest.LabelWorkload+"="+name)
	if err != nil || len(pods) == 0 {
		return workload.Pod{}, false, err
	}
	return pods[0], true, nil
}

// list returns the pods with that label that are named by it, and the IDs of
// their containers.
func (p *Pods) list(ctx context.Context, label string) ([]workload.Pod, map[string]bool, error) {
	pods, err := p.client.Pods(ctx, label)
	if err != nil {
		return nil, nil, err
	}
	if len(pods) == 0 {
		return nil, nil, nil
	}
	containers, err := p.client.Containers(ctx, label)
	if err != nil {
		return nil, nil, err
	}
	seen := make(map[string]bool, len(containers))
	byPod := make(map[string][]workload.Container, len(pods))
	for _, c := range containers {
		seen[c.ID] = true
		converted, err := p.container(ctx, c)
		if errors.Is(err, podman.ErrNotFound) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, nil, err
		}
		byPod[c.PodID] = append(byPod[c.PodID], converted)
	}
	out := make([]workload.Pod, 0, len(pods))
	for _, pod := range pods {
		if name := pod.Labels[manifest.LabelWorkload]; name == pod.Name {
			out = append(out, workload.Pod{
				ID: pod.ID, Workload: name, Digest: pod.Labels[manifest.LabelDigest],
				Status: pod.Status, Containers: byPod[pod.ID],
			})
		}
	}
	return out, seen, nil
}

func (p *Pods) container(ctx context.Context, c podman.ContainerSummary) (workload.Container, error) {
	out := workload.Container{ID: c.ID, Status: c.State, ExitCode: c.ExitCode, StartedAt: c.StartedAt.Time}
	if len(c.Names) > 0 {
		out.Name = c.Names[0]
	}
	p.mu.Lock()
	known, cached := p.restarts[c.ID]
	p.mu.Unlock()
	// The list knows no restarts before Podman 4.6, and an inspection costs a
	// call: only a container that changed is inspected. Starts are told apart
	// by the second, and one that ran for less is not yet running again.
	fresh := time.Since(c.StartedAt.Time) < 2*time.Second
	if cached && !fresh && known.startedAt.Equal(c.StartedAt.Time) && known.status == c.State {
		out.Restarts = known.count
		return out, nil
	}
	detail, err := p.client.Container(ctx, c.ID)
	if err != nil {
		return out, err
	}
	out.Restarts, out.StartedAt = detail.RestartCount, c.StartedAt.Time
	p.mu.Lock()
	defer p.mu.Unlock()
	p.restarts[c.ID] = restartCount{startedAt: c.StartedAt.Time, status: c.State, count: detail.RestartCount}
	return out, nil
}

// RemovePod removes the pod of a workload, if it is ours.
func (p *Pods) RemovePod(ctx context.Context, name string) error {
	pod, there, err := p.Pod(ctx, name)
	if err != nil || !there {
		return err
	}
	if err := p.client.RemovePod(ctx, pod.ID); err != nil && !errors.Is(err, podman.ErrNotFound) {
		return err
	}
	return nil
}

// Logs returns the last lines of a container.
func (p *Pods) Logs(ctx context.Context, containerID string, lines int) ([]string, error) {
	return p.client.Logs(ctx, containerID, lines)
}

// ImageExists reports whether the image is in local storage.
func (p *Pods) ImageExists(ctx context.Context, reference string) (bool, error) {
	return p.client.ImageExists(ctx, reference)
}

// PullImage pulls the image.
func (p *Pods) PullImage(ctx context.Context, reference string, auth secret.Value, progress func(string)) error {
	_, err := p.client.PullImage(ctx, podman.Pull{Reference: reference, AuthFile: auth.Reveal(), Progress: progress})
	return err
}

// Secrets returns the names of all secrets.
func (p *Pods) Secrets(ctx context.Context) ([]string, error) {
	list, err := p.client.Secrets(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]string, 0, len(list))
	for _, s := range list {
		out = append(out, s.Name)
	}
	return out, nil
}

// CreateSecret makes a secret unless it is there.
func (p *Pods) CreateSecret(ctx context.Context, name string, data secret.Value) error {
	err := p.client.CreateSecret(ctx, podman.NewSecret{Name: name, Data: []byte(data.Reveal())})
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

// Watch calls changed when a container of ours started, ended, was removed or
// changed its health.
func (p *Pods) Watch(ctx context.Context, changed func()) error {
	stream, err := p.client.Events(ctx, podman.EventFilter{
		Types:   []string{"container"},
		Actions: []string{"start", "died", "remove", "health_status"},
	})
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer func() { _ = stream.Close() }()
	changed()
	for {
		event, err := stream.Next()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("watch pods: %w", err)
		}
		if event.Labels[manifest.LabelWorkload] != "" {
			changed()
		}
	}
}

var _ workload.PodRuntime = (*Pods)(nil)
