package adapter

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/project-flotta/flotta-agent/internal/podman"
	"github.com/project-flotta/flotta-agent/internal/workload"
	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
)

// Pods is a workload.PodRuntime on Podman.
type Pods struct {
	client *podman.Client

	mu      sync.Mutex
	details map[string]detail // by container ID
	version cachedVersion
	store   podman.Store // zero: not asked yet
	growths map[*growth]bool
	marks   map[string]bool // by ID of a secret: it is ours
}

// detail is what was seen of a container last. Its restarts are valid for as long
// as it has not started anew.
type detail struct {
	startedAt time.Time
	status    string
	restarts  int
	health    string
}

// NewPods returns the runtime behind client.
func NewPods(client *podman.Client) *Pods {
	return &Pods{client: client, details: map[string]detail{}, growths: map[*growth]bool{}, marks: map[string]bool{}}
}

// Pods returns every pod of ours.
func (p *Pods) Pods(ctx context.Context) ([]workload.Pod, error) {
	pods, seen, err := p.list(ctx, manifest.LabelWorkload)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for id := range p.details {
		if !seen[id] {
			delete(p.details, id)
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
	out := workload.Container{
		ID: c.ID, Status: c.State, ExitCode: c.ExitCode, StartedAt: c.StartedAt.Time, Image: c.Image, ImageID: c.ImageID,
	}
	if len(c.Names) > 0 {
		out.Name = c.Names[0]
	}
	d, err := p.detail(ctx, c)
	if err != nil {
		return out, err
	}
	out.Restarts, out.Health = d.restarts, d.health
	return out, nil
}

// detail inspects a container only if it changed: the list knows no restarts
// before Podman 4.6, and an inspection costs a call.
func (p *Pods) detail(ctx context.Context, c podman.ContainerSummary) (detail, error) {
	p.mu.Lock()
	d, cached := p.details[c.ID]
	p.mu.Unlock()
	// Starts are told apart by the second, and one that ran for less is not yet
	// running again.
	fresh := time.Since(c.StartedAt.Time) < 2*time.Second
	if !cached || fresh || !d.startedAt.Equal(c.StartedAt.Time) || d.status != c.State {
		inspected, err := p.client.Container(ctx, c.ID)
		if err != nil {
			return detail{}, err
		}
		d = detail{startedAt: c.StartedAt.Time, status: c.State, restarts: inspected.RestartCount}
	}
	d.health = healthWord(c.Health)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.details[c.ID] = d
	return d, nil
}

// healthWord returns a word for the health of a container that is known, or
// nothing.
func healthWord(word string) string {
	switch word {
	case workload.HealthStarting, workload.HealthHealthy, workload.HealthUnhealthy:
		return word
	default:
		return ""
	}
}

// heardHealth reports whether what a health check found is news.
func (p *Pods) heardHealth(id, word string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	d, known := p.details[id]
	return !known || healthWord(word) == "" || healthWord(word) != d.health
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

// remainsAge is how old a container has to be to count as left behind: one that is
// about to be started does not run either.
const remainsAge = 10 * time.Second

// RemoveRemains removes containers that Podman made for the workload's unit, and
// that neither run nor belong to a pod: service containers of starts that failed,
// on a full disk say. Their names come from a manifest that may be no more.
func (p *Pods) RemoveRemains(ctx context.Context, name string) error {
	containers, err := p.client.Containers(ctx, "PODMAN_SYSTEMD_UNIT="+unitOf(name))
	if err != nil {
		return err
	}
	var failures []error
	for _, c := range containers {
		switch c.State {
		case "configured", "created", "exited":
		default:
			continue
		}
		if c.PodID != "" || time.Since(c.Created) < remainsAge {
			continue
		}
		if err := p.client.RemoveContainer(ctx, c.ID); !errors.Is(err, podman.ErrNotFound) {
			failures = append(failures, err)
		}
	}
	return errors.Join(failures...)
}

// UnpausePod lets the containers of a workload's pod run again.
func (p *Pods) UnpausePod(ctx context.Context, name string) error {
	pod, there, err := p.Pod(ctx, name)
	if err != nil || !there {
		return err
	}
	if err := p.client.UnpausePod(ctx, pod.ID); err != nil && !errors.Is(err, podman.ErrNotFound) {
		return err
	}
	return nil
}

// Logs returns the last lines of a container.
func (p *Pods) Logs(ctx context.Context, containerID string, lines int) ([]string, error) {
	return p.client.Logs(ctx, containerID, lines)
}

// Watch calls changed when a container of ours started, ended, was removed or
// changed its health, and when any image came or got a name.
func (p *Pods) Watch(ctx context.Context, changed func()) error {
	stream, err := p.client.Events(ctx, podman.EventFilter{
		Types: []string{"container", "image"},
		Actions: []string{
			"start", "died", "remove", "health_status",
			"pull", "tag", "untag", "loadfromarchive", "import", "build",
		},
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
			p.forgetVersion() // it may be another Podman that comes back
			return fmt.Errorf("watch pods: %w", err)
		}
		if p.concerns(event) {
			changed()
		}
	}
}

// concerns reports whether an event may change what is to be done.
func (p *Pods) concerns(event podman.Event) bool {
	switch {
	case event.Type == "image":
		return event.Action != "remove"
	case event.Labels[manifest.LabelWorkload] == "":
		return false
	case event.Action == "health_status":
		return p.heardHealth(event.ID, event.Health)
	default:
		return true
	}
}

var _ workload.PodRuntime = (*Pods)(nil)
