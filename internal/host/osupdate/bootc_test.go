package osupdate

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

const (
	image1 = "registry.example.com/edge/os:1"
	image2 = "registry.example.com/edge/os@sha256:2222222222222222222222222222222222222222222222222222222222222222"
)

// image makes the device one that is updated by bootc. rpm-ostree is there, too,
// as on most of them.
func (x *rig) image() {
	x.t.Helper()
	x.stop()
	linkStandIns(x.t, x.root, "bootc", "skopeo")
	x.change(func(m *machine) {
		*m = machine{Image: true, Finalise: true, Deployments: []*system{{ID: image1, Booted: true}}}
	})
	x.configure(nil)
	if err := os.Remove(x.path("os-update.json")); err != nil {
		x.t.Fatal(err)
	}
	x.restart()
	x.run(10 * time.Second)
}

func (x *rig) expectImage(what, booted, status string) {
	x.t.Helper()
	m := x.machine().booted()
	upgrade := x.r.Upgrade()
	if m.ID != booted || upgrade == nil || upgrade.CurrentCommitID != "sha256:"+m.checksum() || upgrade.LastUpgradeStatus != status {
		x.t.Errorf("%s: %s runs, want %s; reported %+v, want %q\n%+v", what, m.ID, booted, upgrade, status, x.r.Status())
	}
}

func TestBootc(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, x *rig, c commits) {
		x.image()
		x.expectImage("at first", image1, "")
		x.want(c.new, true)
		x.run(time.Minute)
		x.problem("a commit", "os.image")
		x.configure(&protocol.OSInformation{Image: "registry.example.com/absent:1", AutomaticallyUpgrade: true})
		x.run(time.Minute)
		x.problem("absent", "manifest unknown")
		x.configure(&protocol.OSInformation{Image: image2, AutomaticallyUpgrade: true})
		x.run(3 * time.Minute)
		x.expectImage("updated", image2, "succeeded")
		x.problem("updated", "")
		x.configure(&protocol.OSInformation{Image: image1})
		x.run(time.Minute)
		x.configure(&protocol.OSInformation{Image: image2})
		x.run(time.Minute)
		if m := x.machine(); m.Deployments[0].ID != image2 {
			t.Errorf("it is still staged: %+v", x.r.Status())
		}
		x.configure(&protocol.OSInformation{Image: image1, AutomaticallyUpgrade: true})
		x.run(20 * time.Second)
		x.red()
		x.change(func(m *machine) { m.rollback() })
		x.reboot(true)
		x.run(time.Hour)
		x.expectImage("rolled back", image2, "failed")
		x.problem("rolled back", "greenboot found it red")
	})
}

// TestBootcOnAnOtherHost: bootc is installed where rpm-ostree is what updates the
// host; and a bootc that does not answer is not taken for one that is not there.
func TestBootcOnAnOtherHost(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, x *rig, c commits) {
		x.stop()
		linkStandIns(t, x.root, "bootc")
		x.change(func(m *machine) { m.Status = []string{"{"} })
		x.restart()
		x.run(10 * time.Second)
		x.problem("bootc makes no sense", "understand bootc status")
		x.run(5 * time.Minute)
		x.want(c.new, true)
		x.run(2 * time.Minute)
		x.expect("by rpm-ostree", c.new, "succeeded")
	})
}

func TestBootcWithCredentials(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	auth := filepath.Join(root, "etc/ostree/auth.json")
	if err := os.MkdirAll(filepath.Dir(auth), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, auth, "{}")
	run := program(t, `echo "error: $0 $*" >&2; exit 1`)
	if err := os.Rename(filepath.Join(run.Dirs[0], "tool"), filepath.Join(run.Dirs[0], "skopeo")); err != nil {
		t.Fatal(err)
	}
	tool := &bootc{run: run, root: root}
	err := tool.Lookup(t.Context(), Goal{Image: image2})
	if err == nil || !strings.HasSuffix(err.Error(), "skopeo inspect --raw --authfile "+auth+" docker://"+image2) {
		t.Errorf("it was called as %v", err)
	}
}

func TestNotes(t *testing.T) {
	t.Parallel()
	n := notes{filepath.Join(t.TempDir(), "greenboot")}
	if red, err := n.red(); err != nil || red != nil {
		t.Errorf("no folder: %v, %v", red, err)
	}
	if err := n.forget("x"); err != nil {
		t.Errorf("no folder: %v", err)
	}
	if err := n.expect("abc.0", true); err != nil || read(t, filepath.Join(n.dir, "expect")) != "deployment=abc.0\nexpect=healthy\n" {
		t.Error(err)
	}
	for name, text := range map[string]string{
		"red-1": "boot=1\ndeployment=abc.0\ntime=x\n", "red-2": "", "red-3": "boot=\n", "red-4": strings.Repeat("x", 10_000) + "\nboot=4\n", "other": "boot=5",
		"red-6": "deployment=def.0\nboot=6",
	} {
		write(t, filepath.Join(n.dir, name), text)
	}
	red, err := n.red()
	if err != nil || len(red) != 2 || !redBoot(red, "1", "") || !redBoot(red, "", "def.0") || redBoot(red, "5", "ghi.0") || redBoot(red, "", "") {
		t.Errorf("%+v, %v", red, err)
	}
	if err := n.forget("6"); err != nil {
		t.Error(err)
	}
	left, err := os.ReadDir(n.dir)
	if err != nil || len(left) != 2 || left[0].Name() != "other" || left[1].Name() != "red-6" {
		t.Errorf("left %v, %v", left, err)
	}
}

func FuzzParseNote(f *testing.F) {
	f.Add([]byte("boot=1\ndeployment=2\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if n, ok := parseNote(raw); ok && (n.boot == "" || strings.ContainsAny(n.boot+n.deployment, "\n\x00\x1b")) {
			t.Errorf("%+v", n)
		}
	})
}
