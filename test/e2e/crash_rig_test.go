//go:build device

package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/test/site"
	"github.com/project-flotta/flotta-agent/test/testenv"
)

// crashFile tells an agent with points of failure where to end. The points that
// it passes are listed beside.
const (
	crashFile  = "/run/flotta-crash"
	passedFile = crashFile + ".passed"
)

// newFaulty returns a rig whose agent can be killed at any of its steps.
func newFaulty(t *testing.T) *rig {
	t.Helper()
	return newRig(t, site.EdgeConfig{Agent: faultyAgent(t), WorkerEnv: []string{"FLOTTA_TEST_CRASH_FILE=" + crashFile}})
}

// crashAt makes the agent kill itself at the point.
func (r *rig) crashAt(point string) {
	r.Helper()
	must(r.T, r.edge.WriteFile(crashFile, []byte(point+":1"), 0o600))
}

// crashed waits until it has.
func (r *rig) crashed(point string) {
	r.Helper()
	r.until("the agent was killed at "+point, func() error {
		if _, err := os.Stat(r.edge.Path(crashFile)); err == nil {
			return errors.New("it has not been there")
		}
		return nil
	})
}

// restartService brings the agent back at once. yggd waits longer each time before
// it starts a worker that died young.
func (r *rig) restartService() {
	r.Helper()
	_, err := r.edge.Run(r.ctx, "systemctl", "restart", r.edge.Service())
	must(r.T, err)
}

// record empties the list of the points that the agent has passed.
func (r *rig) record() {
	r.Helper()
	must(r.T, r.edge.WriteFile(passedFile, nil, 0o600))
}

// passed returns that list, each point once, in order.
func (r *rig) passed() []string {
	r.Helper()
	raw, err := r.edge.ReadFile(passedFile)
	must(r.T, err)
	var points []string
	for point := range strings.FieldsSeq(string(raw)) {
		if !slices.Contains(points, point) {
			points = append(points, point)
		}
	}
	return points
}

// sourcePoints returns the points that the source of the workload engine has.
func sourcePoints(t *testing.T) []string {
	t.Helper()
	root, err := testenv.Root()
	must(t, err)
	files, err := filepath.Glob(filepath.Join(root, "internal/workload/*.go"))
	must(t, err)
	call := regexp.MustCompile(`\.step\("([^"]+)"\)`)
	var points []string
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		raw, err := os.ReadFile(file)
		must(t, err)
		for _, m := range call.FindAllStringSubmatch(string(raw), -1) {
			points = append(points, m[1])
		}
	}
	if len(points) == 0 {
		t.Fatal("the source has no points of failure: this test shows nothing")
	}
	slices.Sort(points)
	return slices.Compact(points)
}

// inForce returns nil when the manifest that the unit plays is one that was seen
// to run and has the text in it.
func (r *rig) inForce(workload, text string) error {
	dir := filepath.Join(stateDir, "workloads", workload)
	manifest, err := r.edge.ReadFile(filepath.Join(dir, "manifest.yaml"))
	if err != nil {
		return err
	}
	applied, err := r.edge.ReadFile(filepath.Join(dir, "applied.json"))
	if err != nil {
		return err
	}
	sum := sha256.Sum256(manifest)
	switch {
	case !strings.Contains(string(manifest), text):
		return fmt.Errorf("the manifest in force lacks %q", text)
	case !strings.Contains(string(applied), hex.EncodeToString(sum[:])):
		return errors.New("the manifest in force is not proven")
	}
	return nil
}

// statusOf returns what the Edge API knows of a workload.
func (r *rig) statusOf(workload string) (v1alpha1.WorkloadStatus, error) {
	d, err := r.site.Device(r.edge.ID())
	if err != nil {
		return v1alpha1.WorkloadStatus{}, err
	}
	for _, w := range d.Status.Workloads {
		if w.Name == workload {
			return w, nil
		}
	}
	return v1alpha1.WorkloadStatus{}, fmt.Errorf("nothing is reported of %s", workload)
}

// complains returns nil when the workload is reported not to be as wanted, with
// all of those words.
func (r *rig) complains(workload string, words ...string) error {
	w, err := r.statusOf(workload)
	if err != nil {
		return err
	}
	said := w.Reason + ": " + w.Message
	if w.Reason == "" {
		return fmt.Errorf("%s is reported %s, with no reason", workload, w.Phase)
	}
	for _, word := range words {
		if !strings.Contains(said, word) {
			return fmt.Errorf("%s is reported %s, %q, which lacks %q", workload, w.Phase, said, word)
		}
	}
	return nil
}

// pods returns the ids of all containers of the device, by pod and name.
func (r *rig) pods() (map[string]map[string]string, error) {
	out, err := r.edge.Podman(r.ctx, "ps", "--all", "--pod", "--no-trunc", "--format", "json")
	if err != nil {
		return nil, err
	}
	var all []struct {
		ID      string `json:"Id"`
		Names   []string
		PodName string
		Labels  map[string]string
	}
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		return nil, fmt.Errorf("decode containers: %w", err)
	}
	pods := map[string]map[string]string{}
	for _, c := range all {
		if pods[c.PodName] == nil {
			pods[c.PodName] = map[string]string{}
		}
		pods[c.PodName][strings.Join(c.Names, ",")] = c.ID
	}
	return pods, nil
}

// nothingDoubled returns nil when each workload has its pod with its parts, and
// there is nothing else on the device.
func (r *rig) nothingDoubled(workloads ...string) error {
	pods, err := r.pods()
	if err != nil {
		return err
	}
	services := len(pods[""]) // a service container belongs to no pod
	delete(pods, "")
	var names []string
	for name, containers := range pods {
		names = append(names, name)
		if len(containers) != 2 {
			return fmt.Errorf("pod %s has the containers %v, want its own and that of the pod", name, containers)
		}
	}
	slices.Sort(names)
	slices.Sort(workloads)
	if !slices.Equal(names, workloads) || services != len(workloads) {
		return fmt.Errorf("there are the pods %v and %d service containers, want %v", names, services, workloads)
	}
	units, err := r.edge.UserUnit(r.ctx, "list-units", "--plain", "--no-legend", "--state=active", "flotta-workload@*")
	if err != nil {
		return err
	}
	if n := strings.Count(units, ".service "); n != len(workloads) {
		return fmt.Errorf("%d units are active, want %d: %s", n, len(workloads), units)
	}
	return nil
}

// nothingLeft returns nil when there is nothing of a workload but its volume.
func (r *rig) nothingLeft(workload string) error {
	pods, err := r.pods()
	if err != nil {
		return err
	}
	if pods[workload] != nil {
		return fmt.Errorf("its pod is there: %v", pods[workload])
	}
	for name := range pods[""] {
		if strings.Contains(name, workload) {
			return fmt.Errorf("container %s is there", name)
		}
	}
	if _, err := os.Lstat(r.edge.Path(filepath.Join(stateDir, "workloads", workload))); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("its folder is there: %w", err)
	}
	if state, _ := r.edge.UserUnit(r.ctx, "is-enabled", "flotta-workload@"+workload+".service"); state == "enabled" {
		return errors.New("its unit is enabled")
	}
	return nil
}

// forgotten returns nil when there is nothing of a workload but its volume, and
// nothing is reported of it.
func (r *rig) forgotten(workload string) error {
	if w, err := r.statusOf(workload); err == nil {
		return fmt.Errorf("it is reported %s", w.Phase)
	}
	return r.nothingLeft(workload)
}

// untouched returns a function that fails the test when the pod of one of the
// workloads has other containers than now.
func (r *rig) untouched(workloads ...string) (check func(after string)) {
	r.Helper()
	before, err := r.pods()
	must(r.T, err)
	return func(after string) {
		r.Helper()
		now, err := r.pods()
		must(r.T, err)
		for _, w := range workloads {
			if before[w] == nil {
				r.Fatalf("workload %s had no pod", w)
			}
			if diff := cmp.Diff(before[w], now[w]); diff != "" {
				r.Errorf("%s: workload %s was not to change and has other containers (-before +now):\n%s", after, w, diff)
			}
		}
	}
}

// ask returns what the test program answers through a port of the device.
func (r *rig) ask(port, path string) (string, error) {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(r.ctx, http.MethodGet, "http://"+r.edge.Addr()+":"+port+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("answer is %s", resp.Status)
	}
	return string(body), err
}

// serves returns nil when that round of a workload is in force, proven, and can
// be seen from outside.
func (r *rig) serves(workload, port, round string) error {
	if err := r.inForce(workload, round); err != nil {
		return err
	}
	got, err := r.ask(port, "/env?name=ROUND")
	if err == nil && got != round {
		err = fmt.Errorf("round %q answers, want %q", got, round)
	}
	return err
}
