package file

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"sigs.k8s.io/yaml"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDirEnv); dir != "" {
		crashChild(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

// rig is a backend that runs.
type rig struct {
	*Backend
	t    testing.TB
	dir  string
	log  *logBuffer
	stop func()
}

type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// newRig starts a backend on dir; the edits change its configuration.
func newRig(t testing.TB, dir string, edits ...func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, dir: dir, log: &logBuffer{}}
	cfg := Config{Dir: dir, Rescan: time.Hour, Logger: slog.New(slog.NewTextHandler(r.log, nil))}
	for _, edit := range edits {
		edit(&cfg)
	}
	b, err := New(cfg)
	r.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	r.must(b.Open(ctx))
	r.Backend = b
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		r.stop()
		if t.Failed() {
			t.Logf("log:\n%s", r.log)
		}
	})
	return r
}

func auto(c *Config) { c.AutoApprove = true }

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// save writes a manifest as editors do that write beside and rename.
func (r *rig) save(name, text string) {
	r.t.Helper()
	save(r.t, r.dir, name, text)
}

func save(t testing.TB, dir, name, text string) {
	t.Helper()
	path := filepath.Join(dir, manifestsDir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".part", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".part", path); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			r.t.Fatalf("not within 20 s: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func dev(id string) edgeapi.Device { return edgeapi.Device{Namespace: "default", ID: id} }

// enrolled makes a device that is managed.
func (r *rig) enrolled(id string) edgeapi.Device {
	r.t.Helper()
	d := dev(id)
	if _, err := r.Enrol(context.Background(), d, protocol.EnrolmentInfo{}); err != nil {
		r.t.Fatal(err)
	}
	r.must(NewAdmin(r.dir).Approve(context.Background(), id))
	r.eventually("device "+id+" made", func() bool {
		managed, err := r.Managed(context.Background(), d)
		return managed && err == nil
	})
	return d
}

// message returns what the device is told.
func (r *rig) message(d edgeapi.Device) protocol.DeviceConfigurationMessage {
	r.t.Helper()
	c, err := r.Configuration(context.Background(), d)
	r.must(err)
	var m protocol.DeviceConfigurationMessage
	r.must(json.Unmarshal(c.JSON, &m))
	if m.Version != c.Version {
		r.t.Errorf("version %s in the message, %s beside it", m.Version, c.Version)
	}
	return m
}

func (r *rig) workloads(d edgeapi.Device) string {
	r.t.Helper()
	var names []string
	for _, w := range r.message(d).Workloads {
		names = append(names, w.Name)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// image returns the image of the first container of a workload.
func (r *rig) image(d edgeapi.Device, workload string) string {
	r.t.Helper()
	for _, w := range r.message(d).Workloads {
		if w.Name != workload {
			continue
		}
		for line := range strings.Lines(w.Specification) {
			if image, ok := strings.CutPrefix(strings.TrimLeft(line, " -"), "image: "); ok {
				return strings.TrimSpace(image)
			}
		}
	}
	return ""
}

// stored reads the state file of a device.
func (r *rig) stored(d edgeapi.Device) *v1alpha1.EdgeDevice {
	r.t.Helper()
	data, err := os.ReadFile(r.devicePath(d))
	r.must(err)
	object, err := decodeDevice(d, data)
	r.must(err)
	return object
}

func condition(d *v1alpha1.EdgeDevice, kind string) (status, reason, message string) {
	for _, c := range d.Status.Conditions {
		if c.Type == kind {
			return string(c.Status), c.Reason, c.Message
		}
	}
	return "", "", ""
}

func (r *rig) problemList() []Problem {
	r.t.Helper()
	data, err := os.ReadFile(filepath.Join(r.dir, statusDir, problemsFile))
	r.must(err)
	var list struct {
		Problems []Problem `json:"problems"`
	}
	r.must(yaml.UnmarshalStrict(data, &list))
	return list.Problems
}

// workload is a manifest of one.
func workload(name, device, image string) string {
	return fmt.Sprintf(`apiVersion: management.project-flotta.io/v1alpha1
kind: EdgeWorkload
metadata:
  name: %s
spec:
  device: %s
  type: pod
  pod:
    spec:
      containers:
        - name: main
          image: %s
`, name, device, image)
}
