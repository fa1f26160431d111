//go:build device

package e2e

import (
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/device"
	"github.com/project-flotta/flotta-agent/test/image"
	"github.com/project-flotta/flotta-agent/test/site"
)

const (
	imageV1 = "localhost/flotta-test:v1"
	imageV2 = "localhost/flotta-test:v2"
)

// patience is how long anything may take on a machine under load. yggd asks
// for news every 5 s; everything else takes moments.
const patience = 90 * time.Second

// rig is a site with one registered device.
type rig struct {
	*testing.T
	ctx  context.Context //nolint:containedctx // of the test
	site *site.Site
	edge *site.Edge
}

func newSite(t *testing.T, auto bool) *site.Site {
	t.Helper()
	dir := t.TempDir()
	f, err := os.Create(dir + "/servers.log")
	must(t, err)
	api := dir + "/site"
	must(t, os.Mkdir(api, 0o750))
	s, err := site.Start(t.Context(), site.Config{Dir: api, AutoApprove: auto, Log: f})
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			raw, _ := os.ReadFile(f.Name())
			t.Logf("servers:\n%s", lastLines(string(raw), 60))
		}
		if err := s.Close(); err != nil {
			t.Errorf("close site: %v", err)
		}
		_ = f.Close()
	})
	return s
}

// transportOf returns what carries the messages of a test's devices: what
// FLOTTA_TEST_TRANSPORT says, or else the one half of the tests has this and the
// other that one. All hold for both.
func transportOf(t *testing.T) site.Transport {
	t.Helper()
	switch forced := site.Transport(os.Getenv("FLOTTA_TEST_TRANSPORT")); forced {
	case site.Yggd, site.Direct:
		return forced
	case "":
	default:
		t.Fatalf("FLOTTA_TEST_TRANSPORT=%s: want %s or %s", forced, site.Yggd, site.Direct)
	}
	name, _, _ := strings.Cut(t.Name(), "/")
	if crc32.ChecksumIEEE([]byte(name))%2 == 0 {
		return site.Yggd
	}
	return site.Direct
}

// newEdge boots a device with the test images, without waiting for anything.
func newEdge(t *testing.T, s *site.Site, cfg site.EdgeConfig) *site.Edge {
	t.Helper()
	if cfg.Transport == "" {
		cfg.Transport = transportOf(t)
	}
	e, err := s.NewEdge(t.Context(), cfg)
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			t.Logf("journal of %s:\n%s", e.Name(), e.Journal(ctx, 250))
		}
	})
	must(t, e.AddImage(t.Context(), device.User, image.Spec{Ref: imageV1}))
	return e
}

// sub runs part of a test on the rig's device.
func (r *rig) sub(name string, f func(r *rig)) {
	r.Helper()
	r.Run(name, func(t *testing.T) {
		f(&rig{T: t, ctx: t.Context(), site: r.site, edge: r.edge})
	})
}

// newRig returns a site with one registered device.
func newRig(t *testing.T, cfg site.EdgeConfig) *rig {
	t.Helper()
	s := newSite(t, true)
	e := newEdge(t, s, cfg)
	must(t, e.Registered(t.Context()))
	r := &rig{T: t, ctx: t.Context(), site: s, edge: e}
	r.device("", "")
	return r
}

// device saves the manifest of the rig's device, with the site's storage.
func (r *rig) device(labels, spec string) {
	r.Helper()
	r.save("device.yaml", fmt.Sprintf(`apiVersion: management.project-flotta.io/v1alpha1
kind: EdgeDevice
metadata:
  name: %q
  labels: {%s}
spec:
  heartbeat: {periodSeconds: 2}
  storage: {s3: {secretName: storage, configMapName: storage}}
%s`, r.edge.ID(), labels, spec))
}

// workload returns the manifest of a workload of the rig's device, with one
// container called app.
func (r *rig) workload(name, container, more string) string {
	return fmt.Sprintf(`apiVersion: management.project-flotta.io/v1alpha1
kind: EdgeWorkload
metadata: {name: %s}
spec:
  type: pod
  device: %q
%s
  pod:
    spec:
      containers:
      - name: app
        image: %s
%s
`, name, r.edge.ID(), indent(more, 2), imageV1, indent(container, 8))
}

func (r *rig) save(name, text string) {
	r.Helper()
	must(r.T, r.site.WriteManifest(name, text))
}

func (r *rig) remove(name string) {
	r.Helper()
	must(r.T, r.site.RemoveManifest(name))
}

// running waits until a container runs and returns its id.
func (r *rig) running(workload, container string) (id string) {
	r.Helper()
	r.until("container "+container+" of "+workload+" runs", func() (err error) {
		id, err = r.edge.Container(r.ctx, workload, container)
		return err
	})
	return id
}

// replaced waits until another container than old runs.
func (r *rig) replaced(workload, container, old string) (id string) {
	r.Helper()
	r.until("container "+container+" of "+workload+" is another one", func() (err error) {
		id, err = r.edge.Container(r.ctx, workload, container)
		if err == nil && id == old {
			return fmt.Errorf("it is still the old one")
		}
		return err
	})
	return id
}

// gone waits until nothing is left of a workload but its volume.
func (r *rig) gone(workload string) {
	r.Helper()
	r.until(workload+" is gone", func() error {
		out, err := r.edge.Podman(r.ctx, "pod", "ps", "--noheading", "--filter", "name=^"+workload+"$")
		if err != nil || out != "" {
			return fmt.Errorf("pod: %q %w", out, err)
		}
		if state, _ := r.edge.UserUnit(r.ctx, "is-active", "flotta-workload@"+workload+".service"); state != "inactive" {
			return fmt.Errorf("unit is %s", state)
		}
		if state, _ := r.edge.UserUnit(r.ctx, "is-enabled", "flotta-workload@"+workload+".service"); state == "enabled" {
			return fmt.Errorf("unit is enabled")
		}
		return nil
	})
}

// settled waits until the Edge API has heard that the workload is in a phase.
func (r *rig) phase(workload, want string) {
	r.Helper()
	r.until("workload "+workload+" is reported "+want, func() error {
		if got := r.edge.Phase(workload); got != want {
			return fmt.Errorf("it is %q", got)
		}
		return nil
	})
}

// answers waits until the test program, asked through a port of the device, gives
// that answer.
func (r *rig) answers(port, path, want string) {
	r.Helper()
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	r.until("port "+port+" answers "+path, func() error {
		req, err := http.NewRequestWithContext(r.ctx, http.MethodGet, "http://"+r.edge.Addr()+":"+port+path, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		if err == nil && string(body) != want {
			err = fmt.Errorf("answer is %s %q, want %q", resp.Status, body, want)
		}
		return err
	})
}

// object waits until the bucket holds that content under key.
func (r *rig) object(key, want string) {
	r.Helper()
	r.until("object "+key+" is in the bucket", func() error {
		got, err := os.ReadFile(filepath.Join(r.site.BucketDir(), key))
		if err == nil && string(got) != want {
			err = fmt.Errorf("content is %.80q, want %.80q", got, want)
		}
		return err
	})
}

// hold fails the test when f fails once within d.
func hold(t *testing.T, d time.Duration, f func() error) {
	t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		if err := f(); err != nil {
			t.Fatal(err)
		}
	}
}

// until waits for f to return nil.
func (r *rig) until(what string, f func() error) {
	r.Helper()
	until(r.T, what, f)
}

func until(t *testing.T, what string, f func() error) {
	t.Helper()
	if err := site.Until(t.Context(), patience, f); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func indent(text string, by int) string {
	pad := strings.Repeat(" ", by)
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(pad + line)
	}
	return b.String()
}

func lastLines(text string, n int) string {
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
