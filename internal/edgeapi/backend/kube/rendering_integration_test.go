//go:build integration

package kube

import (
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/internal/render"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
	"github.com/project-flotta/flotta-agent/test/testenv"
)

// Everything that a device can be told comes from the cluster as the renderer's
// own golden file has it, byte by byte the same each time and on every replica
// (defects 7.2.2 and 7.2.3), literal environment variables included (7.2.1).
func TestDefect721And722Everything(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	other := r.run()
	d := r.name("dev1")
	want := r.fixture()
	var first edgeapi.Rendered
	r.eventually("everything rendered", func() bool {
		c, err := r.backend.Configuration(t.Context(), d)
		first = c
		return err == nil && cmp.Equal(want, decoded(t, c.JSON))
	})
	late := r.run()
	for range 50 {
		for _, b := range []*Backend{r.backend, other, late} {
			c, err := b.Configuration(t.Context(), d)
			if err != nil {
				t.Fatal(err)
			}
			if c.Version != first.Version || string(c.JSON) != string(first.JSON) {
				t.Fatalf("another configuration: %s", cmp.Diff(want, decoded(t, c.JSON)))
			}
		}
	}
}

// fixture applies the objects of the renderer's fullest golden file, and returns
// what is to be rendered of them, but for the version.
func (r *rig) fixture() map[string]any {
	r.t.Helper()
	root, err := testenv.Root()
	if err != nil {
		r.t.Fatal(err)
	}
	archive, err := txtar.ParseFile(filepath.Join(root, "internal/render/testdata/full.txtar"))
	if err != nil {
		r.t.Fatal(err)
	}
	files := make(map[string]string)
	for _, f := range archive.Files {
		files[f.Name] = strings.ReplaceAll(string(f.Data), "factory", r.namespace)
	}
	// What only the API server sets.
	objects := strings.NewReplacer(`  resourceVersion: "77"`+"\n", "", `  creationTimestamp: "2026-11-21T02:12:52Z"`+"\n", "").Replace(files["objects.yaml"])
	r.apply(objects)
	raw, err := yaml.YAMLToJSON([]byte(files["message.yaml"]))
	if err != nil {
		r.t.Fatal(err)
	}
	return decoded(r.t, raw)
}

// decoded is a configuration but for its version, which is the hash of the rest.
func decoded(t testing.TB, raw []byte) map[string]any {
	t.Helper()
	var m map[string]any
	if err := yaml.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	delete(m, "version")
	return m
}

// The version names the content: what is not sent does not change it, and what
// was sent before has the version that it had. Nothing is polled for that.
func TestDefect7218VersionNamesContent(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.apply(strings.Replace(twoKeys, "deviceSelector: {matchLabels: {app: web}}", "device: dev1", 1))
	d := r.device("dev1", nil)
	r.until(d, "workload", func(m protocol.DeviceConfigurationMessage) bool {
		return len(m.Secrets) == 1 && len(m.Workloads[0].ConfigMaps) == 2
	})
	r.eventually("watched", func() bool { return len(r.backend.references.due(time.Now().Add(time.Hour))) == 0 })
	first, _ := r.configuration(d)
	secret := func(a, b string) {
		r.apply("apiVersion: v1\nkind: Secret\nmetadata: {name: keys, namespace: $NS}\nstringData: {a: " + a + ", b: " + b + "}")
	}
	rendered := func() uint64 { return r.backend.devices.find(d).state().rendered.serial }

	before := rendered()
	secret("first", "changed")
	r.eventually("rendered anew", func() bool { r.configuration(d); return rendered() != before })
	if c, _ := r.configuration(d); c.Version != first.Version || c.At != first.At {
		t.Errorf("a key that is not sent changed the version %s to %s", first.Version, c.Version)
	}
	secret("second", "changed")
	r.eventually("another version", func() bool { c, _ := r.configuration(d); return c.Version != first.Version })
	secret("first", "changed")
	r.eventually("the version as it was", func() bool { c, _ := r.configuration(d); return c.Version == first.Version })
}

// What has nothing to do with a device is no reason to render it anew, or to
// read anything.
func TestUnrelatedChanges(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.apply(strings.Replace(twoKeys, "deviceSelector: {matchLabels: {app: web}}", "device: dev1", 1))
	d := r.device("dev1", nil)
	quiet := r.device("dev2", nil)
	r.until(d, "workload", func(m protocol.DeviceConfigurationMessage) bool { return len(m.Secrets) == 1 })
	r.eventually("watched", func() bool { return len(r.backend.references.due(time.Now().Add(time.Hour))) == 0 })
	r.configuration(d)
	r.configuration(quiet)
	before := r.backend.devices.find(quiet).state().rendered.serial
	r.apply("apiVersion: v1\nkind: Secret\nmetadata: {name: unrelated, namespace: $NS}\nstringData: {a: '1'}")
	r.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: unrelated, namespace: $NS}\ndata: {a: '1'}")
	r.apply("apiVersion: v1\nkind: Secret\nmetadata: {name: unrelated, namespace: $NS}\nstringData: {a: '2'}")
	// The watch tells in order: this one is told after those.
	r.apply("apiVersion: v1\nkind: Secret\nmetadata: {name: keys, namespace: $NS}\nstringData: {a: last, b: x}")
	last := r.backend.devices.find(d).state().rendered.serial
	r.eventually("last change", func() bool {
		r.configuration(d)
		return r.backend.devices.find(d).state().rendered.serial != last
	})
	if r.configuration(quiet); r.backend.devices.find(quiet).state().rendered.serial != before {
		t.Error("a change that has nothing to do with the device had it rendered anew")
	}
	if after := r.backend.devices.find(d).state().rendered.serial; after != r.backend.renderings.Load() {
		t.Errorf("%d renderings, the last one of the device is %d", r.backend.renderings.Load(), after)
	}
	r.backend.references.mu.Lock()
	defer r.backend.references.mu.Unlock()
	for key := range r.backend.references.entries {
		if key.Name == "unrelated" {
			t.Errorf("%s %s is kept", key.Kind, key.Name)
		}
	}
}

// A replica that has not read everything says nothing: a configuration without
// the workloads that it has not read would have the device remove them.
func TestNothingIsSaidTooEarly(t *testing.T) {
	t.Parallel()
	r := bareRig(t)
	r.apply(strings.Replace(twoKeys, "deviceSelector: {matchLabels: {app: web}}", "device: dev1", 1))
	d := r.device("dev1", nil)
	var open atomic.Bool
	r.backend = r.start(through(func(next http.RoundTripper, q *http.Request) (*http.Response, error) {
		if strings.HasSuffix(q.URL.Path, "/"+edgeWorkloads) && !open.Load() {
			return nil, errors.New("not today")
		}
		return next.RoundTrip(q)
	}))
	r.eventually("devices are read", func() bool { return r.backend.devices.find(d) != nil })
	if c, err := r.backend.Configuration(t.Context(), d); err == nil || errors.Is(err, edgeapi.ErrNotFound) {
		t.Errorf("configuration %s, %v", c.JSON, err)
	}
	if err := r.backend.Heartbeat(t.Context(), d, report("")); err == nil || errors.Is(err, edgeapi.ErrNotFound) {
		t.Errorf("heartbeat: %v", err)
	}
	r.eventually("the reason is told", func() bool {
		err := r.backend.Ready(t.Context())
		return err != nil && strings.Contains(err.Error(), "EdgeWorkload") && strings.Contains(err.Error(), "not today")
	})
	if managed, err := r.backend.Managed(t.Context(), d); err != nil || !managed {
		t.Errorf("managed %v, %v", managed, err)
	}
	open.Store(true)
	r.eventually("ready", func() bool { return r.backend.Ready(t.Context()) == nil })
	r.until(d, "workload", func(m protocol.DeviceConfigurationMessage) bool { return workloadNames(m) == "web" })
}

// A Secret that is deleted while it is read is not taken for one that is there.
func TestDeletedWhileRead(t *testing.T) {
	t.Parallel()
	r := bareRig(t)
	r.apply(strings.Replace(twoKeys, "deviceSelector: {matchLabels: {app: web}}", "device: dev1", 1))
	d := r.device("dev1", nil)
	var b *Backend
	var once atomic.Bool
	told := func() bool {
		b.references.mu.Lock()
		defer b.references.mu.Unlock()
		ref := b.references.entries[render.Source{Kind: kindSecret, Namespace: r.namespace, Name: "keys"}]
		return ref != nil && ref.tidings > 0
	}
	b = r.run(through(func(next http.RoundTripper, q *http.Request) (*http.Response, error) {
		answer, err := next.RoundTrip(q)
		if strings.HasSuffix(q.URL.Path, "/secrets/keys") && !once.Swap(true) {
			if err := r.admin.core.Secrets(r.namespace).Delete(t.Context(), "keys", metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
			for deadline := time.Now().Add(30 * time.Second); !told() && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			}
		}
		return answer, err
	}))
	r.backend = b
	r.eventually("watched", func() bool {
		b.references.mu.Lock()
		defer b.references.mu.Unlock()
		return b.references.watched[render.Source{Kind: kindSecret, Namespace: r.namespace}]
	})
	if _, m := r.configuration(d); len(m.Secrets) != 0 || !once.Load() {
		t.Errorf("secrets %+v", m.Secrets)
	}
}
