//go:build device

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/testenv"
)

func TestImagePulls(t *testing.T) {
	t.Parallel()
	open := newRegistry(t, testenv.RegistryConfig{})
	private := newRegistry(t, testenv.RegistryConfig{User: "bob", Password: "pa55word"})
	r := newImageRig(t, imageSettings, open, private)
	for _, part := range []struct {
		name string
		f    func(*imageRig, *testenv.Registry)
		on   *testenv.Registry
	}{
		{"a registry that wants a password", pullPrivate, private},
		{"a registry that stalls", pullStalled, open},
		{"a connection that is cut", pullCut, open},
		{"a registry that is down", pullDown, open},
		{"a power cut", pullPowerCut, open},
	} {
		r.sub(part.name, func(sub *rig) { part.f(&imageRig{rig: sub, program: r.program}, part.on) })
	}
}

// credential is what the test registry takes, as a docker config has it.
const credential = "Ym9iOnBhNTV3b3Jk"

func pullPrivate(r *imageRig, g *testenv.Registry) {
	ref, _ := r.pushPlain(g, "private:v1", testenv.RegistryImage{Args: []string{"sleep"}})
	r.save("w.yaml", r.of("private", ref, "args: [sleep]", ""))
	r.reported("private", "private:v1")
	r.save("auth.yaml", fmt.Sprintf(`apiVersion: v1
kind: Secret
metadata: {name: registry}
type: kubernetes.io/dockerconfigjson
stringData: {.dockerconfigjson: '{"auths":{"%s":{"auth":"%s"}}}'}
`, registryHost(g), credential))
	r.save("w.yaml", r.of("private", ref, "args: [sleep]", "imageRegistries: {secretRef: {name: registry}}"))
	r.running("private", "app")
	r.phase("private", "Running")
	// yggd, which is told to debug here, logs all that it carries.
	for line := range strings.Lines(r.edge.Journal(r.ctx, 5000)) {
		ours := strings.Contains(line, "component=") || !strings.Contains(line, "yggd")
		if ours && (strings.Contains(line, credential) || strings.Contains(line, "pa55word")) {
			r.Errorf("the journal holds the password: %.300s", line)
		}
	}
	// What others than root and the user of the workloads can read.
	found, err := r.edge.Run(r.ctx, "sh", "-c",
		`setpriv --reuid nobody --regid nogroup --clear-groups grep -rlsE "$1" /etc /var /tmp /run /home 2>/dev/null || true`, "sh", credential+"|pa55word")
	must(r.T, err)
	if found.Stdout != "" {
		r.Errorf("anybody can read the password in %s", found.Stdout)
	}
	r.remove("w.yaml")
	r.remove("auth.yaml")
	r.gone("private")
}

// pullStalled: a pull that hangs half-way is said to, is called off and tried
// again, holds up nobody, and does not fetch again what has arrived.
func pullStalled(r *imageRig, g *testenv.Registry) {
	ref, layers := r.push(g, "stalls:v1", "v1")
	resume := g.Stall(layers[1], 4<<20)
	defer resume()
	r.save("w.yaml", r.of("stalls", ref, "args: [sleep]", ""))
	r.reported("stalls", "no progress for 6s")
	r.save("good.yaml", r.workload("good", "args: [sleep]", ""))
	r.running("good", "app")
	resume()
	r.running("stalls", "app")
	r.onlyOnce(g, layers[0])
	r.remove("w.yaml")
	r.remove("good.yaml")
	r.gone("stalls")
	r.gone("good")
}

// onlyOnce checks that a layer was fetched once.
func (r *imageRig) onlyOnce(g *testenv.Registry, layer string) {
	r.Helper()
	if n, size := g.Sent(layer); n != 1 {
		r.Errorf("the layer that had arrived was fetched %d times, %d bytes in all: %+v", n, size, g.Requests())
	}
}

func pullCut(r *imageRig, g *testenv.Registry) {
	// Of its own, so that nothing of it is there yet.
	ref, layers := r.pushPlain(g, "cut:v1", testenv.RegistryImage{Fillers: [][]byte{[]byte(strings.Repeat("a", 1<<20)), []byte(strings.Repeat("b", 4<<20))}})
	g.Cut(layers[1], 1000, -1)
	r.save("w.yaml", r.of("cut", ref, "args: [sleep]", ""))
	r.reported("cut", "cut:v1")
	g.Cut(layers[1], 0, 0)
	r.running("cut", "app")
	r.onlyOnce(g, layers[0])
	r.remove("w.yaml")
	r.gone("cut")
}

// pullDown: an image that is there serves, where the policy says that it may.
func pullDown(r *imageRig, g *testenv.Registry) {
	ref, _ := r.pushPlain(g, "down:latest", testenv.RegistryImage{Version: "one"})
	r.save("w.yaml", r.of("down", ref, "args: [sleep]", ""))
	first := r.running("down", "app")
	r.phase("down", "Running")
	g.SetDown(true)
	defer g.SetDown(false)
	r.save("w.yaml", r.of("down", ref, "args: [sleep]\nenv: [{name: CHANGED, value: '1'}]", ""))
	second := r.replaced("down", "app", first)
	r.save("w.yaml", r.of("down", strings.Replace(ref, "down:latest", "absent:v1", 1), "args: [sleep]\nimagePullPolicy: Never", ""))
	r.reported("down", "its policy is never to pull it")
	if now := r.running("down", "app"); now != second {
		r.Error("what ran was stopped for an image that is not there")
	}
	r.remove("w.yaml")
	r.gone("down")
}

func pullPowerCut(r *imageRig, g *testenv.Registry) {
	ref, layers := r.pushPlain(g, "power:v1", testenv.RegistryImage{Fillers: [][]byte{[]byte(strings.Repeat("c", 1<<20)), []byte(strings.Repeat("d", 4<<20))}})
	resume := g.Stall(layers[1], 1000)
	defer resume()
	r.save("w.yaml", r.of("power", ref, "args: [sleep]", ""))
	r.until("the second layer is on its way", func() error {
		if n, _ := g.Sent(layers[0]); n != 1 {
			return fmt.Errorf("the first is not there yet")
		}
		return nil
	})
	time.Sleep(2 * time.Second) // Podman unpacks what it has
	must(r.T, r.edge.PowerCut())
	resume()
	must(r.T, r.edge.PowerOn(r.ctx))
	r.running("power", "app")
	r.onlyOnce(g, layers[0])
	r.remove("w.yaml")
	r.gone("power")
}
