package agent

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// bucket is a store in memory that can be away.
type bucket struct {
	mu      sync.Mutex
	away    bool
	objects map[string]string
}

func newBucket() *bucket { return &bucket{objects: map[string]string{}} }

func (b *bucket) setAway(away bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.away = away
}

func (b *bucket) content(key string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.objects[key]
}

func (b *bucket) List(_ context.Context, prefix string, page func([]s3.Object) error) error {
	b.mu.Lock()
	if b.away {
		b.mu.Unlock()
		return s3.ErrUnavailable
	}
	var all []s3.Object
	for _, key := range slices.Sorted(maps.Keys(b.objects)) {
		if strings.HasPrefix(key, prefix) {
			all = append(all, s3.Object{Key: key, Size: int64(len(b.objects[key])), ETag: "none"})
		}
	}
	b.mu.Unlock()
	return page(all)
}

func (b *bucket) Head(_ context.Context, key string) (s3.Object, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	data, there := b.objects[key]
	switch {
	case b.away:
		return s3.Object{}, s3.ErrUnavailable
	case !there:
		return s3.Object{}, s3.ErrNotFound
	}
	return s3.Object{Key: key, Size: int64(len(data)), ETag: "none"}, nil
}

func (b *bucket) Get(ctx context.Context, key string) (s3.Object, io.ReadCloser, error) {
	o, err := b.Head(ctx, key)
	return o, io.NopCloser(strings.NewReader(b.content(key))), err
}

func (b *bucket) Put(_ context.Context, u s3.Upload) (string, error) {
	data, err := io.ReadAll(io.NewSectionReader(u.Body, 0, u.Size))
	if err != nil {
		return "", err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.away {
		return "", s3.ErrUnavailable
	}
	b.objects[u.Key] = string(data)
	return fmt.Sprint(len(data)), nil
}

func (b *bucket) GetFrom(_ context.Context, o s3.Object, from int64) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(b.content(o.Key)[from:])), nil
}

func (b *bucket) Uploads(context.Context, string, func([]s3.Begun) error) error { return nil }

func (b *bucket) Abort(context.Context, string, string) error { return nil }

func (b *bucket) Close() {}

// syncedConfiguration asks for workloads; those with an egress write to out/ and have
// their name as prefix in the bucket.
func syncedConfiguration(version string, workloads []protocol.Workload) protocol.DeviceConfigurationMessage {
	encoded := base64.StdEncoding.EncodeToString([]byte("x"))
	return protocol.DeviceConfigurationMessage{
		DeviceID: "dev", Version: version, Workloads: workloads,
		Configuration: &protocol.DeviceConfiguration{Storage: &protocol.StorageConfiguration{S3: &protocol.S3StorageConfiguration{
			BucketHost: "store.invalid", BucketName: "bucket", AWSAccessKeyID: encoded, AWSSecretAccessKey: encoded,
		}}},
	}
}

// tell puts workloads into force.
func (h *host) tell(version string, workloads ...protocol.Workload) {
	h.t.Helper()
	raw, err := json.Marshal(syncedConfiguration(version, workloads))
	if err != nil {
		h.t.Fatal(err)
	}
	if err := h.store.Accept(raw); err != nil {
		h.t.Fatal(err)
	}
}

func plain(name string) protocol.Workload {
	return protocol.Workload{Name: name, Specification: "containers: [{name: c, image: 'good:1'}]"}
}

func sending(name string) protocol.Workload {
	w := plain(name)
	w.Data = &protocol.DataConfiguration{Egress: []protocol.DataPath{{Source: "out", Target: name}}}
	return w
}

// write writes a file of a volume, if the volume is there.
func (h *host) write(name, file, content string) {
	h.t.Helper()
	dir := filepath.Join(h.dir, "volumes", name)
	if _, err := os.Stat(dir); err != nil {
		return
	}
	path := filepath.Join(dir, file)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

// holds reports whether the volume holds a file of that content.
func (h *host) holds(name, file, content string) bool {
	got, err := os.ReadFile(filepath.Join(h.dir, "volumes", name, file))
	return err == nil && bytes.Equal(got, []byte(content))
}

// volumeNames returns what is in the folder of the volumes.
func (h *host) volumeNames() string {
	entries, err := os.ReadDir(filepath.Join(h.dir, "volumes"))
	if err != nil && !os.IsNotExist(err) {
		h.t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return strings.Join(out, " ")
}

func (h *host) reported(reason string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, e := range h.occurred {
		if e.Reason == reason {
			n++
		}
	}
	return n
}

func (h *host) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
