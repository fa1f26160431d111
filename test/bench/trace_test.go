//go:build bench

package bench

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// calls counts the system calls by which the agent speaks to somebody.
type calls struct {
	polls   int // connections that yggd made to the worker
	worker  int // writes on those
	report  int // writes to yggd's dispatcher: heartbeats
	podman  int
	systemd int // the user's service manager, directly or by its bus
	s3      int
	other   int // somebody else on a socket
	disk    int // writes to files
}

func (c calls) String() string {
	return fmt.Sprintf("polls %d (%d writes), yggd's dispatcher %d, podman %d, systemd %d, S3 %d, other sockets %d, disk writes %d",
		c.polls, c.worker, c.report, c.podman, c.systemd, c.s3, c.other, c.disk)
}

var (
	tracedCalls = "trace=connect,write,writev,pwrite64,sendto,sendmsg,sendmmsg,sendfile"
	connectUnix = regexp.MustCompile(`connect\(\d+<UNIX-[A-Z]+:\[(\d+)[^{]*\{sa_family=AF_UNIX, sun_path=(@?"[^"]*")`)
	onUnix      = regexp.MustCompile(`\(\d+<UNIX-[A-Z]+:\[(\d+)(?:->(\d+))?(?:,(@?"[^"]*"))?\]>`)
	onNetwork   = regexp.MustCompile(`\(\d+<(?:TCP|UDP|NETLINK|ICMP)[^:]*:`)
	onFile      = regexp.MustCompile(`(?:write|pwrite64|writev|sendfile)\(\d+</`)
)

// trace counts what the agent does within d, beginning with act, which may be
// nil.
func (r *rig) trace(d time.Duration, act func()) calls {
	r.Helper()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	names := map[string]string{}
	r.addSocketNames(names)
	// From within the device's network, because only there the kernel tells which
	// two sockets are connected.
	cmd := exec.CommandContext(ctx, "nsenter", "--target", strconv.Itoa(r.edge.Leader()), "--net", "--",
		"strace", "-f", "-yy", "-s", "0", "-e", tracedCalls, "-p", r.agentPID())
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	out, err := cmd.StderrPipe()
	must(r.T, err)
	must(r.T, cmd.Start())
	lines := bufio.NewScanner(out)
	if !lines.Scan() || !strings.Contains(lines.Text(), "attached") {
		r.Fatalf("strace: %s", lines.Text())
	}
	said := make(chan []string)
	go func() {
		var all []string
		for lines.Scan() {
			all = append(all, lines.Text())
		}
		said <- all
	}()
	timer := time.NewTimer(d)
	if act != nil {
		act()
	}
	<-timer.C
	r.addSocketNames(names)
	cancel()
	all := <-said
	_ = cmd.Wait() // it was interrupted
	must(r.T, lines.Err())
	return r.count(all, names)
}

func (r *rig) count(lines []string, names map[string]string) calls {
	var c calls
	s3 := r.site.S3Path.Port()
	polls := map[string]bool{}
	for _, line := range lines {
		unix, connect := onUnix.FindStringSubmatch(line), connectUnix.FindStringSubmatch(line)
		switch {
		case connect != nil:
			// The connection may be closed by the time the kernel's list is read.
			names[connect[1]] = strings.ReplaceAll(connect[2], `"`, "")
			c.add(names[connect[1]])
		case unix != nil:
			peer := strings.ReplaceAll(unix[3], `"`, "") + " " + names[unix[1]] + " " + names[unix[2]]
			if c.add(peer) {
				polls[unix[1]] = true
			}
		case onNetwork.MatchString(line) && (strings.Contains(line, fmt.Sprintf(":%d]", s3)) || strings.Contains(line, fmt.Sprintf("htons(%d)", s3))):
			c.s3++
		case onNetwork.MatchString(line):
			c.other++
		case onFile.MatchString(line):
			c.disk++
		}
	}
	c.polls = len(polls)
	return c
}

// add counts a call by who it was to. It says whether that was on a connection
// made by yggd.
func (c *calls) add(peer string) (polled bool) {
	switch {
	case strings.Contains(peer, "@ygg-device"):
		c.worker++
		return true
	case strings.Contains(peer, "@ygg"):
		c.report++
	case strings.Contains(peer, "podman.sock"):
		c.podman++
	case strings.Contains(peer, "systemd/private"), strings.Contains(peer, "/bus"):
		c.systemd++
	default:
		c.other++
	}
	return false
}

// addSocketNames adds the names of the device's sockets by their inode. The
// accepted end of a connection has the name of what listens.
func (r *rig) addSocketNames(names map[string]string) {
	r.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/unix", r.edge.Leader()))
	must(r.T, err)
	for line := range strings.Lines(string(raw)) {
		if fields := strings.Fields(line); len(fields) == 8 {
			names[fields[6]] = fields[7]
		}
	}
}
