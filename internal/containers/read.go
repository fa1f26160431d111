package containers

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/project-flotta/flotta-agent/internal/podman"
)

const running = "running"

// refresh reads the state and publishes it.
func (w *Watcher) refresh(ctx context.Context) error {
	// All of them, because infra containers carry no label and an inspection of
	// each would cost more.
	all, err := w.cfg.Podman.Containers(ctx, "")
	if err != nil {
		return err
	}
	infra := map[string]int{} // by pod ID
	for _, c := range all {
		if c.Infra && c.State == running {
			infra[c.PodID] = c.PID
		}
	}
	list := make([]Container, 0, len(all))
	lives := make(map[string]life, len(w.lives))
	for _, c := range all {
		name, ours := w.name(c)
		if !ours {
			continue
		}
		l, err := w.life(ctx, c)
		if errors.Is(err, podman.ErrNotFound) {
			continue // removed meanwhile, and an event says so
		}
		if _, answered := errors.AsType[*podman.APIError](err); answered {
			// One that is damaged must not hide the others.
			w.cfg.Log.Warn("container cannot be inspected", "container", c.Names[0], "err", err)
			var known bool
			if l, known = w.lives[c.ID]; !known {
				continue
			}
		} else if err != nil {
			return err
		}
		lives[c.ID] = l
		seen := l.seen
		seen.Workload, seen.Container = c.PodName, name
		seen.Init = w.cfg.Init(c.PodName, name)
		seen.Running = c.State == running
		seen.InfraPID = infra[c.PodID]
		list = append(list, seen)
	}
	w.lives = lives
	slices.SortFunc(list, func(a, b Container) int {
		return cmp.Or(
			strings.Compare(a.Workload, b.Workload), strings.Compare(a.Container, b.Container),
			a.Created.Compare(b.Created), strings.Compare(a.ID, b.ID),
		)
	})
	w.publish(list)
	return nil
}

// name returns what the manifest calls a container, and whether it is one of a
// workload's: its pod is named by the label, and it by the pod.
func (w *Watcher) name(c podman.ContainerSummary) (string, bool) {
	workload := c.Labels[w.cfg.Label]
	if c.Infra || workload == "" || workload != c.PodName || len(c.Names) == 0 {
		return "", false
	}
	name, found := strings.CutPrefix(c.Names[0], workload+"-")
	return name, found && name != ""
}

// life inspects a container once in each of its lives.
func (w *Watcher) life(ctx context.Context, c podman.ContainerSummary) (life, error) {
	if l, there := w.lives[c.ID]; there && l.state == c.State && l.pid == c.PID && l.started.Equal(c.StartedAt.Time) {
		return l, nil
	}
	inspected, err := w.cfg.Podman.Container(ctx, c.ID)
	if err != nil {
		return life{}, err
	}
	return life{state: c.State, pid: c.PID, started: c.StartedAt.Time, seen: Container{
		ID: c.ID, Name: c.Names[0],
		Created: inspected.Created.UTC(), Started: startOf(inspected.State),
		LogDriver: inspected.Host.Log.Driver, LogPath: inspected.Host.Log.Path,
		HostNetwork: inspected.Host.NetworkMode == "host",
	}}, nil
}

// startOf returns the last start; Podman has year 1 for none.
func startOf(s podman.ContainerState) time.Time {
	if s.StartedAt.Year() <= 1970 {
		return time.Time{}
	}
	return s.StartedAt.UTC()
}
