//go:build bench

package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/testenv"
)

// Aims. The device worker of flotta v0.2 has 50.3 MB and 54.6 MB.
const (
	maxBinary   = 25_000_000
	maxResident = 30_000_000
)

func TestFootprint(t *testing.T) {
	root, err := testenv.Root()
	must(t, err)
	info, err := os.Stat(filepath.Join(root, "bin", "flotta-agent"))
	must(t, err)
	t.Logf("binary, stripped              %6.1f MB (aim: at most %.0f)", float64(info.Size())/1e6, maxBinary/1e6)
	if info.Size() > maxBinary {
		t.Errorf("the binary is larger than the aim")
	}
	s, e := newEdge(t, "log-level = \"info\"\n") // defaults, as users have them
	for _, n := range []int{1, 10} {
		for i := range n {
			save(t, s, e, fmt.Sprintf("load-%d", i), 1)
		}
		for i := range n {
			running(t, e, fmt.Sprintf("load-%d", i), 1)
		}
		time.Sleep(time.Minute) // idle, through at least one resync
		rss, pss := resident(t, agentPID(t, e))
		t.Logf("resident, %2d workloads, idle   %6.1f MB, of it %.1f MB its own share (aim: at most %.0f)", n, rss/1e6, pss/1e6, maxResident/1e6)
		if rss > maxResident {
			t.Errorf("with %d workloads the agent is larger than the aim", n)
		}
	}
}

func resident(t *testing.T, pid string) (rss, pss float64) {
	t.Helper()
	raw, err := os.ReadFile("/proc/" + pid + "/smaps_rollup")
	must(t, err)
	for line := range strings.Lines(string(raw)) {
		var kB float64
		if _, err := fmt.Sscanf(line, "Rss: %f kB", &kB); err == nil {
			rss = kB * 1024
		}
		if _, err := fmt.Sscanf(line, "Pss: %f kB", &kB); err == nil {
			pss = kB * 1024
		}
	}
	return rss, pss
}
