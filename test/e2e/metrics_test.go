//go:build device

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/device"
	"github.com/project-flotta/flotta-agent/test/site"
	"github.com/project-flotta/flotta-agent/test/testenv"
)

// TestMetricsReachPrometheus scrapes a pod that publishes no port, the node
// exporter and the agent itself, through an outage in which the agent is killed.
func TestMetricsReachPrometheus(t *testing.T) {
	t.Parallel()
	r := newRig(t, site.EdgeConfig{})
	p := startPrometheus(r)
	r.device("", fmt.Sprintf(`  metrics:
    system: {interval: 1}
    receiverConfiguration: {url: "http://%s:%d/api/v1/write", timeoutSeconds: 5}
`, site.S3Name, p.path.Port()))
	r.save("w.yaml", fmt.Sprintf(`apiVersion: management.project-flotta.io/v1alpha1
kind: EdgeWorkload
metadata: {name: meter}
spec:
  type: pod
  device: %q
  metrics: {port: 8080, path: "/file?path=m", interval: 1}
  pod:
    spec:
      containers:
      - {name: count, image: %[2]s, args: [write, /export/m, "meter_total {n}", 100ms]}
      - {name: web, image: %[2]s, args: [serve, "8080"], ports: [{containerPort: 8080}]}
`, r.edge.ID(), imageV1))
	r.running("meter", "web")
	labels := fmt.Sprintf(`{edgedeviceid=%q}`, r.edge.ID())
	counted := fmt.Sprintf(`meter_total{edgedeviceid=%q,workload="meter",container="web"}`, r.edge.ID())
	for _, series := range []string{counted, "node_memory_MemTotal_bytes" + labels, "flotta_agent_info" + labels} {
		r.until(series+" arrives", func() error { return p.has(series) })
	}

	p.path.Cut()
	began := time.Now()
	lasts := func(d time.Duration) error {
		if left := time.Until(began.Add(d)); left > 0 {
			return fmt.Errorf("the outage is to go on for %s", left.Round(time.Second))
		}
		return nil
	}
	r.until("some is measured in the outage", func() error { return lasts(8 * time.Second) })
	r.run("systemctl", "kill", "--signal=KILL", "--kill-whom=all", r.edge.Service()) // and the agent with it
	r.restartService()
	r.until("the agent is back", func() error { return lasts(20 * time.Second) })
	p.path.Mend()
	mended := time.Now()

	r.until("what was measured in the outage arrives", func() error { return p.fresh(counted, mended) })
	for s := range 7 { // until the agent was killed
		at := began.Add(time.Duration(s) * time.Second)
		if err := p.at(counted, at); err != nil {
			t.Errorf("%d s after the beginning of the outage: %v", s, err)
		}
	}
}

// prometheus is a receiver that a device reaches by way of path.
type prometheus struct {
	address string
	path    *device.Proxy
}

func startPrometheus(r *rig) *prometheus {
	r.Helper()
	port, err := testenv.FreePort("127.0.0.1")
	must(r.T, err)
	p := &prometheus{address: fmt.Sprintf("127.0.0.1:%d", port)}
	dir := r.TempDir()
	must(r.T, os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte("global: {}\n"), 0o600))
	log, err := os.Create(filepath.Join(dir, "log"))
	must(r.T, err)
	cmd := exec.Command("prometheus", "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+p.address, "--web.enable-remote-write-receiver")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(r.T, cmd.Start())
	r.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if text, _ := os.ReadFile(log.Name()); r.Failed() {
			r.Logf("prometheus says:\n%s", lastLines(string(text), 30))
		}
		_ = log.Close()
	})
	p.path, err = device.StartProxy(r.ctx, "0.0.0.0:0", p.address)
	must(r.T, err)
	r.Cleanup(p.path.Close)
	return p
}

// ask returns the values of all series of an instant query, with their times.
func (p *prometheus) ask(query string, at time.Time) (values [][2]any, err error) {
	resp, err := http.PostForm("http://"+p.address+"/api/v1/query", url.Values{"query": {query}, "time": {fmt.Sprintf("%.3f", float64(at.UnixMilli())/1000)}})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var answer struct {
		Error string
		Data  struct {
			Result []struct{ Value [2]any }
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Error != "" {
		return nil, fmt.Errorf("ask prometheus: %s: %w", answer.Error, err)
	}
	for _, r := range answer.Data.Result {
		values = append(values, r.Value)
	}
	return values, nil
}

// has says whether there is a sample that is not older than two intervals of
// what is read once a minute.
func (p *prometheus) has(series string) error { return p.within(series, "2m", time.Now()) }

// at says whether there is a sample of the last 4 seconds before an instant.
func (p *prometheus) at(series string, at time.Time) error { return p.within(series, "4s", at) }

func (p *prometheus) within(series, span string, at time.Time) error {
	values, err := p.ask("count_over_time("+series+"["+span+"])", at)
	if err == nil && len(values) != 1 {
		err = fmt.Errorf("there are %d series of that time", len(values))
	}
	return err
}

// fresh says whether there are samples that were taken after an instant.
func (p *prometheus) fresh(series string, after time.Time) error {
	values, err := p.ask("timestamp("+series+")", time.Now())
	if err != nil {
		return err
	}
	for _, v := range values {
		var seconds float64
		if _, err := fmt.Sscan(fmt.Sprint(v[1]), &seconds); err == nil && seconds > float64(after.Unix()) {
			return nil
		}
	}
	return fmt.Errorf("none of %d series is that new", len(values))
}
