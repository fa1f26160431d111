//go:build device

package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/project-flotta/flotta-agent/test/device"
	"github.com/project-flotta/flotta-agent/test/image"
	"github.com/project-flotta/flotta-agent/test/site"
	"github.com/project-flotta/flotta-agent/test/testenv"
)

// imageSettings make what waits for minutes wait for seconds.
const imageSettings = site.DefaultSettings + `[images]
pull-stall = "6s"
gc-interval = "2s"
gc-min-age = "2s"
`

// imageRig is a rig with registries that its device may reach.
type imageRig struct {
	*rig
	program []byte
}

func newImageRig(t *testing.T, settings string, registries ...*testenv.Registry) *imageRig {
	t.Helper()
	r := newRig(t, site.EdgeConfig{Settings: settings})
	var trust strings.Builder
	for _, g := range registries {
		fmt.Fprintf(&trust, "[[registry]]\nlocation = %q\ninsecure = true\n", registryHost(g))
	}
	must(t, r.edge.WriteFile("/etc/containers/registries.conf.d/test.conf", []byte(trust.String()), 0o644))
	// One that runs has read the old ones.
	_, _ = r.edge.UserUnit(r.ctx, "stop", "podman.service")
	path, err := image.Program(r.ctx)
	must(t, err)
	program, err := os.ReadFile(path)
	must(t, err)
	return &imageRig{rig: r, program: program}
}

// newRegistry starts a registry that the network of a device leads to.
func newRegistry(t *testing.T, cfg testenv.RegistryConfig) *testenv.Registry {
	t.Helper()
	cfg.Address = "0.0.0.0:0"
	g, err := testenv.StartRegistry(t.Context(), cfg)
	must(t, err)
	t.Cleanup(g.Stop)
	return g
}

// registryHost is what a device calls the registry.
func registryHost(g *testenv.Registry) string { return fmt.Sprintf("%s:%d", site.EdgeName, g.Port()) }

// push puts an image with two large layers below the program's into a registry.
func (r *imageRig) push(g *testenv.Registry, name, version string, args ...string) (reference string, layers []string) {
	r.Helper()
	noise := rand.New(rand.NewPCG(1, 2))
	fillers := [][]byte{make([]byte, 12<<20), make([]byte, 8<<20)}
	for _, f := range fillers {
		for i := range f {
			f[i] = byte(noise.Uint32())
		}
	}
	return r.pushPlain(g, name, testenv.RegistryImage{Program: r.program, Version: version, Args: args, Fillers: fillers})
}

func (r *imageRig) pushPlain(g *testenv.Registry, name string, img testenv.RegistryImage) (reference string, layers []string) {
	r.Helper()
	if img.Program == nil {
		img.Program = r.program
	}
	_, layers, err := g.Push(name, img)
	must(r.T, err)
	return registryHost(g) + "/" + name, layers
}

// of returns the manifest of a workload that runs an image.
func (r *imageRig) of(name, image, container, more string) string {
	return strings.Replace(r.workload(name, container, more), imageV1, image, 1)
}

// message waits until the status of a workload, or an event about it, holds text.
func (r *imageRig) reported(workload, text string) {
	r.Helper()
	r.until("it is reported that "+text, func() error {
		d, err := r.site.Device(r.edge.ID())
		if err != nil {
			return err
		}
		for _, w := range d.Status.Workloads {
			if w.Name == workload && strings.Contains(w.Message, text) {
				return nil
			}
		}
		if events := r.site.Events(r.edge.ID()); strings.Contains(events, text) {
			return nil
		}
		return fmt.Errorf("workloads %+v", d.Status.Workloads)
	})
}

// imageID returns the ID of the image that a container was made from.
func (r *imageRig) imageID(workload string) string {
	r.Helper()
	id, err := r.edge.Container(r.ctx, workload, "app")
	must(r.T, err)
	out, err := r.edge.Podman(r.ctx, "inspect", "--format", "{{.Image}}", id)
	must(r.T, err)
	return out
}

// asFlotta runs a shell command as the user of the workloads.
func (r *imageRig) asFlotta(script string) string {
	r.Helper()
	out, err := r.edge.RunAs(r.ctx, device.User, "sh", "-c", script)
	must(r.T, err)
	return out.Stdout + out.Stderr
}
