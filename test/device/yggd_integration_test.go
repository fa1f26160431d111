//go:build integration

package device_test

import (
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/device"
	"github.com/project-flotta/flotta-agent/test/testenv"
)

func TestYggdComesBackAfterThePowerCut(t *testing.T) {
	t.Parallel()
	d := device.New(t, device.Config{
		Hosts: []string{"project-flotta.io"},
		Files: map[string]device.File{
			"/usr/sbin/yggd":                   {Source: testenv.Tool(t, "yggd"), Mode: 0o755},
			"/etc/systemd/system/yggd.service": device.YggdUnit(),
			"/etc/yggdrasil/config.toml": {Content: []byte(`protocol = "http"
server = "project-flotta.io:8043"
client-id = "edge"
path-prefix = "api/flotta-management/v1"
log-level = "debug"
`)},
			"/etc/yggdrasil/workers/device.toml": {Content: []byte("exec = \"/usr/bin/sleep 4713\"\nprotocol = \"grpc\"\nenv = []\n")},
		},
	})
	run(t, d, "systemctl", "enable", "--now", "yggd.service")
	working := func() bool {
		_, err := d.Run(t.Context(), "pgrep", "-f", "^/usr/bin/sleep 4713")
		return err == nil
	}
	eventually(t, "yggd starts its worker", 30*time.Second, working)

	// Killed with its worker, it finds an entry of a process that is no more.
	must(t, "kill all", func() error {
		_, err := d.Run(t.Context(), "systemctl", "kill", "--signal=KILL", "yggd.service")
		return err
	}())
	eventually(t, "yggd restarts", 30*time.Second, func() bool {
		return run(t, d, "systemctl", "show", "--value", "--property=NRestarts", "yggd.service") != "0" && working()
	})
	must(t, "cut power", d.PowerCut())
	must(t, "power on", d.PowerOn(t.Context()))
	eventually(t, "yggd is back", 30*time.Second, working)
}
