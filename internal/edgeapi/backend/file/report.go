package file

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Heartbeat implements edgeapi.Backend. The device forgets its events when this
// returns nil, so they are on disk then.
func (b *Backend) Heartbeat(ctx context.Context, d edgeapi.Device, report protocol.Heartbeat) error {
	now := time.Now()
	err := b.update(ctx, d, func(object *v1alpha1.EdgeDevice) error {
		b.touch(object, now)
		takeReport(object, report)
		applyView(object, b.viewOf(d), now)
		takeWorkloads(object, report.Workloads, now)
		return nil
	})
	if err != nil {
		return err
	}
	return b.events.append(d, report.Events, now)
}

// takeReport takes over what a device says about itself. What a report leaves
// out is as it was.
func takeReport(object *v1alpha1.EdgeDevice, report protocol.Heartbeat) {
	object.Status.Phase = clip(report.Status)
	object.Status.LastSyncedResourceVersion = clip(report.Version)
	if u := report.Upgrade; u != nil {
		object.Status.UpgradeInformation = &v1alpha1.UpgradeInformation{
			CurrentCommitID:   clip(u.CurrentCommitID),
			LastUpgradeStatus: clip(u.LastUpgradeStatus),
			LastUpgradeTime:   clip(u.LastUpgradeTime),
		}
	}
	takeHardware(object, report.Hardware)
}

// takeWorkloads takes over the states of the workloads that the device is to
// run; others are leftovers that it is about to remove.
func takeWorkloads(object *v1alpha1.EdgeDevice, reported []protocol.WorkloadStatus, now time.Time) {
	byName := make(map[string]protocol.WorkloadStatus, len(reported))
	for _, w := range reported {
		byName[w.Name] = w
	}
	for i := range object.Status.Workloads {
		entry := &object.Status.Workloads[i]
		w, ok := byName[entry.Name]
		if !ok {
			continue
		}
		if phase := clip(w.Status); phase != entry.Phase {
			at := metav1.NewTime(now.UTC().Truncate(time.Second))
			entry.Phase, entry.LastTransitionTime = phase, &at
		}
		if !w.LastDataUpload.IsZero() {
			at := metav1.NewTime(w.LastDataUpload.UTC().Truncate(time.Second))
			entry.LastDataUpload = &at
		}
	}
}

// Playbooks implements edgeapi.Backend. Manifests hold none yet.
func (b *Backend) Playbooks(_ context.Context, d edgeapi.Device) ([]protocol.PlaybookExecution, error) {
	_, err := b.device(d)
	return nil, err
}

// maxEventBytes bounds the events of one device: when its file has grown to
// this, it becomes the one old file that is kept.
const maxEventBytes = 256 << 10

// Event is one line of an event file.
type Event struct {
	Time    time.Time `json:"time"` // when it was received
	Type    string    `json:"type,omitempty"`
	Reason  string    `json:"reason,omitempty"`
	Message string    `json:"message,omitempty"`
}

// eventLog appends the events of devices to files.
type eventLog struct {
	dir string
	mu  sync.Mutex
}

func (l *eventLog) append(d edgeapi.Device, events []protocol.EventInfo, now time.Time) error {
	if len(events) == 0 {
		return nil
	}
	var lines bytes.Buffer
	encoder := json.NewEncoder(&lines)
	for _, e := range events {
		event := Event{Time: now.UTC(), Type: clip(e.Type), Reason: clip(e.Reason), Message: clip(e.Message)}
		if err := encoder.Encode(event); err != nil {
			return fmt.Errorf("encode event of device %s: %w", d, err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.write(filepath.Join(l.dir, d.Namespace, d.ID+".jsonl"), lines.Bytes()); err != nil {
		return fmt.Errorf("store events of device %s: %w", d, err)
	}
	return nil
}

func (l *eventLog) write(path string, lines []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), dirPerm); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, filePerm)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	if info.Size() == 0 {
		// A new name has to survive as well.
		err = durable.SyncDir(filepath.Dir(path))
	}
	if err == nil {
		_, err = f.Write(lines)
	}
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if info.Size()+int64(len(lines)) < maxEventBytes {
		return nil
	}
	return os.Rename(path, path+".1")
}

// readEvents returns the events of a file, the oldest first. A line that a crash
// cut short is left out.
func readEvents(path string) ([]Event, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // nothing was written
	var events []Event
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 8*maxText)
	for lines.Scan() {
		var e Event
		if json.Unmarshal(lines.Bytes(), &e) == nil {
			events = append(events, e)
		}
	}
	return events, lines.Err()
}
