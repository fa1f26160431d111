//go:build device

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/device"
)

// quickSync makes the agent look for drift every few seconds, and take a change
// for good after one.
const quickSync = `log-level = "debug"
[runtime]
resync = "3s"
settle = "1s"
[sync]
interval = "1h"
[identity]
retry = "1s"
`

// outage is a time in which a workload did not answer.
type outage struct {
	from, to time.Time
}

// watcher asks a workload for its round all the time.
type watcher struct {
	mu      sync.Mutex
	outages []outage
	last    time.Time // of an answer
}

// watch asks every 20 ms, until the test ends, what a workload answers at that
// port.
func (r *rig) watch(t *testing.T, port string) *watcher {
	t.Helper()
	w := &watcher{last: time.Now()}
	ctx, cancel := context.WithCancel(r.ctx)
	var asking sync.WaitGroup
	t.Cleanup(func() { cancel(); asking.Wait() })
	mine := *r
	mine.ctx = ctx
	asking.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		down := false
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			_, err := mine.ask(port, "/env?name=ROUND")
			now := time.Now()
			w.mu.Lock()
			if err == nil {
				if down {
					w.outages = append(w.outages, outage{w.last, now})
				}
				w.last = now
			}
			down = err != nil
			w.mu.Unlock()
		}
	})
	return w
}

// String returns how long the workload did not answer, each time.
func (w *watcher) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []string
	for _, o := range w.outages {
		all = append(all, o.to.Sub(o.from).Round(10*time.Millisecond).String())
	}
	return fmt.Sprintf("%d outages %v", len(all), all)
}

// pauses returns how long the agent said that it would wait after each failure of
// a workload, those of one manifest only: since the last first one.
func (r *rig) pauses(workload string) ([]time.Duration, error) {
	out, err := r.edge.Run(r.ctx, "journalctl", "--no-pager", "--quiet", "--output=json", "--output-fields=MESSAGE", "--unit="+r.edge.Service())
	if err != nil {
		return nil, err
	}
	failure := regexp.MustCompile(`workload=` + regexp.QuoteMeta(workload) + ` .*failures=(\d+) pause=(\S+) `)
	var pauses []time.Duration
	for line := range strings.Lines(out.Stdout) {
		var e struct {
			Message json.RawMessage `json:"MESSAGE"`
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			return nil, fmt.Errorf("decode line of the journal: %w", err)
		}
		m := failure.FindStringSubmatch(string(e.Message))
		if m == nil {
			continue
		}
		if m[1] == "1" {
			pauses = nil
		}
		pause, err := time.ParseDuration(m[2])
		if err != nil {
			return nil, fmt.Errorf("read pause: %w", err)
		}
		pauses = append(pauses, pause)
	}
	return pauses, nil
}

// apiCalls returns how many requests Podman's service has answered so far, by
// its own log.
func (r *rig) apiCalls() (n int) {
	r.Helper()
	r.until("Podman's log is read", func() error {
		out, err := r.edge.Run(r.ctx, "journalctl", "--no-pager", "--quiet", "--output=cat", "_SYSTEMD_USER_UNIT=podman.service")
		n = strings.Count(out.Stdout, "HTTP/1.1")
		return err
	})
	return n
}

// userCommand runs a command as the user of the workloads.
func (r *rig) userCommand(args ...string) {
	r.Helper()
	_, err := r.edge.RunAs(r.ctx, device.User, args...)
	must(r.T, err)
}
