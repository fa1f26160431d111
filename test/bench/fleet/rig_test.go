//go:build bench

package fleet_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/pki"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
	"github.com/project-flotta/flotta-agent/test/bench/fleet"
	"github.com/project-flotta/flotta-agent/test/testenv"
)

// namespace is where all devices are.
const namespace = "default"

// rig is an Edge API with what it needs, and the devices that work with it.
type rig struct {
	*testing.T
	settings settings
	root     string
	binary   string
	dir      string

	target    fleet.Target
	register  tls.Certificate
	authority *pki.Authority
	apis      []*api
	others    []fleet.Process
	requests  []requests

	env      []string      // of the Edge API
	kube     *testenv.Kube // nil with the file backend
	operator *testenv.Operator
	seed     func([]*fleet.Device)

	configurationBytes int
	profiles           int
}

// api is one replica.
type api struct {
	*testenv.EdgeAPI
	process fleet.Process
	metrics string // address
}

func newRig(t *testing.T, s settings, figures *report) *rig {
	root, err := testenv.Root()
	must(t, err)
	r := &rig{T: t, settings: s, root: root}
	r.target = fleet.Target{ServerName: "localhost", Protocol: fleet.Protocol(s.http)}
	if r.binary = r.program("flotta-edge-api"); s.profile != "" {
		r.binary = r.profiledBinary()
	}
	r.dir = t.TempDir() // before the cleanup, because it is removed after what is registered later
	t.Cleanup(r.stopAPIs)
	switch s.backend {
	case "file":
		r.openFile()
	case "crd":
		r.openCluster(figures)
	default:
		t.Fatalf("FLEET_BACKEND=%q is neither crd nor file", s.backend)
	}
	return r
}

// program returns the path of a built program: in bin/, or in the folder that
// FLOTTA_BIN names.
func (r *rig) program(name string) string {
	if dir := os.Getenv("FLOTTA_BIN"); dir != "" {
		return filepath.Join(dir, name)
	}
	return filepath.Join(r.root, "bin", name)
}

// manifest is what the devices are to run: small workloads, as one finds them,
// for everything that reports this manufacturer.
func (r *rig) manifest() string {
	var text strings.Builder
	for _, name := range workloads {
		fmt.Fprintf(&text, `---
apiVersion: management.project-flotta.io/v1alpha1
kind: EdgeWorkload
metadata: {name: %s, namespace: %s}
spec:
  type: pod
  deviceSelector: {matchLabels: {device.system-manufacturer: acme}}
  data: {egress: [{source: out, target: %[1]s}]}
  pod:
    spec:
      containers:
      - name: app
        image: quay.io/project-flotta/nginx:1.21.6
        ports: [{containerPort: 8080, hostPort: 9090}]
        env: [{name: LEVEL, value: info}, {name: REGION, value: north}]
        resources: {limits: {memory: 64Mi}}
`, name, namespace)
	}
	return text.String()
}

// hardware is that of a small device; only the host name differs.
func (r *rig) hardware(id string) *protocol.HardwareInfo {
	r.Helper()
	raw, err := os.ReadFile(filepath.Join(r.root, "pkg/protocol/testdata/heartbeat.json"))
	must(r.T, err)
	var report protocol.Heartbeat
	must(r.T, json.Unmarshal(raw, &report))
	report.Hardware.Hostname = id
	return report.Hardware
}

// trust takes over the server's authority and the register certificate.
func (r *rig) trust(caPEM, caKey, cert, key []byte) {
	r.Helper()
	var err error
	r.target.Roots = x509.NewCertPool()
	r.target.Roots.AppendCertsFromPEM(caPEM)
	r.register, err = tls.X509KeyPair(cert, key)
	must(r.T, err)
	r.authority, err = pki.ParseAuthority(caPEM, caKey)
	must(r.T, err)
}

// startAPI starts one more replica.
func (r *rig) startAPI(dir string, env ...string) {
	r.Helper()
	port, err := testenv.FreePort("127.0.0.1")
	must(r.T, err)
	a := &api{metrics: "127.0.0.1:" + strconv.Itoa(port)}
	a.EdgeAPI, err = testenv.StartEdgeAPI(context.WithoutCancel(r.Context()), testenv.EdgeAPIConfig{
		Binary: r.binary, Dir: dir, AutoApprove: true,
		Env: append(append([]string{"LOG_LEVEL=info", "METRICS_ADDR=" + a.metrics, "FLEET_PROFILE=" + r.settings.profile}, r.env...), env...),
	})
	must(r.T, err)
	r.apis = append(r.apis, a)
	a.process, err = fleet.FindChild("edge-api", "HTTPS_PORT="+strconv.Itoa(a.Port))
	must(r.T, err)
	r.target.Addresses = append(r.target.Addresses, "127.0.0.1:"+strconv.Itoa(a.Port))
	must(r.T, r.until(time.Minute, func() error { _, err := a.scrape(r.Context(), "/readyz"); return err }))
}

func (r *rig) stopAPIs() {
	for _, a := range r.apis {
		a.Stop()
	}
	r.apis, r.target.Addresses = nil, nil
}

// restart replaces the replicas by so many new ones, and connects the devices.
func (r *rig) restart(count int, env ...string) {
	r.Helper()
	for _, q := range r.requests {
		q.device.Close()
	}
	r.stopAPIs()
	for range count {
		r.startAPI(r.TempDir(), env...)
	}
	_, err := fleet.Each(r.Context(), len(r.requests), r.settings.workers, func(number, _ int) error {
		return r.requests[number].device.Connect(r.Context(), r.target)
	})
	must(r.T, err)
}

func (r *rig) until(limit time.Duration, ready func() error) error {
	for deadline := time.Now().Add(limit); ; time.Sleep(50 * time.Millisecond) {
		err := ready()
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// scrape reads a page of the replica's own.
func (a *api) scrape(ctx context.Context, path string) ([]byte, error) {
	return testenv.Fetch(ctx, http.DefaultClient, "http://"+a.metrics+path, "")
}

// metric adds up the series of a page that a filter takes: those whose line
// starts with a name and holds all of the words.
func metric(page []byte, take func(line string) bool) (sum float64) {
	for line := range bytes.Lines(page) {
		text := strings.TrimSpace(string(line))
		if cut := strings.LastIndexByte(text, ' '); cut > 0 && text[0] != '#' && take(text[:cut]) {
			v, err := strconv.ParseFloat(text[cut+1:], 64)
			if err == nil {
				sum += v
			}
		}
	}
	return sum
}
