//go:build device

package e2e

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/project-flotta/flotta-agent/test/site"
)

// TestSmallHost has all of a device in 256 MiB: systemd, the agent as a service or
// below yggd, Podman and what it starts, with files, metrics and lines on their
// way. The bound holds before the first process of the device runs, and counts
// what the kernel keeps of files, too.
func TestSmallHost(t *testing.T) {
	t.Parallel()
	r := newRig(t, site.EdgeConfig{Memory: 256 << 20})
	p, syslog := startPrometheus(r), startRsyslog(r)
	r.save("receiver.yaml", fmt.Sprintf(`apiVersion: v1
kind: ConfigMap
metadata: {name: receiver}
data: {Address: "%s:%d", Protocol: tcp}
`, site.S3Name, syslog.path.Port()))
	r.device("", fmt.Sprintf(`  logCollection: {central: {kind: syslog, syslogConfig: {name: receiver}}}
  metrics:
    system: {interval: 1}
    receiverConfiguration: {url: "http://%s:%d/api/v1/write", timeoutSeconds: 5}
`, site.S3Name, p.path.Port()))
	r.save("w.yaml", fmt.Sprintf(`apiVersion: management.project-flotta.io/v1alpha1
kind: EdgeWorkload
metadata: {name: talker}
spec:
  type: pod
  device: %q
  logCollection: central
  metrics: {port: 8080, path: "/file?path=m", interval: 1}
%s
  pod:
    spec:
      containers:
      - {name: app, image: %[3]s, args: [write, /export/m, "meter_total {n}", 100ms]}
      - {name: web, image: %[3]s, args: [serve, "8080"], ports: [{containerPort: 8080, hostPort: 18080}]}
`, r.edge.ID(), indent(syncPaths, 2), imageV1))
	r.running("talker", "web")
	r.until("lines arrive", func() error { return syslog.has(20) })
	counted := fmt.Sprintf(`meter_total{edgedeviceid=%q,workload="talker",container="web"}`, r.edge.ID())
	for _, series := range []string{counted, fmt.Sprintf("node_memory_MemTotal_bytes{edgedeviceid=%q}", r.edge.ID())} {
		r.until(series+" arrives", func() error { return p.has(series) })
	}
	r.answers("18080", "/put?path=/out/new&text=fresh", "")
	r.object("from-device/new", "fresh")
	large := bytes.Repeat([]byte("a file of more than the memory's share\n"), 1<<20) // 39 MiB
	r.put("to-device/large", large)
	r.until("a large file arrives", func() error {
		out, err := r.edge.Run(r.ctx, "stat", "--format=%s", site.Export("talker")+"/in/large")
		if err == nil && strings.TrimSpace(out.Stdout) != strconv.Itoa(len(large)) {
			err = fmt.Errorf("it has %s bytes", out.Stdout)
		}
		return err
	})

	use, err := r.edge.Memory()
	must(t, err)
	t.Logf("the device took up to %d MiB of memory, the agent has %d kB resident, and had up to %s kB", use.Peak>>20, r.agentMemory(), r.agentPeak())
	if use.Killed > 0 {
		t.Errorf("the kernel killed %d processes for want of memory", use.Killed)
	}
	if use.Peak < 64<<20 || use.Peak > 256<<20 {
		t.Errorf("a peak of %d bytes: the bound is not one", use.Peak)
	}

	// The kernel ends who takes too much, and not what keeps the device reachable.
	agent := r.run("pgrep", "-x", "flotta-agent")
	if _, err := r.edge.Run(r.ctx, "sh", "-c", "head -c 400M /dev/zero | tail -c 400M | wc -c"); err != nil {
		t.Logf("the greedy one: %v", err)
	}
	if use, err = r.edge.Memory(); err != nil || use.Killed == 0 {
		t.Errorf("400 MiB found room: %+v, %v", use, err)
	}
	r.answers("18080", "/file?path=out/new", "fresh")
	if now := r.run("pgrep", "-x", "flotta-agent"); now != agent {
		t.Errorf("the agent is process %s now, and was %s", now, agent)
	}
}

// agentPeak returns the most memory that the agent had resident, in kB.
func (r *rig) agentPeak() string {
	r.Helper()
	for line := range strings.Lines(r.run("sh", "-ec", `cat "/proc/$(pgrep -x flotta-agent)/status"`)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			return strings.Fields(rest)[0]
		}
	}
	r.Fatal("no VmHWM")
	return ""
}
