package takeover

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/project-flotta/flotta-agent/internal/podman"
	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
)

// exportPath is where flotta v0.2 mounted the volume of a workload.
const exportPath = "/export"

// pods returns the pods of flotta v0.2, by name, and whether one of that name is
// there that is not.
func (t *Takeover) pods(ctx context.Context) (theirs map[string]podman.Pod, others map[string]bool, err error) {
	list, err := t.cfg.Pods.Pods(ctx, "")
	if err != nil {
		return nil, nil, err
	}
	theirs, others = map[string]podman.Pod{}, map[string]bool{}
	for _, p := range list {
		is, err := t.isTheirs(ctx, p)
		if err != nil {
			return nil, nil, err
		}
		if is {
			theirs[p.Name] = p
		} else {
			others[p.Name] = true
		}
	}
	return theirs, others, nil
}

// pod returns the pod of flotta v0.2 of a workload; other: the name is somebody else's,
// which may be this agent.
func (t *Takeover) pod(ctx context.Context, workload string) (p podman.Pod, there, other bool, err error) {
	list, err := t.cfg.Pods.Pods(ctx, "")
	if err != nil {
		return p, false, false, err
	}
	for _, p := range list {
		if p.Name == workload {
			is, err := t.isTheirs(ctx, p)
			return p, is, !is, err
		}
	}
	return podman.Pod{}, false, false, nil
}

// isTheirs reports whether flotta v0.2 made the pod: it gave every one its volume.
func (t *Takeover) isTheirs(ctx context.Context, p podman.Pod) (bool, error) {
	if p.Labels[manifest.LabelWorkload] != "" || manifest.CheckName(p.Name) != "" {
		return false, nil
	}
	volume := filepath.Join(t.now().DataDir, volumesDir, p.Name)
	for _, c := range p.Containers {
		if c.ID == p.InfraID {
			continue
		}
		full, err := t.cfg.Pods.Container(ctx, c.ID)
		if errors.Is(err, podman.ErrNotFound) {
			continue
		}
		if err != nil {
			return false, err
		}
		if slices.ContainsFunc(full.Mounts, func(m podman.Mount) bool {
			return m.Destination == exportPath && filepath.Clean(m.Source) == volume
		}) {
			return true, nil
		}
	}
	return false, nil
}

// Ports returns the host ports at which flotta v0.2's pod of the workload listens. They
// are free as soon as the workload is handed over.
func (t *Takeover) Ports(ctx context.Context, workload string) ([]manifest.HostPort, error) {
	if !t.has(workload) {
		return nil, nil
	}
	p, there, _, err := t.pod(ctx, workload)
	if err != nil || !there || p.InfraID == "" {
		return nil, err
	}
	infra, err := t.cfg.Pods.Container(ctx, p.InfraID)
	if err != nil {
		return nil, err
	}
	var out []manifest.HostPort
	for port, bindings := range infra.Host.PortBindings {
		_, protocol, _ := strings.Cut(port, "/")
		for _, b := range bindings {
			number, err := strconv.ParseUint(b.HostPort, 10, 16)
			if err == nil {
				out = append(out, manifest.HostPort{Protocol: protocol, IP: b.HostIP, Port: uint16(number)})
			}
		}
	}
	return out, nil
}
