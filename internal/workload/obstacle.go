package workload

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
)

// everyWorkload is the name of a maintenance marker that is for all of them. No
// workload can be called so.
const everyWorkload = "@all"

// maintained returns the path of the marker with which an administrator keeps
// the agent's hands off the workload, or "". A marker that cannot be looked for
// is not there.
func (r *Reconciler) maintained(name string) string {
	for _, dir := range r.cfg.MaintenanceDirs {
		for _, file := range []string{name, everyWorkload} {
			path := filepath.Join(dir, file)
			if _, err := os.Lstat(path); err == nil {
				return path
			}
		}
	}
	return ""
}

// unmounted returns a failure when one of the folders is no mount point.
func (r *Reconciler) unmounted(dirs []string) error {
	if r.cfg.Host == nil {
		return nil
	}
	for _, dir := range dirs {
		mounted, err := r.cfg.Host.Mounted(dir)
		if err != nil {
			return failed(ReasonMount, fmt.Errorf("look for mount at %s: %w", dir, err))
		}
		if !mounted {
			return failed(ReasonMount, fmt.Errorf("nothing is mounted at %s; the workload starts as soon as it is", dir))
		}
	}
	return nil
}

// holding is what one workload has on the host that no other can have as well.
type holding struct {
	ports []manifest.HostPort
	names []string
}

// holdings are those of all workloads, by name.
type holdings map[string]holding

// add gives the workload what a plan or a record names.
func (h holdings) add(workload string, ports []manifest.HostPort, names []string) {
	one := h[workload]
	one.ports = append(slices.Clip(one.ports), ports...)
	one.names = append(slices.Clip(one.names), names...)
	h[workload] = one
}

// conflict returns a failure when another workload has what the plan needs.
func (h holdings) conflict(plan manifest.Plan) error {
	for _, other := range sortedKeys(h) {
		if other == plan.Name {
			continue
		}
		for _, port := range plan.HostPorts {
			for _, taken := range h[other].ports {
				if overlap(port, taken) {
					return failed(ReasonPort, fmt.Errorf("host port %s is that of workload %s", portText(port), other))
				}
			}
		}
		for _, name := range plan.PodmanNames {
			if slices.Contains(h[other].names, name) {
				return failed(ReasonName, fmt.Errorf("%s is what Podman calls a part of workload %s; rename the workload or its container", name, other))
			}
		}
	}
	return nil
}

// overlap reports whether both cannot be had at once.
func overlap(a, b manifest.HostPort) bool {
	return a.Protocol == b.Protocol && a.Port == b.Port && (anyAddress(a.IP) || anyAddress(b.IP) || a.IP == b.IP)
}

func anyAddress(ip string) bool {
	addr, err := netip.ParseAddr(ip)
	return err != nil || addr.IsUnspecified()
}

func portText(p manifest.HostPort) string {
	text := strconv.Itoa(int(p.Port)) + "/" + p.Protocol
	if !anyAddress(p.IP) {
		text += " of " + p.IP
	}
	return text
}

// portsFree returns a failure when a process of the host, or of another workload,
// listens where the plan has to.
func (a *attempt) portsFree(ctx context.Context) error {
	plan := a.target.plan
	if a.r.cfg.Host == nil || len(plan.HostPorts) == 0 {
		return nil
	}
	if err := a.portsAllowed(); err != nil {
		return err
	}
	sockets, err := a.r.cfg.Host.Sockets()
	if err != nil {
		a.log.Warn("sockets of the host not read, starting all the same", "err", err)
		return nil
	}
	own, err := a.handedOver(ctx)
	if err != nil {
		return err
	}
	for _, port := range plan.HostPorts {
		for _, s := range sockets {
			if s.Workload == plan.Name || !s.takes(port) || anyOverlap(port, own) {
				continue
			}
			return failed(ReasonPort, fmt.Errorf("host port %s is taken by %s", portText(port), s.holder()))
		}
	}
	return ctx.Err()
}

// portsAllowed returns a failure when the user of the pods may not listen where
// the plan has to.
func (a *attempt) portsAllowed() error {
	if a.r.cfg.UID == 0 {
		return nil
	}
	first, err := a.r.cfg.Host.FirstPort()
	if err != nil {
		a.log.Debug("first unprivileged port not known", "err", err)
		return nil
	}
	for _, port := range a.target.plan.HostPorts {
		if port.Port < first {
			return failed(ReasonPort, fmt.Errorf("host port %s is for root alone; use one from %d on, or lower net.ipv4.ip_unprivileged_port_start", portText(port), first))
		}
	}
	return nil
}

// takes reports whether the port cannot be listened at beside s.
func (s Socket) takes(port manifest.HostPort) bool {
	if s.Protocol != port.Protocol || s.Port != port.Port {
		return false
	}
	wanted, err := netip.ParseAddr(port.IP)
	return err != nil || wanted.IsUnspecified() || s.Address.IsUnspecified() || s.Address.Unmap() == wanted.Unmap()
}

// holder names whose socket it is.
func (s Socket) holder() string {
	switch {
	case s.Workload != "":
		return "workload " + s.Workload
	case s.Command != "":
		return fmt.Sprintf("process %s (PID %d)", s.Command, s.PID)
	default:
		return "a process of the host"
	}
}
