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

	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Heartbeat implements edgeapi.Backend. The device forgets its events when this
// returns nil, so they are on disk then.
func (b *Backend) Heartbeat(ctx context.Context, d edgeapi.Device, report protocol.Heartbeat) error {
	now := time.Now()
	err := b.update(ctx, d, func(object *v1alpha1.EdgeDevice) error {
		before := fleet.Clone(object)
		v := b.viewOf(d)
		v.list(object, now)
		fleet.TakeReport(object, report, now)
		v.describe(object, now)
		ids, err := b.runIDs(d, object)
		if err != nil {
			return err
		}
		fleet.TakeRuns(object, ids, report.PlaybookExecutions, now)
		fleet.Calm(before, object, now, b.cfg.SeenInterval)
		return nil
	})
	if err != nil {
		return err
	}
	return b.events.append(d, report.Events, now)
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
		event := Event{Time: now.UTC(), Type: fleet.Clip(e.Type), Reason: fleet.Clip(e.Reason), Message: fleet.Clip(e.Message)}
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
	lines.Buffer(nil, 8*fleet.MaxText)
	for lines.Scan() {
		var e Event
		if json.Unmarshal(lines.Bytes(), &e) == nil {
			events = append(events, e)
		}
	}
	return events, lines.Err()
}
