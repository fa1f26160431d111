package site

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/test/device"
	"github.com/project-flotta/flotta-agent/test/testenv"
)

// Names under which devices reach the control plane. They resolve to the host's
// end of each device's own network.
const (
	EdgeName = "edge.flotta.test"
	S3Name   = "s3.flotta.test"
)

// Bucket is the bucket of the site.
const Bucket = "fleet"

// Config describes a site.
type Config struct {
	Dir         string // an existing, empty folder
	AutoApprove bool
	Log         io.Writer // of the servers; may be nil
}

// Site is a running control plane, or one namespace of a Cluster.
type Site struct {
	API *testenv.EdgeAPI
	S3  *testenv.S3Server
	// APIPath and S3Path lie between the devices and the servers.
	APIPath, S3Path *device.Proxy
	// Namespace is where devices and manifests are.
	Namespace string
	// Bucket is the bucket that the object "storage" describes.
	Bucket string

	plane   plane
	dir     string
	bin     string // folder of the programs under test
	closers []func() error
}

// Start starts the servers. The caller closes the site.
func Start(ctx context.Context, cfg Config) (*Site, error) {
	root, err := testenv.Root()
	if err != nil {
		return nil, err
	}
	s := &Site{dir: cfg.Dir, bin: binaries(root), Namespace: v1alpha1.DefaultNamespace, Bucket: Bucket}
	if err := s.start(context.WithoutCancel(ctx), cfg); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// binaries is the folder of the programs under test.
func binaries(root string) string {
	if dir := os.Getenv("FLOTTA_BIN"); dir != "" {
		return dir
	}
	return filepath.Join(root, "bin")
}

func (s *Site) start(ctx context.Context, cfg Config) (err error) {
	for _, sub := range []string{"api/manifests", "s3", "bootstrap"} {
		if err := os.MkdirAll(filepath.Join(s.dir, sub), 0o750); err != nil {
			return fmt.Errorf("start site: %w", err)
		}
	}
	s.S3, err = testenv.StartS3(ctx, testenv.S3Config{Dir: filepath.Join(s.dir, "s3"), Names: []string{S3Name}, Log: cfg.Log})
	if err != nil {
		return err
	}
	s.onClose(func() error { s.S3.Stop(); return nil })
	if err := s.S3.CreateBucket(ctx, Bucket); err != nil {
		return err
	}
	s.API, err = testenv.StartEdgeAPI(ctx, testenv.EdgeAPIConfig{
		Binary: filepath.Join(s.bin, "flotta-edge-api"), Dir: filepath.Join(s.dir, "api"),
		AutoApprove: cfg.AutoApprove, Log: cfg.Log, Env: []string{"DOMAIN=" + EdgeName},
	})
	if err != nil {
		return fmt.Errorf("start Edge API (make build): %w", err)
	}
	s.onClose(func() error { s.API.Stop(); return nil })
	if _, err := s.API.Command(ctx, "bootstrap", s.Bootstrap("")); err != nil {
		return err
	}
	s.plane = &folder{api: s.API, dir: filepath.Join(s.dir, "api")}
	if err := s.openPaths(ctx, s.API.Port); err != nil {
		return err
	}
	return s.writeStorage()
}

// openPaths puts a proxy before the Edge API, or its replicas, and one before S3.
func (s *Site) openPaths(ctx context.Context, api ...int) error {
	for _, path := range []struct {
		proxy **device.Proxy
		ports []int
	}{{&s.APIPath, api}, {&s.S3Path, []int{s.S3.Port}}} {
		var targets []string
		for _, port := range path.ports {
			targets = append(targets, "127.0.0.1:"+strconv.Itoa(port))
		}
		p, err := device.StartProxy(ctx, "0.0.0.0:0", targets...)
		if err != nil {
			return fmt.Errorf("start proxy: %w", err)
		}
		*path.proxy = p
		s.onClose(func() error { p.Close(); return nil })
	}
	return nil
}

func (s *Site) onClose(f func() error) { s.closers = append(s.closers, f) }

// Close stops everything in the reverse order of its start.
func (s *Site) Close() error {
	var errs []error
	for _, v := range slices.Backward(s.closers) {
		errs = append(errs, v())
	}
	s.closers = nil
	return errors.Join(errs...)
}

// Bootstrap is the path of a file that a new device needs: ca.pem or client.pem.
func (s *Site) Bootstrap(name string) string { return filepath.Join(s.dir, "bootstrap", name) }

// ManifestDir is the folder that the administrator of the site edits.
func (s *Site) ManifestDir() string { return filepath.Join(s.dir, "api", "manifests") }

// BucketDir holds the objects of the bucket as plain files.
func (s *Site) BucketDir() string { return filepath.Join(s.S3.Dir, s.Bucket) }

// WriteManifest puts a manifest into force; name identifies it.
func (s *Site) WriteManifest(name, text string) error { return s.plane.write(name, text) }

// RemoveManifest removes what a manifest describes.
func (s *Site) RemoveManifest(name string) error { return s.plane.remove(name) }

// Approve lets a device in that asked.
func (s *Site) Approve(ctx context.Context, id string) error { return s.plane.approve(ctx, id) }

// Decline refuses a device.
func (s *Site) Decline(ctx context.Context, id string) error { return s.plane.decline(ctx, id) }

// Delete ends the management of a device.
func (s *Site) Delete(ctx context.Context, id string) error { return s.plane.delete(ctx, id) }

// Device returns what the Edge API knows of a device. The error is that of
// reading it, such as that it does not exist before the approval.
func (s *Site) Device(id string) (v1alpha1.EdgeDevice, error) { return s.plane.device(id) }

// Events returns what is known to have happened to a device, as text.
func (s *Site) Events(id string) string { return s.plane.events(id) }

// Requested says whether a device has asked to be managed.
func (s *Site) Requested(id string) bool { return s.plane.requested(id) }

// writeStorage saves the ConfigMap and the Secret that describe the bucket. The
// port is that of the proxy.
func (s *Site) writeStorage() error {
	config := map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "storage"},
		"data": map[string]string{
			"BUCKET_NAME": s.Bucket, "BUCKET_HOST": S3Name,
			"BUCKET_PORT": strconv.Itoa(s.S3Path.Port()), "BUCKET_REGION": s.S3.Region,
		},
	}
	keys := map[string]any{
		"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "storage"},
		"stringData": map[string]string{
			"AWS_ACCESS_KEY_ID": s.S3.AccessKey, "AWS_SECRET_ACCESS_KEY": s.S3.SecretKey, "tls.crt": string(s.S3.CA),
		},
	}
	for name, object := range map[string]any{"storage-configmap.yaml": config, "storage-secret.yaml": keys} {
		raw, err := yaml.Marshal(object)
		if err != nil {
			return err
		}
		if err := s.WriteManifest(name, string(raw)); err != nil {
			return err
		}
	}
	return nil
}

// Problems returns what the Edge API says is wrong with the manifests.
func (s *Site) Problems() string {
	raw, err := os.ReadFile(filepath.Join(s.dir, "api", "status", "problems.yaml"))
	if err != nil {
		return ""
	}
	return string(raw)
}

// Until calls f every 50 ms until it returns nil, and returns its last error when
// that does not happen in time.
func Until(ctx context.Context, limit time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("not within %s: %w", limit, err)
		}
	}
}
