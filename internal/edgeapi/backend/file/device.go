package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
)

// update changes a device with mutate, which gets a copy and may return an error
// to leave all as it is. When the copy differs it is on disk before update
// returns. mutate may be called twice.
func (b *Backend) update(ctx context.Context, d edgeapi.Device, mutate func(*v1alpha1.EdgeDevice) error) error {
	current, err := b.device(d)
	if err != nil {
		return err
	}
	// Most reports change nothing, and need not wait for the disk.
	probe := fleet.Clone(current)
	if err := mutate(probe); err != nil {
		return err
	}
	if equality.Semantic.DeepEqual(probe, current) {
		return nil
	}
	release, err := b.disk.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	for range maxEdits {
		read, err := b.adoptEdit(d)
		if err != nil {
			return err
		}
		if current, err = b.device(d); err != nil {
			return err
		}
		next := fleet.Clone(current)
		if err := mutate(next); err != nil || equality.Semantic.DeepEqual(next, current) {
			return err // or somebody else was faster
		}
		if err := b.writeDevice(d, next, &read); !errors.Is(err, errEdited) {
			return err
		}
	}
	return fmt.Errorf("store device %s: %w", d, errEdited)
}

// maxEdits is how often a change is tried again that a user's edit overtook.
const maxEdits = 5

var errEdited = errors.New("the file is being edited")

// adoptEdit takes over what a user changed in the file of a device since it was
// read, and returns which version of the file that was. The disk lock is held.
func (b *Backend) adoptEdit(d edgeapi.Device) (stamp, error) {
	path := b.devicePath(d)
	info, err := os.Stat(path)
	if err != nil {
		// Gone, it is noticed by the scan; it must not be made anew here.
		return stamp{}, fmt.Errorf("read state of device %s: %w", d, err)
	}
	read := stampOf(info)
	data, err := readManifest(path, info, nil)
	if err != nil {
		return stamp{}, fmt.Errorf("read state of device %s: %w", d, err)
	}
	b.mu.RLock()
	entry, ok := b.devices[d]
	same := ok && entry.raw == string(data)
	b.mu.RUnlock()
	if same {
		return read, nil
	}
	object, err := decodeDevice(d, data)
	if err != nil {
		return stamp{}, fmt.Errorf("read state of device %s: %w", d, err)
	}
	b.setDevice(d, object, string(data))
	return read, nil
}

// writeDevice puts object in force, on disk first. If read is given, the file
// must still be that version: people do not take the disk lock, which is held.
func (b *Backend) writeDevice(d edgeapi.Device, object *v1alpha1.EdgeDevice, read *stamp) error {
	data, err := yaml.Marshal(object)
	if err != nil {
		return fmt.Errorf("encode device %s: %w", d, err)
	}
	path := b.devicePath(d)
	if err := os.MkdirAll(filepath.Dir(path), dirPerm); err != nil {
		return fmt.Errorf("make folder of device %s: %w", d, err)
	}
	// The look is as late as it can be: what remains are microseconds, while
	// writing and syncing the data takes the time of a key press.
	w := durable.Writer{Fault: func(step durable.Step, _ string) error {
		if step != durable.StepRename || read == nil {
			return nil
		}
		info, err := os.Stat(path)
		if err == nil && stampOf(info) != *read {
			err = errEdited
		}
		return err
	}}
	if err := w.WriteFile(path, data, filePerm); err != nil {
		return fmt.Errorf("store device %s: %w", d, err)
	}
	b.setDevice(d, object, string(data))
	return nil
}

// setDevice publishes a device.
func (b *Backend) setDevice(d edgeapi.Device, object *v1alpha1.EdgeDevice, raw string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	entry, ok := b.devices[d]
	if !ok {
		entry = &deviceEntry{}
		b.devices[d] = entry
	}
	if old := entry.object; old == nil || !equality.Semantic.DeepEqual(old.Spec, object.Spec) ||
		!maps.Equal(old.Labels, object.Labels) || !old.DeletionTimestamp.Equal(object.DeletionTimestamp) {
		entry.epoch++
	}
	entry.object, entry.raw, entry.gone = object, raw, time.Time{}
	delete(b.state, b.relative(b.devicePath(d)))
}

// removeDevice ends the management of a device: its file, then the memory of it.
// The disk lock is held.
func (b *Backend) removeDevice(d edgeapi.Device) error {
	if err := removeDurably(b.devicePath(d)); err != nil {
		return fmt.Errorf("remove device %s: %w", d, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.devices, d)
	delete(b.state, b.relative(b.devicePath(d)))
	return nil
}

func removeDurably(path string) error {
	if err := os.Remove(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}

// decodeDevice reads the file of a device.
func decodeDevice(d edgeapi.Device, data []byte) (*v1alpha1.EdgeDevice, error) {
	var object v1alpha1.EdgeDevice
	if err := decodeState(data, v1alpha1.KindEdgeDevice, &object); err != nil {
		return nil, err
	}
	if object.Namespace != d.Namespace || object.Name != d.ID {
		return nil, fmt.Errorf("file is for device %s but holds %s/%s", d, object.Namespace, object.Name)
	}
	return &object, nil
}

// decodeState reads a state file strictly.
func decodeState(data []byte, kind string, into any) error {
	var meta metav1.TypeMeta
	if err := yaml.Unmarshal(data, &meta); err != nil {
		return fmt.Errorf("parse: %w", err)
	}
	if meta.APIVersion != v1alpha1.APIVersion || meta.Kind != kind {
		return fmt.Errorf("kind %q of apiVersion %q, want %q of %q", meta.Kind, meta.APIVersion, kind, v1alpha1.APIVersion)
	}
	if err := yaml.UnmarshalStrict(data, into); err != nil {
		return fmt.Errorf("decode %s: %w", kind, err)
	}
	return nil
}
