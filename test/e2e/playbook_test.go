//go:build device

package e2e

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/project-flotta/flotta-agent/test/site"
)

// TestKubePlaybooks is the way of playbooks from an EdgeConfig to a device and of
// their outcome back, with the real Ansible.
func TestKubePlaybooks(t *testing.T) {
	t.Parallel()
	r := newKubeRig(t, site.EdgeConfig{Settings: site.DefaultSettings + "[playbooks]\nperiod = \"2s\"\n"})
	r.sub("one after another, each once", playbooksInTheirOrder)
	r.sub("a failure is explained, and what comes after it left", playbookThatFails)
	r.sub("the agent is killed meanwhile", playbookThatOutlivesTheAgent)
	r.sub("power cut meanwhile", playbookThatIsCut)
}

// playbook returns one that appends a line to a file, after a shell command.
func playbook(before, file string) string {
	return fmt.Sprintf(`- hosts: localhost
  gather_facts: false
  tasks:
  - shell: %q
  - shell: echo ran >>%s
`, before, file)
}

// config saves an EdgeConfig with these playbooks, and applies it to the device.
func (r *rig) config(name, options string, playbooks ...string) {
	r.Helper()
	var text strings.Builder
	fmt.Fprintf(&text, `apiVersion: management.project-flotta.io/v1alpha1
kind: EdgeConfig
metadata: {name: %s}
spec:
  edgePlaybook:
    playbooks:
`, name)
	for _, p := range playbooks {
		fmt.Fprintf(&text, "    - {content: %s%s}\n", base64.StdEncoding.EncodeToString([]byte(p)), options)
	}
	r.save(name+".yaml", text.String())
	r.device("config/device-by-config: "+name, "")
}

const trueCondition = `jsonpath={.status.conditions[?(@.status=="True")].type}`

// run waits for the outcome of the n-th playbook of a config.
func (r *rig) outcome(config, suffix, want string) {
	r.Helper()
	r.says(want, "get", "playbookexecution", r.edge.ID()+"-"+config+suffix, "-o", trueCondition)
}

func (r *rig) lines(file string) int {
	r.Helper()
	return strings.Count(r.run("sh", "-c", "cat "+file+" 2>/dev/null || :"), "ran\n")
}

func (r *rig) ranOnce(files ...string) {
	r.Helper()
	for _, file := range files {
		if n := r.lines(file); n != 1 {
			r.Errorf("%s: the playbook ran %d times", file, n)
		}
	}
}

func playbooksInTheirOrder(r *rig) {
	r.config("order", "", playbook("sleep 1", "/root/first"), playbook("test -s /root/first", "/root/second"))
	r.outcome("order", "", "SuccessfullyCompleted")
	r.outcome("order", "-2", "SuccessfullyCompleted")
	r.says("True", "get", "edgeconfig", "order", "-o", `jsonpath={.status.edgePlaybookStatus.conditions[?(@.type=="Completed")].status}`)
	r.ranOnce("/root/first", "/root/second")
	if strings.Contains(r.edge.Journal(r.ctx, 20000), "ran >>/root/first") {
		r.Error("what a playbook does, which may hold secrets, is in the journal")
	}
	if text := r.run("flotta-agent", "status"); strings.Count(text, "SuccessfullyCompleted") != 2 {
		r.Errorf("the device does not say so: %s", text)
	}
	r.run("systemctl", "restart", r.edge.Service())
	r.config("order", "", playbook("sleep 1", "/root/first"), playbook("test -s /root/second", "/root/third"))
	r.until("the playbook that was changed has run", func() error {
		if n := r.lines("/root/third"); n != 1 {
			return fmt.Errorf("%d times", n)
		}
		return nil
	})
	r.outcome("order", "-2", "SuccessfullyCompleted")
	r.ranOnce("/root/first", "/root/second", "/root/third")
}

func playbookThatFails(r *rig) {
	r.config("fails", ", executionStrategy: StopOnFailure", playbook("echo of no use >&2; exit 7", "/root/failed"), playbook("true", "/root/after"))
	r.outcome("fails", "", "CompletedWithError")
	r.outcome("fails", "-2", "CompletedWithError")
	r.says("Failed Skipped", "get", "playbookexecution", r.edge.ID()+"-fails", r.edge.ID()+"-fails-2", "-o",
		`jsonpath={.items[*].status.conditions[?(@.status=="True")].reason}`)
	if text := r.kubectl("get", "playbookexecution", r.edge.ID()+"-fails", "-o", "yaml"); !strings.Contains(text, "of no use") {
		r.Errorf("what the playbook printed is not told: %s", text)
	}
	if r.lines("/root/failed")+r.lines("/root/after") != 0 {
		r.Error("what comes after the failure has run")
	}
	r.until("an Event says so", func() error {
		if events := r.site.Events(r.edge.ID()); !strings.Contains(events, "PlaybookFailed") {
			return fmt.Errorf("they are %s", events)
		}
		return nil
	})
}

func playbookThatOutlivesTheAgent(r *rig) {
	r.config("outlives", "", playbook("touch /run/outlives; sleep 6", "/root/outlived"))
	r.until("the playbook runs", func() error { _, err := r.edge.Run(r.ctx, "test", "-e", "/run/outlives"); return err })
	// Not its unit, which has a main process of that name as well.
	must(r.T, r.edge.Kill(r.ctx, "KILL", "^/usr/bin/flotta-agent( run)?$"))
	r.run("systemctl", "restart", r.edge.Service())
	r.outcome("outlives", "", "SuccessfullyCompleted")
	r.ranOnce("/root/outlived")
}

func playbookThatIsCut(r *rig) {
	r.config("cut", "", playbook("echo ran >>/root/begun; sync; sleep 300", "/root/never"))
	r.until("the playbook runs", func() error { _, err := r.edge.Run(r.ctx, "test", "-s", "/root/begun"); return err })
	must(r.T, r.edge.PowerCut())
	must(r.T, r.edge.PowerOn(r.ctx))
	r.outcome("cut", "", "CompletedWithError")
	r.says("Interrupted", "get", "playbookexecution", r.edge.ID()+"-cut", "-o", `jsonpath={.status.conditions[?(@.status=="True")].reason}`)
	r.ranOnce("/root/begun")
}
