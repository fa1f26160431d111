//go:build device

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/project-flotta/flotta-agent/test/site"
)

// TestNoMachineID has a device with the layout of ostree, whose systemd makes up
// another machine id at every boot. The device keeps one name, and its journal is
// read all the same.
func TestNoMachineID(t *testing.T) {
	t.Parallel()
	r := &rig{T: t, ctx: t.Context(), site: newSite(t, true)}
	r.edge = newEdge(t, r.site, site.EdgeConfig{Transport: site.Direct, NoMachineID: true, Ostree: true})
	for path, want := range map[string]string{"/usr/local": "/var/usrlocal", "/home": "/var/home", "/root": "/var/roothome"} {
		if got := strings.TrimSpace(r.run("readlink", "-f", path)); got != want {
			t.Fatalf("%s is %s", path, got)
		}
	}
	if _, err := r.edge.Run(r.ctx, "touch", "/usr/x", "/x"); err == nil {
		t.Fatal("the root can be written: this shows nothing")
	}
	var id string
	r.until("it has a name", func() error {
		raw, err := r.edge.ReadFile("/var/local/yggdrasil/device/device-id")
		id = strings.TrimSpace(string(raw))
		return err
	})
	machine := strings.TrimSpace(r.run("cat", "/etc/machine-id"))
	if len(machine) != 32 || machine == id {
		t.Fatalf("machine id %q, name %q", machine, id)
	}
	registered := func() error {
		d, err := r.site.Device(id)
		if err == nil && d.Status.LastSeenTime.IsZero() {
			err = fmt.Errorf("it was never seen")
		}
		return err
	}
	r.until("it is registered by that name", registered)
	syslog := startRsyslog(r)
	r.save("receiver.yaml", fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: receiver}\ndata: {Address: \"%s:%d\", Protocol: tcp}\n", site.S3Name, syslog.path.Port()))
	r.save("device.yaml", fmt.Sprintf(`apiVersion: management.project-flotta.io/v1alpha1
kind: EdgeDevice
metadata: {name: %q}
spec:
  heartbeat: {periodSeconds: 2}
  logCollection: {central: {kind: syslog, syslogConfig: {name: receiver}}}
`, id))
	r.save("w.yaml", strings.ReplaceAll(r.workload("talker", `args: [write, /export/n, "{n}", 50ms]`, "logCollection: central"), r.edge.ID(), id))
	r.running("talker", "app")
	r.until("lines arrive", func() error { return syslog.has(20) })

	must(t, r.edge.PowerCut())
	before, err := os.ReadFile(syslog.file)
	must(t, err)
	must(t, r.edge.PowerOn(t.Context()))
	if again := strings.TrimSpace(r.run("cat", "/etc/machine-id")); again == machine {
		t.Fatalf("the machine id is %s again: this shows nothing", again)
	}
	r.until("lines of the second boot arrive", func() error {
		raw, err := os.ReadFile(syslog.file)
		if err != nil {
			return err
		}
		if n := bytes.Count(raw[len(before):], []byte("talker app")); n < 20 {
			return fmt.Errorf("there are %d", n)
		}
		return nil
	})
	if raw, err := r.edge.ReadFile("/var/local/yggdrasil/device/device-id"); err != nil || strings.TrimSpace(string(raw)) != id {
		t.Errorf("it is called %q, %v; before %q", raw, err, id)
	}
	out, err := r.edge.Run(r.ctx, "flotta-agent", "status") // whatever its exit code says of the moment
	if !strings.Contains(out.Stdout, id) {
		t.Errorf("status does not name %s: %v\n%s", id, err, out.Stdout)
	}
}
