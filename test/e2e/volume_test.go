//go:build device

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/site"
)

// keeping are the default settings of these tests, with a retention.
func keeping(retention string) string {
	return site.DefaultSettings + "[volumes]\nretention = \"" + retention + "\"\n"
}

// volumes returns what is in the device's folder of volumes.
func (r *rig) volumes() []string {
	entries, err := os.ReadDir(r.edge.Path(filepath.Join(stateDir, "volumes")))
	if err != nil && !os.IsNotExist(err) {
		r.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// kept reports what is missing of a file in a volume.
func (r *rig) kept(workload, path, want string) error {
	got, err := os.ReadFile(r.edge.Path(filepath.Join(site.Export(workload), path)))
	if err == nil && string(got) != want {
		err = fmt.Errorf("content is %q, want %q", got, want)
	}
	return err
}

// volumeGoes waits until nothing is left of the workload's volume.
func (r *rig) volumeGoes(workload string) {
	r.Helper()
	r.until("the volume of "+workload+" goes", func() error {
		for _, name := range r.volumes() {
			if strings.Contains(name, workload) {
				return fmt.Errorf("%s is there; retired: %s", name, r.retired())
			}
		}
		return nil
	})
	r.until("its record goes too", func() error {
		if left := r.retired(); strings.Contains(left, workload) {
			return fmt.Errorf("retired: %s", left)
		}
		return nil
	})
}

// retired is the agent's list of retired workloads.
func (r *rig) retired() string {
	raw, _ := r.edge.ReadFile(filepath.Join(stateDir, "retired.json"))
	return string(raw)
}

const serveOn18080 = "args: [serve, '8080']\nports: [{containerPort: 8080, hostPort: 18080}]"

func TestVolumeOfARemovedWorkloadWaitsForItsStorage(t *testing.T) {
	t.Parallel()
	r := newRig(t, site.EdgeConfig{Settings: keeping("3s")})
	r.save("w.yaml", r.workload("writer", serveOn18080, "data: {egress: [{source: out, target: writer}]}\n"))
	r.answers("18080", "/put?path=/out/early&text=early", "")
	r.object("writer/early", "early")
	r.site.S3Path.Cut()
	r.answers("18080", "/put?path=/out/late&text=late", "")
	r.remove("w.yaml")
	r.gone("writer")
	stays := func() error { return r.kept("writer", "out/late", "late") }
	hold(t, 10*time.Second, stays)
	r.until("the device says so", func() error {
		if events := r.site.Events(r.edge.ID()); !strings.Contains(events, "VolumeKept") {
			return fmt.Errorf("events: %s", events)
		}
		return nil
	})
	// Over a power cut, too.
	must(t, r.edge.PowerCut())
	must(t, r.edge.PowerOn(r.ctx))
	hold(t, 10*time.Second, stays)
	if _, err := os.Stat(filepath.Join(r.site.BucketDir(), "writer/late")); err == nil {
		t.Fatal("the bucket is not away: this test shows nothing")
	}
	r.site.S3Path.Mend()
	r.object("writer/late", "late")
	r.volumeGoes("writer")
}

func TestVolumeWithoutEgressGoesAfterItsRetention(t *testing.T) {
	t.Parallel()
	r := newRig(t, site.EdgeConfig{Settings: keeping("30s")})
	r.save("w.yaml", r.workload("plain", serveOn18080, ""))
	r.answers("18080", "/put?path=/file&text=words", "")
	// What a container makes belongs to users of its own.
	_, err := r.edge.Run(r.ctx, "sh", "-c", "cd "+site.Export("plain")+
		" && mkdir -p deep/er && ln -s /etc link && touch deep/er/file && chown -R 100123:100123 deep && chmod 0 deep/er")
	must(t, err)
	r.site.S3Path.Cut()
	r.remove("w.yaml")
	r.gone("plain")
	hold(t, 4*time.Second, func() error { return r.kept("plain", "file", "words") })
	r.volumeGoes("plain")
	if _, err := os.Stat(r.edge.Path("/etc/flotta/agent.toml")); err != nil {
		t.Errorf("a link was followed: %v", err)
	}
}

func TestRemovedWorkloadThatComesBackHasItsVolume(t *testing.T) {
	t.Parallel()
	r := newRig(t, site.EdgeConfig{Settings: keeping("1h")})
	text := r.workload("writer", serveOn18080, "data: {egress: [{source: out, target: writer}]}\n")
	r.save("w.yaml", text)
	r.answers("18080", "/put?path=/out/file&text=words", "")
	for range 2 {
		r.remove("w.yaml")
		r.gone("writer")
		r.until("it is delivered", func() error {
			if left := r.retired(); !strings.Contains(left, `"delivered":true`) {
				return fmt.Errorf("retired: %s", left)
			}
			return nil
		})
		r.save("w.yaml", text)
		r.answers("18080", "/file?path=/out/file", "words")
		r.until("it is retired no more", func() error {
			if left := r.retired(); left != "" {
				return fmt.Errorf("retired: %s", left)
			}
			return nil
		})
	}
}

// What a workload writes between its last cycle and its end is delivered too.
func TestLastWordsOfARemovedWorkload(t *testing.T) {
	t.Parallel()
	r := newRig(t, site.EdgeConfig{Settings: rareSync + "[volumes]\nretention = \"1s\"\n"})
	r.save("w.yaml", r.workload("writer", serveOn18080+"\nenv: [{name: LINGER, value: 2s}]", "data: {egress: [{source: ., target: writer}]}\n"))
	r.answers("18080", "/put?path=/late&text=late", "")
	r.remove("w.yaml")
	r.gone("writer")
	r.object("writer/late", "late")
	r.until("what it wrote at its end is in the bucket", func() error {
		_, err := os.Stat(filepath.Join(r.site.BucketDir(), "writer/lingered"))
		return err
	})
	r.volumeGoes("writer")
}

func TestRetirementSurvivesAKillAtEveryStep(t *testing.T) {
	t.Parallel()
	const crashFile = "/run/flotta-crash"
	r := newRig(t, site.EdgeConfig{
		Agent: faultyAgent(t), Settings: keeping("1s"), WorkerEnv: []string{"FLOTTA_TEST_CRASH_FILE=" + crashFile},
	})
	text := r.workload("writer", serveOn18080, "data: {egress: [{source: out, target: writer}]}\n")
	for _, step := range []string{
		"removed", "retire-sent", "retire-delivered", "retire-aged", "retire-aside", "retire-disposed", "retire-emptying",
	} {
		r.save("w.yaml", text)
		r.answers("18080", "/put?path=/out/"+step+"&text=words", "")
		must(t, r.edge.WriteFile(crashFile, []byte(step+":1"), 0o600))
		r.remove("w.yaml")
		r.until("the agent was killed at "+step, func() error {
			if _, err := os.Stat(r.edge.Path(crashFile)); err == nil {
				return fmt.Errorf("it passed no such step yet; retired: %s", r.retired())
			}
			return nil
		})
		// yggd waits longer each time before it starts a worker again that died.
		_, err := r.edge.Run(r.ctx, "systemctl", "restart", r.edge.Service())
		must(t, err)
		r.volumeGoes("writer")
		r.object("writer/"+step, "words")
		r.gone("writer")
	}
}

// What a device that is no longer managed has left, when the retention is over.
func TestUnregisteringLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	r := newTenant(t, site.EdgeConfig{Settings: rareSync + "[volumes]\nretention = \"5s\"\n"})
	r.answers("18080", "/put?path=/out/last&text=words", "")
	r.unmanage()
	r.object("tenant/last", "words")
	r.asksAgain()
	r.volumeGoes("tenant")
	if got := r.volumes(); len(got) > 0 {
		t.Errorf("volumes are left: %q", got)
	}
	for what, args := range map[string][]string{
		"pods":    {"pod", "ps", "--noheading"},
		"volumes": {"volume", "ls", "--noheading"},
		"secrets": {"secret", "ls", "--noheading"},
	} {
		out, err := r.edge.Podman(r.ctx, args...)
		must(t, err)
		if out != "" {
			t.Errorf("%s are left: %s", what, out)
		}
	}
	r.leftInState()
	r.leftInSystemd()
}

// leftInState fails for anything in the state folder that is not the agent's own.
func (r *rig) leftInState() {
	r.Helper()
	own := []string{"agent.lock", "datasync.db", "events", "workloads", "volumes", "images.json", "metrics", "logs", "playbooks"}
	entries, err := os.ReadDir(r.edge.Path(stateDir))
	must(r.T, err)
	for _, e := range entries {
		if !slices.Contains(own, e.Name()) {
			r.Errorf("%s is left in the state folder", e.Name())
		}
	}
	for _, of := range []string{"workloads", "playbooks"} {
		if left, _ := os.ReadDir(r.edge.Path(filepath.Join(stateDir, of))); len(left) > 0 {
			r.Errorf("folders of %s are left: %v", of, left)
		}
	}
}

// leftInSystemd fails for any unit, link or drop-in of the workload, and for a
// firewall table of ours.
func (r *rig) leftInSystemd() {
	r.Helper()
	out, err := r.edge.Run(r.ctx, "find", "/etc/systemd", "/run/systemd", "/run/user", "/var/home/flotta/.config/systemd", "-name", "*tenant*")
	if err != nil {
		r.Logf("find: %v", err) // one of the folders is not there
	}
	if out.Stdout != "" {
		r.Errorf("left for systemd: %s", out.Stdout)
	}
	if out, err := r.edge.Run(r.ctx, "nft", "list", "table", "inet", "flotta"); err == nil {
		r.Errorf("left in the firewall: %s", out.Stdout)
	}
}
