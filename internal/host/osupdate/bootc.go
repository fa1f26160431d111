package osupdate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// bootc updates a host through bootc.
type bootc struct {
	run  runner
	root string
}

// bootcStatus is what `bootc status --json` says, of which only this is read.
type bootcStatus struct {
	Kind   string `json:"kind"`
	Status struct {
		Staged         *bootcEntry `json:"staged"`
		Booted         *bootcEntry `json:"booted"`
		Rollback       *bootcEntry `json:"rollback"`
		RollbackQueued bool        `json:"rollbackQueued"`
	} `json:"status"`
}

type bootcEntry struct {
	Image *struct {
		Image struct {
			Image     string `json:"image"`
			Transport string `json:"transport"`
		} `json:"image"`
		Version string `json:"version"`
		Digest  string `json:"imageDigest"`
	} `json:"image"` // null: it does not come from an image
	Ostree *struct {
		Checksum string `json:"checksum"`
		Serial   int    `json:"deploySerial"`
	} `json:"ostree"`
}

// errNoImages says that bootc is installed on a host that does not run an image.
var errNoImages = errors.New("the host does not run an image")

// Read implements Target.
func (t *bootc) Read(ctx context.Context) (System, error) {
	raw, err := t.run.run(ctx, shortTimeout, "bootc", "status", "--json")
	if err != nil {
		return System{}, err
	}
	system, err := parseBootc(raw)
	if err != nil {
		return System{}, fmt.Errorf("understand bootc status: %w", err)
	}
	return system, nil
}

func parseBootc(raw []byte) (System, error) {
	var host bootcStatus
	if err := json.Unmarshal(raw, &host); err != nil || host.Kind != "BootcHost" {
		return System{}, errors.New("it is not the JSON that was asked for")
	}
	booted, ok := host.Status.Booted.deployment()
	if !ok {
		return System{}, errNoImages
	}
	system := System{Tool: "bootc", Images: true, Booted: booted}
	if d, ok := host.Status.Staged.deployment(); ok {
		d.Staged = true
		system.Pending = append(system.Pending, d)
	}
	if d, ok := host.Status.Rollback.deployment(); ok {
		if host.Status.RollbackQueued {
			system.Pending = append(system.Pending, d)
		} else {
			system.Fallback = append(system.Fallback, d)
		}
	}
	return system, nil
}

func (e *bootcEntry) deployment() (Deployment, bool) {
	if e == nil || e.Image == nil || e.Image.Image.Image == "" {
		return Deployment{}, false
	}
	d := Deployment{ID: e.Image.Image.Image, Commit: clip(e.Image.Digest, 200), Version: clip(e.Image.Version, 100)}
	if transport := e.Image.Image.Transport; transport != "registry" {
		d.ID = transport + ":" + d.ID // which no configuration asks for
	}
	d.ID = clip(d.ID, maxImage+100)
	if e.Ostree != nil && e.Ostree.Checksum != "" {
		d.Key = clip(e.Ostree.Checksum, 200) + "." + strconv.Itoa(e.Ostree.Serial)
	}
	return d, true
}

// Lookup implements Target.
func (t *bootc) Lookup(ctx context.Context, goal Goal) error {
	args := []string{"inspect", "--raw"}
	for _, path := range []string{"etc/ostree/auth.json", "run/ostree/auth.json", "usr/lib/ostree/auth.json"} { // as bootc has it
		path = filepath.Join(t.root, path)
		if _, err := os.Stat(path); err == nil {
			args = append(args, "--authfile", path)
			break
		}
	}
	_, err := t.run.run(ctx, lookupTimeout, "skopeo", append(args, "docker://"+goal.Image)...)
	return err
}

// Source implements Target: the reference of an image says where it comes from.
func (t *bootc) Source(context.Context, Goal) error { return nil }

// Stage implements Target.
func (t *bootc) Stage(ctx context.Context, goal Goal) error {
	_, err := t.run.run(ctx, stageTimeout, "bootc", "switch", "--transport", "registry", goal.Image)
	return err
}

// Unstage implements Target. bootc has no command for it; both of these change
// the same list of deployments.
func (t *bootc) Unstage(ctx context.Context) error {
	if t.run.Has("rpm-ostree") {
		_, err := t.run.run(ctx, shortTimeout, "rpm-ostree", "cleanup", "--pending")
		return err
	}
	_, err := t.run.run(ctx, shortTimeout, "ostree", "admin", "undeploy", "0")
	return err
}
