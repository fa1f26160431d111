//go:build device

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/site"
)

// newRemoteRig returns a site whose Edge API asks a service over mutual TLS, with
// one registered device.
func newRemoteRig(t *testing.T) (*rig, *site.Remote) {
	t.Helper()
	dir := t.TempDir()
	f, err := os.Create(dir + "/servers.log")
	must(t, err)
	place := dir + "/site"
	must(t, os.Mkdir(place, 0o750))
	s, err := site.StartRemote(t.Context(), site.Config{Dir: place, Log: f})
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			raw, _ := os.ReadFile(f.Name())
			t.Logf("servers:\n%s", lastLines(withoutNoise(string(raw)), 60))
		}
		if err := s.Close(); err != nil {
			t.Errorf("close site: %v", err)
		}
		_ = f.Close()
	})
	e := newEdge(t, s.Site, site.EdgeConfig{})
	must(t, e.Enrol(t.Context()))
	return &rig{T: t, ctx: t.Context(), site: s.Site, edge: e}, s
}

// TestRemoteLifeOfADevice drives a device by a service of the user's: it asks,
// is approved, runs what it is told, reports, and stops when it is removed.
func TestRemoteLifeOfADevice(t *testing.T) {
	t.Parallel()
	r, _ := newRemoteRig(t)
	r.save("w.yaml", r.pod("tenant", "18080", "one"))
	r.answers("18080", "/env?name=ROUND", "one")
	r.phase("tenant", "Running")
	r.save("w.yaml", r.pod("tenant", "18080", "two"))
	r.answers("18080", "/env?name=ROUND", "two")
	r.save("other.yaml", r.workload("other", "args: [sleep]", ""))
	r.running("other", "app")
	r.remove("other.yaml")
	r.gone("other")

	must(t, r.site.Delete(r.ctx, r.edge.ID()))
	r.gone("tenant")
}

// TestRemoteTrouble: whatever the service does but saying "unregistered", devices
// go on with what they run, and take up the next change when it works again.
func TestRemoteTrouble(t *testing.T) {
	t.Parallel()
	r, s := newRemoteRig(t)
	r.save("w.yaml", r.pod("steady", "18080", "begin"))
	r.answers("18080", "/env?name=ROUND", "begin")
	r.phase("steady", "Running")

	answer := func(status int, contentType, body string) func() {
		return func() {
			s.Answer(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", contentType)
				w.WriteHeader(status)
				_, _ = io.WriteString(w, body)
			})
		}
	}
	for _, trouble := range []struct {
		name  string
		begin func()
	}{
		{"down", s.ServicePath.Cut},
		{"slow", func() { s.ServicePath.Delay(5 * time.Second) }},
		{"empty object", answer(200, "application/json", `{}`)},
		{"no JSON", answer(200, "text/html", `<html>hello</html>`)},
		{"nothing configured", answer(200, "application/json", `{"device-configuration":{},"status":"x"}`)},
		{"not found", answer(404, "application/json", `{"message":"lost","status":"unregistered"}`)},
		{"forbidden", answer(403, "application/json", `{"message":"who are you"}`)},
		{"failing", answer(500, "application/json", `{"message":"out of order","status":"unregistered"}`)},
		{"hanging up", func() { s.Answer(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }) }},
	} {
		id := r.running("steady", "app")
		trouble.begin()
		// Two polls of yggd, which are five seconds apart.
		hold(t, 11*time.Second, func() error {
			now, err := r.edge.Container(r.ctx, "steady", "app")
			if err == nil && now != id {
				err = fmt.Errorf("the container was replaced while the service was %s", trouble.name)
			}
			return err
		})
		s.ServicePath.Mend()
		s.ServicePath.Delay(0)
		s.Answer(nil)
		r.save("w.yaml", r.pod("steady", "18080", trouble.name))
		r.answers("18080", "/env?name=ROUND", trouble.name)
	}
	r.phase("steady", "Running")
}
