package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// reportMark remembers the last report of a device: the same again, on the same
// state of the device and with the same configuration, changes nothing.
type reportMark struct {
	hash     uint64
	version  string // resourceVersion of the device that says what was reported
	rendered uint64 // serial of the rendering; 0 for none
	runs     uint64 // hash of its playbook executions
}

// Heartbeat implements edgeapi.Backend. The device forgets its events when this
// returns nil, so the API server has them then.
func (b *Backend) Heartbeat(ctx context.Context, name edgeapi.Device, report protocol.Heartbeat) error {
	d, err := b.known(ctx, name)
	if err != nil {
		return err
	}
	// When the configuration cannot be rendered, the report counts all the same.
	rendered, err := b.configuration(ctx, d)
	if err != nil {
		b.complain("render", name, err)
	}
	hash, err := b.hash(report)
	if err != nil {
		return fmt.Errorf("take in report of %s: %w", name, err)
	}
	now := time.Now()
	runs := b.playbooks.of(name.Namespace, name.ID)
	runsHash := b.runsHash(runs)
	if mark := d.state(); mark.report.hash == hash && mark.report.version == mark.object.ResourceVersion &&
		mark.report.rendered == rendered.number() && mark.report.runs == runsHash && b.seenLately(mark.object, now) && len(report.Events) == 0 {
		return nil
	}
	report.Hardware = b.fitting(d, report.Hardware)
	c, err := b.update(ctx, d, b.taking(report, rendered, runs, now))
	if apierrors.IsInvalid(err) && report.Hardware != nil {
		// The device would send it again for ever. What else it says counts.
		b.complain("take hardware", name, err)
		report.Hardware = nil
		c, err = b.update(ctx, d, b.taking(report, rendered, runs, now))
	}
	if err != nil {
		return err
	}
	if err := b.writePlaybooks(ctx, runs, report.PlaybookExecutions, now); err != nil {
		return err
	}
	// Last, because what was done before is not done twice when the device sends
	// the same again.
	if err := b.events.write(ctx, c.after, report.Events); err != nil {
		return fmt.Errorf("store events of device %s: %w", name, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.report = reportMark{hash: hash, version: c.after.ResourceVersion, rendered: rendered.number(), runs: runsHash}
	return nil
}

// taking returns the change of a device that a report is. Rendered may be nil.
func (b *Backend) taking(report protocol.Heartbeat, rendered *rendering, runs []*v1alpha1.PlaybookExecution, now time.Time) func(*v1alpha1.EdgeDevice) error {
	return func(object *v1alpha1.EdgeDevice) error {
		before := fleet.Clone(object)
		fleet.TakeReport(object, report, now)
		if rendered != nil {
			fleet.Describe(object, rendered.version, rendered.problems, now)
			fleet.Observe(object, rendered.version, rendered.generations)
		}
		fleet.TakeRuns(object, runIDs(runs), report.PlaybookExecutions, now)
		fleet.Calm(before, object, now, b.cfg.SeenInterval)
		return nil
	}
}

func (b *Backend) seenLately(d *v1alpha1.EdgeDevice, now time.Time) bool {
	last := d.Status.LastSeenTime
	return last != nil && now.Sub(last.Time) < b.cfg.SeenInterval && !now.Before(last.Time)
}

// hash identifies what a report says. Events are not part of it.
func (b *Backend) hash(report protocol.Heartbeat) (uint64, error) {
	report.Events = nil
	var h maphash.Hash
	h.SetSeed(b.events.seed)
	if err := json.NewEncoder(&h).Encode(report); err != nil {
		return 0, fmt.Errorf("encode report: %w", err)
	}
	return h.Sum64(), nil
}
