//go:build device

package e2e

import (
	"fmt"
	"testing"

	"github.com/project-flotta/flotta-agent/test/device"
	"github.com/project-flotta/flotta-agent/test/image"
	"github.com/project-flotta/flotta-agent/test/testenv"
)

// TestImagesAreCollected: on a disk that is always too full, an image goes as soon
// as neither the manifest in force nor the one kept aside needs it, and only if it
// came because of a workload.
func TestImagesAreCollected(t *testing.T) {
	t.Parallel()
	g := newRegistry(t, testenv.RegistryConfig{})
	r := newImageRig(t, imageSettings+"gc-high = 0.000002\ngc-low = 0.000001\n", g)
	const theirs = "localhost/theirs:v1"
	must(t, r.edge.AddImage(r.ctx, device.User, image.Spec{Ref: theirs}))
	exists := func(ref string) bool {
		_, err := r.edge.Podman(r.ctx, "image", "exists", ref)
		return err == nil
	}
	var refs []string
	var id string
	for _, version := range []string{"v1", "v2", "v3"} {
		ref, _ := r.pushPlain(g, "collected:"+version, testenv.RegistryImage{Version: version})
		refs = append(refs, ref)
		r.save("w.yaml", r.of("collected", ref, "args: [sleep]", ""))
		id = r.replaced("collected", "app", id)
		r.phase("collected", "Running")
	}
	r.until("the oldest is gone", func() error {
		if exists(refs[0]) {
			return fmt.Errorf("it is still there")
		}
		return nil
	})
	hold(t, patience/10, func() error {
		for _, ref := range []string{refs[1], refs[2], theirs, imageV1} {
			if !exists(ref) {
				return fmt.Errorf("image %s is gone", ref)
			}
		}
		return nil
	})
	r.remove("w.yaml")
	r.gone("collected")
	r.until("the others are gone", func() error {
		if exists(refs[1]) || exists(refs[2]) {
			return fmt.Errorf("there is one left")
		}
		return nil
	})
	if !exists(theirs) {
		t.Error("an image that is not ours was removed")
	}
}
