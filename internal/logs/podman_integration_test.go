//go:build integration

package logs

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/containers"
	"github.com/project-flotta/flotta-agent/test/device"
	"github.com/project-flotta/flotta-agent/test/image"
)

const podmanImage = "localhost/flotta-logs:v1"

// edge is a booted device whose rootless Podman runs workloads that write
// numbered lines.
type edge struct {
	*device.Device
	t *testing.T
	i *inventory
}

func (e *edge) user(script string) string {
	e.t.Helper()
	r, err := e.RunAs(e.t.Context(), device.User, "sh", "-euc", script)
	if err != nil {
		e.t.Fatalf("%s: %v: %s", script, err, r.Stderr)
	}
	return strings.TrimSpace(r.Stdout)
}

// run starts a workload, or starts it anew, and puts it into the inventory.
func (e *edge) run(workload string) {
	e.t.Helper()
	const manifest = `apiVersion: v1
kind: Pod
metadata: {name: %[1]s}
spec:
  restartPolicy: Always
  containers:
  - {name: app, image: %[2]s, imagePullPolicy: IfNotPresent, args: [write, /tmp/x, "{n}", 2ms]}
`
	path := "/var/local/yggdrasil/device/workloads/" + workload + "/manifest.yaml"
	if err := e.WriteFile(path, fmt.Appendf(nil, manifest, workload, podmanImage), 0o644); err != nil {
		e.t.Fatal(err)
	}
	e.user("systemctl --user restart flotta-workload@" + workload)
	e.look(workload)
}

// look reads the container of a workload into the inventory.
func (e *edge) look(workload string) {
	e.t.Helper()
	out := e.user("podman inspect --format '{{.Id}} {{.HostConfig.LogConfig.Type}} {{.HostConfig.LogConfig.Path}}' " + workload + "-app")
	f := append(strings.Fields(out), "")
	list, _ := e.i.Current()
	var others []containers.Container
	for _, c := range list {
		if c.Workload != workload {
			others = append(others, c)
		}
	}
	e.i.set(append(others, containers.Container{
		ID: f[0], Name: workload + "-app", Workload: workload, Container: "app", Running: true, LogDriver: f[1], LogPath: e.Path(f[2]),
	})...)
}

// wrote are the texts of a workload's numbered lines.
func (r *rsyslog) wrote(workload string) []string {
	return slices.DeleteFunc(r.texts(workload), func(s string) bool { return !strings.HasPrefix(s, "wrote ") })
}

// lives divides "wrote /tmp/x n" into the lives of containers, each of which has
// to begin with 1 and to have every number, and returns how many lines they have.
func lives(t *testing.T, texts []string) (lines []int) {
	t.Helper()
	for i, text := range texts {
		n, err := strconv.Atoi(strings.TrimPrefix(text, "wrote /tmp/x "))
		switch {
		case err != nil:
			t.Fatalf("line %q: %v", text, err)
		case n == 1:
			lines = append(lines, 1)
		case len(lines) == 0 || n != lines[len(lines)-1]+1:
			t.Fatalf("line %d is %d after %v", i, n, lines)
		default:
			lines[len(lines)-1] = n
		}
	}
	return lines
}

// TestPodman reads what the real Podman writes by both drivers, through restarts
// of the engine and new containers.
func TestPodman(t *testing.T) {
	t.Parallel()
	e := &edge{Device: device.New(t, device.Config{}), t: t, i: newInventory()}
	if err := e.AddImage(t.Context(), device.User, image.Spec{Ref: podmanImage}); err != nil {
		t.Fatal(err)
	}
	r := newRsyslog(t, "tcp")
	r.start()
	cfg := testConfig(t, newTold(collects(r.target("tcp"), "journal", "files")), e.i)
	cfg.OwnerUID = e.UID()
	cfg.Journalctl = func(ctx context.Context, args ...string) *exec.Cmd {
		cmd, err := e.Command(ctx, append([]string{"journalctl"}, args...)...)
		if err != nil {
			return exec.CommandContext(ctx, "false") // the device is off
		}
		return cmd
	}
	_, stop := start(t, cfg)
	flows := func(workload string) {
		t.Helper()
		had := len(r.texts(workload))
		eventually(t, "lines of "+workload+" flow", func() bool { return len(r.texts(workload)) > had+50 })
	}

	e.run("journal")
	flows("journal")
	e.user(`mkdir -p ~/.config/containers && printf '[containers]\nlog_driver="k8s-file"\n' >>~/.config/containers/containers.conf`)
	e.run("files")
	flows("files")
	stop()
	time.Sleep(time.Second) // lines while nobody reads
	_, stop = start(t, cfg)
	flows("journal")
	flows("files")

	// New containers; the old one's file goes with it. It is not read to its end
	// if it goes while nobody reads, so that is not tried here.
	e.run("files")
	flows("files")
	stop()
	e.user(`sed -i 's/k8s-file/journald/' ~/.config/containers/containers.conf`)
	e.run("journal") // while nobody reads: the journal keeps the lines
	start(t, cfg)
	flows("journal")
	path := e.user("podman inspect --format '{{.HostConfig.LogConfig.Path}}' files-app")
	e.user("podman kill --signal STOP journal-app files-app")

	r1, err := e.Run(t.Context(), "sh", "-c", "journalctl -q -o cat CONTAINER_NAME=journal-app | grep -c wrote; grep -c wrote "+path)
	if err != nil {
		t.Fatal(err)
	}
	var journal, last int
	if _, err := fmt.Sscan(r1.Stdout, &journal, &last); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all lines of the journal arrive", func() bool { return len(r.wrote("journal")) >= journal })
	got := lives(t, r.wrote("journal"))
	t.Logf("journal: %d lines in lives of %v", journal, got)
	if n := len(r.wrote("journal")); n != journal || len(got) != 2 {
		t.Errorf("%d lines of %d containers arrived, the journal has %d lines", n, len(got), journal)
	}
	eventually(t, "all lines of the file arrive", func() bool {
		l := lives(t, r.wrote("files"))
		return len(l) == 2 && l[1] >= last
	})
	got = lives(t, r.wrote("files"))
	t.Logf("files: lives of %v", got)
	if got[1] != last {
		t.Errorf("%d lines of the last container arrived, its file has %d", got[1], last)
	}
}
