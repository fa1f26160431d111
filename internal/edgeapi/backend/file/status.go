package file

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/internal/render"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

const (
	// maxText bounds every text of a device that is kept in its status.
	maxText = 1024
	// maxMessage bounds the message of a condition.
	maxMessage = 4096

	reasonInvalidManifest = "InvalidManifest"
)

// view is what the status of a device follows from, besides its reports.
type view struct {
	rendered *rendering // nil when the device was never rendered
	problems []render.Problem
}

// viewOf returns the view of a device at this moment.
func (b *Backend) viewOf(d edgeapi.Device) view {
	b.mu.RLock()
	defer b.mu.RUnlock()
	entry, ok := b.devices[d]
	if !ok || entry.object == nil || entry.rendered == nil {
		return view{}
	}
	v := view{rendered: entry.rendered}
	v.problems = append(v.problems, entry.rendered.result.Problems...)
	self := merged(entry.object, b.catalog.device(d))
	for _, p := range b.catalog.problems {
		if concerned, workload := p.concerns(self, entry.rendered.result); concerned {
			v.problems = append(v.problems, render.Problem{
				Workload: workload, Reason: reasonInvalidManifest, Message: p.text(),
			})
		}
	}
	return v
}

// concerns reports whether a device has to do with what a problem is about, and
// with which of its workloads.
func (p Problem) concerns(d *v1alpha1.EdgeDevice, result render.Result) (concerned bool, workload string) {
	if p.key.kind == v1alpha1.KindEdgeWorkload {
		if p.key.namespace != d.Namespace {
			return false, ""
		}
		if slices.ContainsFunc(result.Message.Workloads, func(w protocol.Workload) bool { return w.Name == p.key.name }) {
			return true, p.key.name
		}
		if p.meant == nil {
			return false, ""
		}
		ok, err := render.Matches(p.meant, d)
		return ok && err == nil, ""
	}
	for _, s := range result.Sources {
		if s.Name == "" {
			continue
		}
		k := objectKey{s.Kind, s.Namespace, s.Name}
		if k == p.key || p.key == (objectKey{}) && slices.Contains(p.holds, k) {
			return true, ""
		}
	}
	if p.key != (objectKey{}) {
		return false, ""
	}
	for _, w := range result.Message.Workloads {
		if slices.Contains(p.holds, objectKey{v1alpha1.KindEdgeWorkload, d.Namespace, w.Name}) {
			return true, w.Name
		}
	}
	return false, ""
}

// tell writes what is known about a device into its status, if that changed.
func (b *Backend) tell(ctx context.Context, d edgeapi.Device) {
	now := time.Now()
	err := b.update(ctx, d, func(object *v1alpha1.EdgeDevice) error {
		applyView(object, b.viewOf(d), now)
		return nil
	})
	b.complain(d, err)
}

// seen notes that a device was heard of, coarsely: devices ask every 5 s.
func (b *Backend) seen(ctx context.Context, d edgeapi.Device) {
	now := time.Now()
	err := b.update(ctx, d, func(object *v1alpha1.EdgeDevice) error {
		b.touch(object, now)
		return nil
	})
	b.complain(d, err)
}

// complain logs that a status could not be stored. What the device was asked for
// is answered all the same, and it asks every 5 s, so not every time is told.
func (b *Backend) complain(d edgeapi.Device, err error) {
	if err != nil && b.complaints.Allow() {
		b.log.Warn("status of a device not stored", "device", d.String(), "err", err)
	}
}

func (b *Backend) touch(object *v1alpha1.EdgeDevice, now time.Time) {
	if last := object.Status.LastSeenTime; last == nil || now.Sub(last.Time) >= b.cfg.SeenInterval || now.Before(last.Time) {
		at := metav1.NewTime(now.UTC().Truncate(time.Second))
		object.Status.LastSeenTime = &at
	}
}

// applyView sets what follows from the view: the list of workloads and the
// conditions.
func applyView(object *v1alpha1.EdgeDevice, v view, now time.Time) {
	if v.rendered == nil {
		return
	}
	object.Status.Workloads = workloadStatus(object.Status.Workloads, v, now)

	applied := metav1.Condition{
		Type: conditionApplied, Status: metav1.ConditionFalse, Reason: "Pending",
		Message: "version " + v.rendered.result.Version + " is not in force on the device yet",
	}
	if object.Status.LastSyncedResourceVersion == v.rendered.result.Version {
		applied.Status, applied.Reason = metav1.ConditionTrue, "Applied"
		applied.Message = "version " + v.rendered.result.Version + " is in force on the device"
	}
	setCondition(object, applied, now)

	degraded := metav1.Condition{
		Type: conditionDegraded, Status: metav1.ConditionFalse, Reason: "AsWanted", Message: "everything could be rendered",
	}
	if len(v.problems) > 0 {
		degraded.Status, degraded.Reason = metav1.ConditionTrue, v.problems[0].Reason
		degraded.Message = problemText(v.problems)
	}
	setCondition(object, degraded, now)
}

// workloadStatus returns one entry for each workload of the configuration, in
// the order of their names: the one that was there, or a new one.
func workloadStatus(old []v1alpha1.WorkloadStatus, v view, now time.Time) []v1alpha1.WorkloadStatus {
	at := metav1.NewTime(now.UTC().Truncate(time.Second))
	list := make([]v1alpha1.WorkloadStatus, 0, len(v.rendered.result.Message.Workloads))
	for _, w := range v.rendered.result.Message.Workloads {
		entry := v1alpha1.WorkloadStatus{Name: w.Name, Phase: v1alpha1.PhaseDeploying, LastTransitionTime: &at}
		if i := slices.IndexFunc(old, func(s v1alpha1.WorkloadStatus) bool { return s.Name == w.Name }); i >= 0 {
			entry = old[i]
		}
		entry.Reason, entry.Message = "", ""
		mine := slices.DeleteFunc(slices.Clone(v.problems), func(p render.Problem) bool { return p.Workload != w.Name })
		if len(mine) > 0 {
			entry.Reason, entry.Message = mine[0].Reason, problemText(mine)
		}
		list = append(list, entry)
	}
	slices.SortFunc(list, func(a, b v1alpha1.WorkloadStatus) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

func problemText(problems []render.Problem) string {
	lines := make([]string, 0, len(problems))
	for _, p := range problems {
		text := p.Message
		if p.Workload != "" {
			text = p.Workload + ": " + text
		}
		lines = append(lines, text)
	}
	return clipTo(strings.Join(lines, "; "), maxMessage)
}

// clip shortens a text of a device.
func clip(text string) string { return clipTo(text, maxText) }

func clipTo(text string, limit int) string {
	text = strings.ToValidUTF8(text, "�")
	if len(text) <= limit {
		return text
	}
	cut := limit
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut]
}
