//go:build device

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/project-flotta/flotta-agent/test/site"
)

// sharedCluster is the one cluster of all tests: it takes seconds to start and
// 400 MB, and every test has a namespace, a bucket and devices of its own.
type sharedCluster struct {
	start   sync.Once
	cluster *site.Cluster
	dir     string
	err     error
}

var shared sharedCluster

// maxSites is more than there are tests.
const maxSites = 24

func TestMain(m *testing.M) {
	code := m.Run()
	if err := shared.close(code != 0); err != nil {
		fmt.Fprintln(os.Stderr, "close cluster:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func (c *sharedCluster) open() {
	if c.dir, c.err = os.MkdirTemp("", "flotta-cluster-"); c.err != nil {
		return
	}
	log, err := os.Create(filepath.Join(c.dir, "servers.log"))
	if err != nil {
		c.err = err
		return
	}
	c.cluster, c.err = site.StartCluster(context.Background(), site.ClusterConfig{
		Dir: c.dir, Log: log, Replicas: 2, Manual: true, Namespaces: maxSites,
	})
}

func (c *sharedCluster) close(failed bool) error {
	if c.dir == "" {
		return nil
	}
	var err error
	if c.cluster != nil {
		err = c.cluster.Close()
	}
	if failed {
		raw, _ := os.ReadFile(filepath.Join(c.dir, "servers.log"))
		fmt.Fprintf(os.Stderr, "cluster:\n%s\n", lastLines(withoutNoise(string(raw)), 150))
	}
	return errors.Join(err, os.RemoveAll(c.dir))
}

// withoutNoise leaves out the answers that nothing is wrong with.
func withoutNoise(log string) string {
	var kept strings.Builder
	for line := range strings.Lines(log) {
		if !strings.Contains(line, "level=DEBUG msg=request ") {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

func kubeCluster(t *testing.T) *site.Cluster {
	t.Helper()
	shared.start.Do(shared.open)
	must(t, shared.err)
	return shared.cluster
}

func newKubeSite(t *testing.T) *site.Site {
	t.Helper()
	s, err := kubeCluster(t).NewSite(t.Context())
	must(t, err)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close site: %v", err)
		}
	})
	return s
}

// newKubeRig returns a site of the cluster with one registered device.
func newKubeRig(t *testing.T, cfg site.EdgeConfig) *rig {
	t.Helper()
	s := newKubeSite(t)
	e := newEdge(t, s, cfg)
	must(t, e.Enrol(t.Context()))
	r := &rig{T: t, ctx: t.Context(), site: s, edge: e}
	r.device("", "")
	return r
}

// kubectl runs kubectl in the rig's namespace.
func (r *rig) kubectl(args ...string) string {
	r.Helper()
	out, err := shared.cluster.Kube.Kubectl(r.ctx, "", append([]string{"-n", r.site.Namespace}, args...)...)
	must(r.T, err)
	return strings.TrimSpace(out)
}

// says waits until kubectl prints that.
func (r *rig) says(want string, args ...string) {
	r.Helper()
	r.until("kubectl "+strings.Join(args, " ")+" prints "+want, func() error {
		out, err := shared.cluster.Kube.Kubectl(r.ctx, "", append([]string{"-n", r.site.Namespace}, args...)...)
		if err == nil && strings.TrimSpace(out) != want {
			err = fmt.Errorf("it prints %q", out)
		}
		return err
	})
}
