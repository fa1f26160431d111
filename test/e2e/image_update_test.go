//go:build device

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/project-flotta/flotta-agent/test/device"
	"github.com/project-flotta/flotta-agent/test/image"
	"github.com/project-flotta/flotta-agent/test/testenv"
)

// TestAutoUpdate: Podman's own updates work with the unit, and the agent does not
// fight them.
func TestAutoUpdate(t *testing.T) {
	t.Parallel()
	open := newRegistry(t, testenv.RegistryConfig{})
	private := newRegistry(t, testenv.RegistryConfig{User: "bob", Password: "pa55word"})
	r := newImageRig(t, imageSettings, open, private)
	r.sub("registry", func(sub *rig) { updateFromRegistry(&imageRig{rig: sub, program: r.program}, open) })
	r.sub("registry with a password", func(sub *rig) { updateWithPassword(&imageRig{rig: sub, program: r.program}, private) })
	r.sub("local", func(sub *rig) { updateLocal(&imageRig{rig: sub, program: r.program}) })
}

func autoUpdate(policy string) string {
	return fmt.Sprintf("annotations: {podman/io.containers.autoupdate: %s}", policy)
}

// annotated puts annotations into the metadata of a workload.
func annotated(manifest, annotations string) string {
	return strings.Replace(manifest, "metadata: {", "metadata: {"+annotations+", ", 1)
}

func updateFromRegistry(r *imageRig, g *testenv.Registry) {
	ref, _ := r.pushPlain(g, "auto:v1", testenv.RegistryImage{Version: "one"})
	r.save("w.yaml", annotated(r.of("auto", ref, "args: [sleep]", ""), autoUpdate("registry")))
	first := r.running("auto", "app")
	r.phase("auto", "Running")
	before := r.imageID("auto")
	r.pushPlain(g, "auto:v1", testenv.RegistryImage{Version: "two"})
	if said := r.asFlotta("podman auto-update --format '{{.Unit}} {{.Updated}}'"); !strings.Contains(said, "flotta-workload@auto.service true") {
		r.Errorf("podman auto-update says %s", said)
	}
	second := r.replaced("auto", "app", first)
	if after := r.imageID("auto"); after == before {
		r.Error("the container still runs the old image")
	}
	r.phase("auto", "Running")
	r.staysAs("auto", second)
	r.remove("w.yaml")
	r.gone("auto")
}

// staysAs checks that the agent leaves a container alone for longer than it takes
// to look.
func (r *imageRig) staysAs(workload, id string) {
	r.Helper()
	hold(r.T, patience/10, func() error {
		now, err := r.edge.Container(r.ctx, workload, "app")
		if err == nil && now != id {
			err = fmt.Errorf("the agent replaced the container %s by %s", id, now)
		}
		return err
	})
}

func updateWithPassword(r *imageRig, g *testenv.Registry) {
	ref, _ := r.pushPlain(g, "auto:v1", testenv.RegistryImage{Version: "one"})
	r.save("auth.yaml", fmt.Sprintf(`apiVersion: v1
kind: Secret
metadata: {name: registry}
type: kubernetes.io/dockerconfigjson
stringData: {.dockerconfigjson: '{"auths":{"%s":{"auth":"%s"}}}'}
`, registryHost(g), credential))
	r.save("w.yaml", annotated(r.of("auto", ref, "args: [sleep]", "imageRegistries: {secretRef: {name: registry}}"), autoUpdate("registry")))
	first := r.running("auto", "app")
	r.phase("auto", "Running")
	r.pushPlain(g, "auto:v1", testenv.RegistryImage{Version: "two"})
	if said := r.asFlotta("podman auto-update --format '{{.Unit}} {{.Updated}}'"); !strings.Contains(said, "flotta-workload@auto.service true") {
		r.Errorf("podman auto-update says %s", said)
	}
	r.replaced("auto", "app", first)
	r.remove("w.yaml")
	r.remove("auth.yaml")
	r.gone("auto")
}

// updateLocal: a new image under the same name in local storage is taken, and one
// that does not stay up is put back.
func updateLocal(r *imageRig) {
	const ref = "localhost/local:v1"
	must(r.T, r.edge.AddImage(r.ctx, device.User, image.Spec{Ref: ref, Version: "one"}))
	r.save("w.yaml", annotated(r.of("auto", ref, "", ""), autoUpdate("local")))
	first := r.running("auto", "app")
	r.phase("auto", "Running")
	must(r.T, r.edge.AddImage(r.ctx, device.User, image.Spec{Ref: ref, Version: "two"}))
	if said := r.asFlotta("podman auto-update --format '{{.Unit}} {{.Updated}}'"); !strings.Contains(said, "flotta-workload@auto.service true") {
		r.Errorf("podman auto-update says %s", said)
	}
	r.replaced("auto", "app", first)
	r.phase("auto", "Running")
	good := r.imageID("auto")

	// An image whose process ends at once.
	must(r.T, r.edge.AddImage(r.ctx, device.User, image.Spec{Ref: ref, Version: "three", Args: []string{"exit", "3"}}))
	if said := r.asFlotta("podman auto-update --format '{{.Unit}} {{.Updated}}' 2>&1 || true"); !strings.Contains(said, "flotta-workload@auto.service rolled back") {
		r.Errorf("podman auto-update says %s", said)
	}
	second := r.running("auto", "app")
	if now := r.imageID("auto"); now != good {
		r.Errorf("image %s runs, want the one before, %s", now, good)
	}
	r.staysAs("auto", second)
	r.remove("w.yaml")
	r.gone("auto")
}
