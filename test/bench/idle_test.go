//go:build bench

package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/site"
)

// TestPollWithoutChangeIsFree looks at the agent's system calls while yggd polls
// and nothing changes: it must hear of the polls and call nobody.
func TestPollWithoutChangeIsFree(t *testing.T) {
	s, e := newEdge(t, "log-level = \"info\"\n[runtime]\nresync = \"1h\"\n[sync]\ninterval = \"1h\"\n")
	save(t, s, e, "quiet", 1)
	running(t, e, "quiet", 1)
	time.Sleep(20 * time.Second) // applied, settled and reported
	calls := trace(t, e, s.S3Path.Port(), 30*time.Second)
	t.Logf("in 30 s of polls without a change: %+v", calls)
	if calls.yggd == 0 {
		t.Error("no poll was seen, so this proves nothing")
	}
	if calls.podman+calls.systemd+calls.s3+calls.other != 0 {
		t.Errorf("a poll without a change called somebody: %+v", calls)
	}
}

// TestIdleCost reports what the agent does by itself with default settings.
func TestIdleCost(t *testing.T) {
	s, e := newEdge(t, "log-level = \"info\"\n")
	save(t, s, e, "quiet", 1)
	running(t, e, "quiet", 1)
	time.Sleep(40 * time.Second)
	calls := trace(t, e, s.S3Path.Port(), time.Minute)
	t.Logf("in a minute with defaults and one workload with egress: %+v", calls)
	if calls.s3 != 0 {
		t.Errorf("an idle egress cycle made %d requests to S3", calls.s3)
	}
}

// calls counts what was written, by who it was to. yggd's calls of the agent and
// the agent's of yggd count as one; other is nobody we know.
type calls struct{ yggd, podman, systemd, s3, other int }

func (c *calls) add(peer string) {
	switch {
	case strings.Contains(peer, "@ygg"):
		c.yggd++
	case strings.Contains(peer, "podman.sock"):
		c.podman++
	case strings.Contains(peer, "systemd/private"), strings.Contains(peer, "/bus"):
		c.systemd++
	default:
		c.other++
	}
}

var (
	unixSocket  = regexp.MustCompile(`UNIX-STREAM:\[(\d+)->(\d+)`)
	unixConnect = regexp.MustCompile(`connect\(.*sun_path=(@?"[^"]*")`)
)

// trace counts what the agent writes to its peers, and its connections to them.
func trace(t *testing.T, e *site.Edge, s3Port int, d time.Duration) calls {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	names := map[string]string{}
	addSocketNames(t, e, names)
	// From within the device's network, because only there the kernel tells which
	// two sockets are connected.
	cmd := exec.CommandContext(ctx, "nsenter", "--target", strconv.Itoa(e.Leader()), "--net", "--",
		"strace", "-f", "-yy", "-s", "0", "-e", "trace=connect,write,writev,sendto,sendmsg", "-p", agentPID(t, e))
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	var out strings.Builder
	cmd.Stderr = &out
	_ = cmd.Run() // ended by the deadline
	if !strings.Contains(out.String(), "attached") {
		t.Fatalf("strace: %.500s", out.String())
	}
	addSocketNames(t, e, names)
	var c calls
	for line := range strings.Lines(out.String()) {
		if m := unixConnect.FindStringSubmatch(line); m != nil {
			c.add(strings.ReplaceAll(m[1], `"`, ""))
		} else if m := unixSocket.FindStringSubmatch(line); m != nil {
			// A connection that yggd made and closed meanwhile is named in the line.
			c.add(names[m[1]] + " " + names[m[2]] + " " + strings.ReplaceAll(line, `"`, ""))
		} else if strings.Contains(line, fmt.Sprintf(":%d]", s3Port)) || strings.Contains(line, fmt.Sprintf("htons(%d)", s3Port)) {
			c.s3++
		}
	}
	return c
}

// addSocketNames adds the names of the device's sockets by their inode. The
// accepted end of a connection has the name of what listens.
func addSocketNames(t *testing.T, e *site.Edge, names map[string]string) {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/unix", e.Leader()))
	must(t, err)
	for line := range strings.Lines(string(raw)) {
		if fields := strings.Fields(line); len(fields) == 8 {
			names[fields[6]] = fields[7]
		}
	}
}
