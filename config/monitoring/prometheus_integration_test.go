//go:build integration

package monitoring

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/console"
	"github.com/project-flotta/flotta-agent/test/testenv"
)

func TestRulesAsPromtoolSeesThem(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"check", "rules", "alerts.yaml"}, {"test", "rules", "alerts_test.yaml"}} {
		if out, err := exec.CommandContext(t.Context(), "promtool", args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %v (of the Debian package prometheus): %v\n%s", args, err, out)
		}
	}
	tests, err := os.ReadFile("alerts_test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for where := range expressions(t) {
		name, isAlert := strings.CutPrefix(where, "alerts.yaml: ")
		if isAlert && strings.Count(string(tests), "alertname: "+name+"\n") == 0 {
			t.Errorf("no test has %s fire", name)
		}
	}
}

// device is one at which something is wrong with everything.
func device() console.Document {
	now := time.Now()
	return console.Document{
		Version: "1.2.3", Started: now.Add(-time.Hour), Problems: []string{"one"},
		Device: console.Device{
			ID: "edge-7", Phase: console.PhaseManaged, Certificate: &console.Certificate{Expires: now.Add(72 * time.Hour)},
		},
		Connection: console.Connection{LastContact: now.Add(-time.Minute), LastAttempt: now},
		Workloads:  []console.Workload{{Name: "web", Phase: "Error", Reason: "ImagePullFailed", Since: now}},
		DataSync: []console.DataSync{{Workload: "web", Egress: &console.DataDirection{
			Failed: 1, Pending: 3, PendingBytes: 100, Bytes: now.Unix(), Blocked: "disk is full", LastSuccess: now.Add(-time.Hour),
			Problems: []console.DataProblem{{Reason: "NameCollision"}},
		}}},
		Queues:  []console.Queue{{Name: "metrics", Waiting: 3, Bytes: 900, Limit: 1000, Dropped: console.Dropped{Size: uint64(now.Unix())}}},
		Storage: []console.Storage{{Name: "state", Total: 1000, Free: 10}},
	}
}

// prometheus runs a server with the rules that collects from the target.
func prometheus(t *testing.T, target string) (base string) {
	t.Helper()
	dir := t.TempDir()
	rules, err := filepath.Abs("alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf("global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [%q]\nscrape_configs:\n- job_name: device\n  static_configs: [{targets: [%q], labels: {edgedeviceid: edge-7}}]\n", rules, target)
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	port, err := testenv.FreePort("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("prometheus", "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+address)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start prometheus of the Debian package: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		_ = log.Close()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("prometheus:\n%s", text)
		}
	})
	return "http://" + address
}

// ask returns what Prometheus answers, and false as long as it does not.
func ask(ctx context.Context, target string, into any) (status int, ok bool) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return 0, false
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, false
	}
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode == http.StatusServiceUnavailable {
		return 0, false
	}
	return response.StatusCode, json.Unmarshal(raw, into) == nil
}

// ofAgent are expressions that the metrics of one agent answer.
var ofAgent = regexp.MustCompile(`flotta_(agent|workload|queue|storage|datasync)_`)

// A running Prometheus loads the rules, reads what an agent exposes, and answers
// every expression of the dashboards, with something where an agent has it.
func TestARunningPrometheus(t *testing.T) {
	t.Parallel()
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", console.MetricsType)
		_, _ = w.Write(console.Metrics(device()))
	}))
	t.Cleanup(agent.Close)
	base := prometheus(t, strings.TrimPrefix(agent.URL, "http://"))
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	for where, expr := range expressions(t) {
		// What is compared with a threshold in the past, or missing, is empty here.
		empty := !ofAgent.MatchString(expr) || strings.HasSuffix(where, "FlottaDeviceSilent") || strings.HasSuffix(where, "FlottaSyncBehind") ||
			strings.HasSuffix(where, "FlottaWorkloadRestarting")
		for {
			var answer struct {
				Status, Error string
				Data          struct{ Result []json.RawMessage }
			}
			status, ok := ask(ctx, base+"/api/v1/query?"+url.Values{"query": {expr}}.Encode(), &answer)
			if ok && (status != http.StatusOK || answer.Status != "success") {
				t.Errorf("%s: %s: %s", where, expr, answer.Error)
				break
			}
			if ok && (empty || len(answer.Data.Result) > 0) {
				break
			}
			if ctx.Err() != nil {
				t.Fatalf("%s: %s has no answer", where, expr)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	var rules struct {
		Data struct {
			Groups []struct {
				Rules []struct{ Name, Health, LastError, State string }
			}
		}
	}
	want := map[string]string{"FlottaCertificateExpiring": "firing", "FlottaQueueDropping": "firing", "FlottaWorkloadFailing": "pending", "FlottaDeviceSilent": "inactive"}
	for ok := false; !ok; time.Sleep(100 * time.Millisecond) {
		if ctx.Err() != nil {
			t.Fatalf("rules: %+v", rules)
		}
		_, ok = ask(ctx, base+"/api/v1/rules", &rules)
		n := 0
		for _, g := range rules.Data.Groups {
			for _, r := range g.Rules {
				n++
				state, known := want[r.Name]
				ok = ok && r.Health == "ok" && (!known || state == r.State)
			}
		}
		ok = ok && n >= 13
	}
}
