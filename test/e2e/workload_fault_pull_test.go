//go:build device

package e2e

import (
	"crypto/rand"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/project-flotta/flotta-agent/test/image"
	"github.com/project-flotta/flotta-agent/test/site"
	"github.com/project-flotta/flotta-agent/test/testenv"
)

// newRegistry returns a registry, and its name on the rig's device, whose Podman
// trusts it.
func (r *rig) newRegistry() (g *testenv.Registry, name string) {
	r.Helper()
	g, err := testenv.StartRegistry(r.ctx, testenv.RegistryConfig{Address: "0.0.0.0:0"})
	must(r.T, err)
	r.Cleanup(g.Stop)
	name = r.edge.HostAddr() + ":" + strconv.Itoa(g.Port())
	must(r.T, r.edge.WriteFile("/etc/containers/registries.conf.d/60-test.conf",
		fmt.Appendf(nil, "[[registry]]\nlocation = %q\ninsecure = true\n", name), 0o644))
	// It may have read its settings before.
	r.userCommand("systemctl", "--user", "stop", "podman.service")
	return g, name
}

// TestRegistryStalls has a registry that sends half of a layer, and then nothing.
func TestRegistryStalls(t *testing.T) {
	t.Parallel()
	r := newRig(t, site.EdgeConfig{Settings: quickSync})
	g, name := r.newRegistry()
	path, err := image.Program(t.Context())
	must(t, err)
	program, err := os.ReadFile(path)
	must(t, err)
	filler := make([]byte, 4<<20)
	_, _ = rand.Read(filler) // so that it does not get smaller
	_, layers, err := g.Push("fleet/big:v1", testenv.RegistryImage{Program: program, Version: "big", Fillers: [][]byte{filler}})
	must(t, err)
	_, _, err = g.Push("fleet/small:v1", testenv.RegistryImage{Program: program, Version: "small"})
	must(t, err)
	resume := g.Stall(layers[0], 2<<20)
	t.Cleanup(resume)

	from := func(workload, port, reference string) string {
		return strings.Replace(r.pod(workload, port, "first"), imageV1, name+"/"+reference, 1)
	}
	r.save("old.yaml", r.pod("old", "18080", "first"))
	r.until("old serves", func() error { return r.serves("old", "18080", "first") })
	// One that is new, and one whose next version it is.
	r.save("new.yaml", from("new", "18081", "fleet/big:v1"))
	r.save("old.yaml", strings.Replace(from("old", "18080", "fleet/big:v1"), "first", "second", 1))
	for _, workload := range []string{"new", "old"} {
		r.until(workload+" is being pulled", func() error { return r.complains(workload, "Pulling") })
	}
	r.othersDeploy(from)
	if err := r.serves("old", "18080", "first"); err != nil {
		t.Errorf("a stalled pull took down what runs: %v", err)
	}
	must(t, r.edge.PowerCut())
	must(t, r.edge.PowerOn(r.ctx))
	r.until("old serves after the power cut", func() error { return r.serves("old", "18080", "first") })
	r.until("side serves after the power cut", func() error { return r.serves("side", "18083", "first") })
	resume()
	r.until("new serves", func() error { return r.serves("new", "18081", "first") })
	r.until("old is updated", func() error { return r.serves("old", "18080", "second") })
	r.until("nothing is doubled", func() error { return r.nothingDoubled("old", "new", "local", "side") })
}

// othersDeploy brings workloads with and without a pull from the same registry.
func (r *rig) othersDeploy(from func(workload, port, reference string) string) {
	r.Helper()
	r.save("local.yaml", r.pod("local", "18082", "first"))
	r.save("side.yaml", from("side", "18083", "fleet/small:v1"))
	r.until("another workload is deployed", func() error { return r.serves("local", "18082", "first") })
	r.until("another image is pulled", func() error { return r.serves("side", "18083", "first") })
	r.remove("local.yaml")
	r.gone("local")
	r.save("local.yaml", r.pod("local", "18082", "again"))
	r.until("another workload is removed and deployed", func() error { return r.serves("local", "18082", "again") })
}
