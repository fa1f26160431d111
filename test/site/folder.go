package site

import (
	"context"
	"os"
	"path/filepath"

	"sigs.k8s.io/yaml"

	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/test/testenv"
)

// plane is how the administrator of a site works.
type plane interface {
	write(name, text string) error
	remove(name string) error
	approve(ctx context.Context, id string) error
	decline(ctx context.Context, id string) error
	delete(ctx context.Context, id string) error
	device(id string) (v1alpha1.EdgeDevice, error)
	events(id string) string
	requested(id string) bool
}

// folder is the file backend's way: files, and the subcommands of the Edge API.
type folder struct {
	api *testenv.EdgeAPI
	dir string
}

// write saves a manifest as an editor does: beside, and then renamed.
func (f *folder) write(name, text string) error {
	path := filepath.Join(f.dir, "manifests", name)
	tmp := path + "~"
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

func (f *folder) remove(name string) error { return os.Remove(filepath.Join(f.dir, "manifests", name)) }

func (f *folder) command(ctx context.Context, what, id string) error {
	_, err := f.api.Command(ctx, what, id)
	return err
}

func (f *folder) approve(ctx context.Context, id string) error { return f.command(ctx, "approve", id) }

func (f *folder) decline(ctx context.Context, id string) error { return f.command(ctx, "decline", id) }

func (f *folder) delete(ctx context.Context, id string) error { return f.command(ctx, "delete", id) }

func (f *folder) device(id string) (v1alpha1.EdgeDevice, error) {
	var d v1alpha1.EdgeDevice
	raw, err := os.ReadFile(filepath.Join(f.dir, "devices", v1alpha1.DefaultNamespace, id+".yaml"))
	if err != nil {
		return d, err
	}
	err = yaml.Unmarshal(raw, &d)
	return d, err
}

func (f *folder) events(id string) string {
	raw, err := os.ReadFile(filepath.Join(f.dir, "events", v1alpha1.DefaultNamespace, id+".jsonl"))
	if err != nil {
		return ""
	}
	return string(raw)
}

func (f *folder) requested(id string) bool {
	_, err := os.Stat(filepath.Join(f.dir, "requests", id+".yaml"))
	return err == nil
}
