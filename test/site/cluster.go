package site

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"

	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/test/testenv"
)

// controlNamespace is where operator and Edge API keep what is theirs.
const controlNamespace = "flotta"

// ClusterConfig describes a cluster.
type ClusterConfig struct {
	Dir      string    // an existing, empty folder
	Log      io.Writer // of the programs; may be nil
	Replicas int       // of the Edge API; 1 when zero
	Manual   bool      // requests wait for an administrator
	// Namespaces is how many sites there can be.
	Namespaces int
	// APIEnv and OperatorEnv are added to the programs' environments.
	APIEnv, OperatorEnv []string
}

// Cluster is a real Kubernetes API server with the operator and the Edge API,
// for many sites: each has a namespace, a bucket and paths of its own.
type Cluster struct {
	Kube     *testenv.Kube
	Operator *testenv.Operator
	APIs     []*testenv.EdgeAPI
	S3       *testenv.S3Server

	cfg     ClusterConfig
	bin     string
	taken   atomic.Int64
	closers []func() error
}

// StartCluster starts all of it. The caller closes the cluster.
func StartCluster(ctx context.Context, cfg ClusterConfig) (*Cluster, error) {
	root, err := testenv.Root()
	if err != nil {
		return nil, err
	}
	c := &Cluster{cfg: cfg, bin: binaries(root)}
	if err := c.start(context.WithoutCancel(ctx), root); err != nil {
		return nil, errors.Join(fmt.Errorf("start cluster: %w", err), c.Close())
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context, root string) (err error) {
	for _, sub := range []string{"kube", "s3", "api"} {
		if err := os.MkdirAll(filepath.Join(c.cfg.Dir, sub), 0o750); err != nil {
			return err
		}
	}
	if c.Kube, err = testenv.StartKube(ctx, testenv.KubeConfig{
		Dir: filepath.Join(c.cfg.Dir, "kube"), Controllers: true, Log: c.cfg.Log,
	}); err != nil {
		return err
	}
	c.onClose(func() error { c.Kube.Stop(); return nil })
	if err := c.install(ctx, root); err != nil {
		return err
	}
	if c.S3, err = testenv.StartS3(ctx, testenv.S3Config{
		Dir: filepath.Join(c.cfg.Dir, "s3"), Names: []string{S3Name}, Log: c.cfg.Log,
	}); err != nil {
		return err
	}
	c.onClose(func() error { c.S3.Stop(); return nil })
	if err := c.startOperator(ctx); err != nil {
		return err
	}
	return c.startAPIs(ctx)
}

// install applies what an administrator applies: definitions, roles, namespaces,
// and the rights in each namespace of devices.
func (c *Cluster) install(ctx context.Context, root string) error {
	if err := c.Kube.InstallCRDs(ctx); err != nil {
		return err
	}
	if _, err := c.Kube.Kubectl(ctx, "", "apply", "-k", filepath.Join(root, "config/rbac")); err != nil {
		return err
	}
	var text strings.Builder
	for _, ns := range c.namespaces() {
		fmt.Fprintf(&text, `---
apiVersion: v1
kind: Namespace
metadata: {name: %[1]s}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: flotta-edge-api-device-objects, namespace: %[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: flotta-edge-api-device-objects}
subjects: [{kind: ServiceAccount, name: flotta-edge-api, namespace: flotta}]
`, ns)
	}
	return c.Kube.Apply(ctx, text.String())
}

func (c *Cluster) namespaces() []string {
	names := make([]string, c.cfg.Namespaces)
	for i := range names {
		names[i] = fmt.Sprintf("site-%d", i+1)
	}
	return names
}

func (c *Cluster) startOperator(ctx context.Context) (err error) {
	kubeconfig := filepath.Join(c.cfg.Dir, "operator.kubeconfig")
	if err := c.Kube.WriteKubeconfig(kubeconfig, testenv.OperatorToken); err != nil {
		return err
	}
	c.Operator, err = testenv.StartOperator(ctx, testenv.OperatorConfig{
		Binary: filepath.Join(c.bin, "flotta-operator"), Kubeconfig: kubeconfig, Log: c.cfg.Log,
		Env: append([]string{
			"ALLOWED_NAMESPACES=" + strings.Join(c.namespaces(), ","),
			fmt.Sprintf("AUTO_APPROVAL_PROCESS=%t", !c.cfg.Manual),
		}, c.cfg.OperatorEnv...),
	})
	if err == nil {
		c.onClose(func() error { c.Operator.Stop(); return nil })
	}
	return err
}

// startAPIs starts the replicas at once, because that must be possible.
func (c *Cluster) startAPIs(ctx context.Context) error {
	kubeconfig := filepath.Join(c.cfg.Dir, "edge-api.kubeconfig")
	if err := c.Kube.WriteKubeconfig(kubeconfig, testenv.EdgeAPIToken); err != nil {
		return err
	}
	type started struct {
		api *testenv.EdgeAPI
		err error
	}
	results := make(chan started)
	replicas := max(1, c.cfg.Replicas)
	for range replicas {
		go func() {
			api, err := testenv.StartEdgeAPI(ctx, testenv.EdgeAPIConfig{
				Binary: filepath.Join(c.bin, "flotta-edge-api"), Dir: filepath.Join(c.cfg.Dir, "api"), Log: c.cfg.Log,
				Env: append([]string{
					"BACKEND=crd", "KUBECONFIG=" + kubeconfig, "DOMAIN=" + EdgeName,
					"ALLOWED_NAMESPACES=" + strings.Join(c.namespaces(), ","),
				}, c.cfg.APIEnv...),
			})
			results <- started{api, err}
		}()
	}
	var errs []error
	for range replicas {
		r := <-results
		if r.err != nil {
			errs = append(errs, fmt.Errorf("start Edge API (make build): %w", r.err))
			continue
		}
		c.APIs = append(c.APIs, r.api)
		c.onClose(func() error { r.api.Stop(); return nil })
	}
	return errors.Join(errs...)
}

func (c *Cluster) onClose(f func() error) { c.closers = append(c.closers, f) }

// Close stops everything in the reverse order of its start.
func (c *Cluster) Close() error {
	var errs []error
	for _, f := range slices.Backward(c.closers) {
		errs = append(errs, f())
	}
	c.closers = nil
	return errors.Join(errs...)
}

// NewSite returns a site of the next free namespace. It lasts until it is closed.
func (c *Cluster) NewSite(ctx context.Context) (*Site, error) {
	n := int(c.taken.Add(1))
	if n > c.cfg.Namespaces {
		return nil, fmt.Errorf("cluster has %d namespaces, and all are taken", c.cfg.Namespaces)
	}
	ns := c.namespaces()[n-1]
	s := &Site{API: c.APIs[0], S3: c.S3, Namespace: ns, Bucket: ns, bin: c.bin, dir: filepath.Join(c.cfg.Dir, ns)}
	s.plane = &kubectl{kube: c.Kube, namespace: ns, manifests: map[string]string{}}
	if err := c.prepare(context.WithoutCancel(ctx), s); err != nil {
		return nil, errors.Join(fmt.Errorf("make site %s: %w", ns, err), s.Close())
	}
	return s, nil
}

func (c *Cluster) prepare(ctx context.Context, s *Site) error {
	if err := os.MkdirAll(s.Bootstrap(""), 0o750); err != nil {
		return err
	}
	if err := c.S3.CreateBucket(ctx, s.Bucket); err != nil {
		return err
	}
	var ports []int
	for _, api := range c.APIs {
		ports = append(ports, api.Port)
	}
	if err := s.openPaths(ctx, ports...); err != nil {
		return err
	}
	if err := c.bootstrap(ctx, s); err != nil {
		return err
	}
	return s.writeStorage()
}

// bootstrap saves what a device is delivered with, from the Secrets.
func (c *Cluster) bootstrap(ctx context.Context, s *Site) error {
	var ca corev1.Secret
	if err := c.Kube.Get(ctx, "/api/v1/namespaces/"+controlNamespace+"/secrets/flotta-ca", &ca); err != nil {
		return err
	}
	var registers corev1.SecretList
	if err := c.Kube.Get(ctx, "/api/v1/namespaces/"+controlNamespace+"/secrets?labelSelector=reg-client-ca%3Dtrue", &registers); err != nil {
		return err
	}
	if len(registers.Items) != 1 {
		return fmt.Errorf("there are %d register secrets, want 1", len(registers.Items))
	}
	client := slices.Concat(registers.Items[0].Data["client.crt"], registers.Items[0].Data["client.key"])
	return errors.Join(
		os.WriteFile(s.Bootstrap("ca.pem"), ca.Data["ca.crt"], 0o600),
		os.WriteFile(s.Bootstrap("client.pem"), client, 0o600),
	)
}

// kubectl is the way of a cluster's administrator, in one namespace.
type kubectl struct {
	kube      *testenv.Kube
	namespace string
	manifests map[string]string // by name, as applied last
}

func (k *kubectl) write(name, text string) error {
	_, err := k.kube.Kubectl(context.Background(), text, "apply", "-n", k.namespace, "-f", "-")
	if err == nil {
		k.manifests[name] = text
	}
	return err
}

func (k *kubectl) remove(name string) error {
	_, err := k.kube.Kubectl(context.Background(), k.manifests[name], "delete", "-n", k.namespace, "--wait=false", "-f", "-")
	return err
}

func (k *kubectl) approve(ctx context.Context, id string) error {
	_, err := k.kube.Kubectl(ctx, "", "patch", "edsr", id, "--type=merge", "-p", `{"spec":{"approved":true}}`)
	return err
}

func (k *kubectl) decline(ctx context.Context, id string) error {
	_, err := k.kube.Kubectl(ctx, "", "annotate", "edsr", id, v1alpha1.Group+"/declined=true")
	return err
}

func (k *kubectl) delete(ctx context.Context, id string) error {
	_, err := k.kube.Kubectl(ctx, "", "delete", "edgedevice", "-n", k.namespace, id)
	return err
}

func (k *kubectl) path(namespace, plural, name string) string {
	return "/apis/" + v1alpha1.APIVersion + "/namespaces/" + namespace + "/" + plural + "/" + name
}

func (k *kubectl) device(id string) (v1alpha1.EdgeDevice, error) {
	var d v1alpha1.EdgeDevice
	err := k.kube.Get(context.Background(), k.path(k.namespace, "edgedevices", id), &d)
	return d, err
}

func (k *kubectl) events(id string) string {
	var list corev1.EventList
	err := k.kube.Get(context.Background(), "/api/v1/namespaces/"+k.namespace+"/events?fieldSelector=involvedObject.name%3D"+id, &list)
	if err != nil {
		return err.Error()
	}
	var text strings.Builder
	for _, e := range list.Items {
		fmt.Fprintf(&text, "%s %s: %s\n", e.Type, e.Reason, e.Message)
	}
	return text.String()
}

func (k *kubectl) requested(id string) bool {
	var r v1alpha1.EdgeDeviceSignedRequest
	return k.kube.Get(context.Background(), k.path(v1alpha1.DefaultNamespace, "edgedevicesignedrequest", id), &r) == nil
}
