//go:build bench

package bench

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/site"
)

// pollWithoutChange looks at the agent's system calls while yggd polls and
// nothing changes: it must hear of the polls and call nobody. A change after
// that shows that a call would have been seen.
func pollWithoutChange(t *testing.T, figures *report) {
	r := newRig(t, quietSettings)
	r.save("quiet", 1)
	r.running("quiet", 1)
	r.settled("quiet")
	time.Sleep(15 * time.Second) // what follows a change has come to rest
	quiet := r.trace(30*time.Second, nil)
	figures.add(t, "30 s of polls without a change", "%s", quiet)
	if quiet.polls < 3 {
		t.Errorf("only %d polls were seen", quiet.polls)
	}
	if quiet.podman+quiet.systemd+quiet.s3+quiet.other != 0 {
		t.Errorf("a poll without a change called somebody: %s", quiet)
	}
	changed := r.trace(15*time.Second, func() {
		r.save("quiet", 2)
		r.running("quiet", 2)
	})
	figures.add(t, "  15 s with a change, for comparison", "%s", changed)
	if changed.podman == 0 || changed.systemd == 0 {
		t.Errorf("calls to Podman and systemd are not seen, so that none were seen proves nothing: %s", changed)
	}
}

// idleCost reports what the agent does by itself with the settings that users
// have. When no file has changed, egress asks S3 for nothing.
func idleCost(t *testing.T, figures *report) {
	r := newRig(t, userSettings)
	r.save("quiet", 1)
	r.running("quiet", 1)
	r.export("first")
	r.settled("quiet")
	time.Sleep(15 * time.Second) // what follows a change has come to rest
	before := r.cpuTime()
	time.Sleep(time.Minute)
	figures.add(t, "a minute of idling, defaults", "%s of CPU time (in steps of 10ms)", r.cpuTime()-before)
	idle := r.trace(time.Minute, nil)
	figures.add(t, "  calls in a minute", "%s", idle)
	if idle.s3 != 0 {
		t.Errorf("idle egress spoke to S3: %s", idle)
	}
	busy := r.trace(20*time.Second, func() { r.export("second") })
	figures.add(t, "  20 s with a new file, for comparison", "%s", busy)
	if busy.s3 == 0 {
		t.Errorf("calls to S3 are not seen, so that none were seen proves nothing: %s", busy)
	}
}

// export writes a file on the device and waits until it is in the bucket.
func (r *rig) export(name string) {
	r.Helper()
	must(r.T, r.edge.WriteFile(site.Export("quiet")+"/out/"+name, []byte(name), 0o644))
	must(r.T, site.Until(r.Context(), time.Minute, func() error {
		_, err := os.Stat(r.site.BucketDir() + "/quiet/" + name)
		return err
	}))
}

// cpuTime is what the agent has used so far, itself and the kernel for it.
func (r *rig) cpuTime() time.Duration {
	r.Helper()
	raw, err := os.ReadFile("/proc/" + r.agentPID() + "/stat")
	must(r.T, err)
	_, rest, _ := strings.Cut(string(raw), ") ")
	fields := strings.Fields(rest) // from the third one on
	if len(fields) < 13 {
		r.Fatalf("/proc/PID/stat is %q", raw)
	}
	var ticks time.Duration
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		must(r.T, err)
		ticks += time.Duration(n)
	}
	return ticks * 10 * time.Millisecond // USER_HZ is 100 wherever Linux runs Go
}
