package osupdate

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain makes this binary the rpm-ostree, bootc, skopeo or ostree that it is
// called as: links to it are in the roots of the tests. With the build tag
// integration, ostree is the real one.
func TestMain(m *testing.M) {
	if name := filepath.Base(os.Args[0]); slices.Contains(standIns, name) {
		os.Exit(standIn(filepath.Join(filepath.Dir(os.Args[0]), "..", ".."), name, os.Args[1:]))
	}
	goleak.VerifyTestMain(m)
}

var standIns = []string{"rpm-ostree", "bootc", "skopeo", "ostree"}

// machine is a host with several operating systems on its disk. It is kept in a
// file, where the stand-ins of its tools find it.
type machine struct {
	Image       bool // updated by bootc
	Deployments []*system
	Transaction string   // of somebody else
	Deploy      []string // what the next deploys do instead; see deploy
	Finalise    bool     // what is staged becomes a deployment at a shutdown in order
	Status      []string // what the next status calls print instead
}

type system struct {
	ID     string // commit or image
	Serial int
	Booted bool
	Staged bool
}

func (s *system) checksum() string {
	if commitForm.MatchString(s.ID) {
		return s.ID
	}
	return fmt.Sprintf("%064x", len(s.ID)) // of the commit that the image was imported as
}

func (m *machine) booted() *system {
	for _, s := range m.Deployments {
		if s.Booted {
			return s
		}
	}
	return nil
}

// stage puts id before what is booted, as the tools do.
func (m *machine) stage(id string) {
	m.unstage()
	serial := 0
	for _, s := range m.Deployments {
		if s.ID == id {
			serial = max(serial, s.Serial+1)
		}
	}
	m.Deployments = append([]*system{{ID: id, Serial: serial, Staged: true}}, m.Deployments...)
}

func (m *machine) unstage() {
	m.Deployments = slices.DeleteFunc(m.Deployments, func(s *system) bool { return s.Staged })
}

// reboot boots the first deployment. What was staged is one only after a
// shutdown in order.
func (m *machine) reboot(inOrder bool) {
	if first := m.Deployments[0]; first.Staged && inOrder && m.Finalise {
		first.Staged = false
		m.Deployments = []*system{first, m.booted()} // the oldest one goes
	}
	m.unstage()
	for i, s := range m.Deployments {
		s.Booted = i == 0
	}
	m.Transaction = ""
}

// rollback makes the machine run the other one after its next boot.
func (m *machine) rollback() {
	m.Deployments = append(m.Deployments[1:], m.Deployments[0])
}

func (m *machine) key() string {
	return fmt.Sprintf("%s.%d", m.booted().checksum(), m.booted().Serial)
}

func loadMachine(root string) (*machine, error) {
	raw, err := os.ReadFile(filepath.Join(root, "machine.json"))
	if err != nil {
		return nil, err
	}
	m := &machine{}
	return m, json.Unmarshal(raw, m)
}

func (m *machine) store(root string) error {
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(root, "machine.json"), raw, 0o600)
}

// standIn is a tool of the machine whose files are below root. Every invocation
// is checked, argument by argument: one that is not known is written
// down, and the test fails.
func standIn(root, name string, args []string) int {
	m, err := loadMachine(root)
	if err != nil {
		return refuse(root, name, args, err)
	}
	said := name + " " + strings.Join(args, " ")
	code := 0
	switch {
	case said == "rpm-ostree status --json" && !m.Image:
		m.say(m.rpmOstree)
	case said == "bootc status --json":
		m.say(m.bootc)
	case name == "rpm-ostree" && len(args) == 3 && args[0] == "deploy" && args[1] == "--skip-branch-check" && !m.Image:
		commit, ok := strings.CutPrefix(args[2], "revision=")
		if !ok {
			return refuse(root, name, args, errors.New("no revision"))
		}
		code = m.deploy(root, commit, hasCommit(filepath.Join(root, remotesDir, "edge.conf"), commit))
	case said == "rpm-ostree cleanup --pending":
		m.unstage()
		fmt.Println("Deployments unchanged.")
	case name == "bootc" && len(args) == 4 && slices.Equal(args[:3], []string{"switch", "--transport", "registry"}) && m.Image:
		code = m.deploy(root, args[3], nil)
	case name == "skopeo" && len(args) == 3 && args[0] == "inspect" && args[1] == "--raw" && strings.HasPrefix(args[2], "docker://registry."):
		if strings.Contains(args[2], "absent") {
			fmt.Fprintln(os.Stderr, `time="2026-11-22T05:00:00Z" level=fatal msg="Error parsing image name: reading manifest absent: manifest unknown"`)
			return 1
		}
		fmt.Println(`{"schemaVersion":2}`)
	case name == "ostree" && len(args) == 3 && args[1] == "init" && args[2] == "--mode=bare-user-only":
		code = initRepo(strings.TrimPrefix(args[0], "--repo="))
	case name == "ostree" && len(args) == 6 && slices.Equal(args[1:5], []string{"pull", "--commit-metadata-only", "--depth=0", "edge"}):
		if err := hasCommit(filepath.Join(strings.TrimPrefix(args[0], "--repo="), "config"), args[5]); err != nil {
			fmt.Fprintf(os.Stderr, "error: Importing %s.commit: %v\n", args[5], err)
			code = 1
		}
	default:
		return refuse(root, name, args, errors.New("unknown invocation"))
	}
	if err := m.store(root); err != nil {
		return refuse(root, name, args, err)
	}
	return code
}

func refuse(root, name string, args []string, err error) int {
	f, ferr := os.OpenFile(filepath.Join(root, "refused"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if ferr == nil {
		_, _ = fmt.Fprintf(f, "%s %q: %v\n", name, args, err)
		_ = f.Close()
	}
	fmt.Fprintln(os.Stderr, "error: Unknown command")
	return 64
}

func initRepo(repo string) int {
	if err := os.WriteFile(filepath.Join(repo, "config"), []byte("[core]\nrepo_version=1\nmode=bare-user-only\n"), 0o600); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		return 1
	}
	return 0
}

// hasCommit returns nil when the repository that the remote in the file names
// has the commit.
func hasCommit(config, commit string) error {
	text, err := os.ReadFile(config)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "url=file://"); ok {
			_, err := os.Stat(filepath.Join(path, "objects", commit[:2], commit[2:]+".commit"))
			return err
		}
	}
	return errors.New("the remote has no url")
}

// say prints the status, or what is to be printed instead.
func (m *machine) say(status func() string) {
	out := status()
	if len(m.Status) > 0 {
		out, m.Status = m.Status[0], m.Status[1:]
	}
	if out == "too much" {
		out = strings.Repeat("[", 4<<20+1)
	}
	fmt.Println(out)
}

// deploy stages id, or does what is known to go wrong with that.
func (m *machine) deploy(root, id string, missing error) int {
	how := ""
	if len(m.Deploy) > 0 {
		how, m.Deploy = m.Deploy[0], m.Deploy[1:]
	}
	switch {
	case how == "" && missing != nil:
		fmt.Fprintf(os.Stderr, "error: Importing %s.commit: %v\n", id, missing)
		return 1
	case how == "":
		m.stage(id)
		fmt.Println("Receiving objects: 42% (1/2)\nStaging deployment... done\nRun \"systemctl reboot\" to start a reboot")
	case how == "no change":
		fmt.Println("No change.")
	case how == "killed, and done": // the daemon goes on without its client
		m.stage(id)
		how = "killed"
	case strings.HasPrefix(how, "error: "):
		fmt.Fprintln(os.Stderr, "Receiving objects: 42% (1/2)\n"+how)
		return 1
	}
	if how == "killed" {
		if err := m.store(root); err == nil {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			time.Sleep(time.Minute)
		}
	}
	return 0
}

// rpmOstree is the machine in the JSON of rpm-ostree status.
func (m *machine) rpmOstree() string {
	type object = map[string]any
	deployments := []object{}
	for _, s := range m.Deployments {
		deployments = append(deployments, object{
			"id": fmt.Sprintf("fedora-iot-%s.%d", s.checksum(), s.Serial), "osname": "fedora-iot", "checksum": s.checksum(), "serial": s.Serial,
			"version": "41." + s.ID[:2], "timestamp": 1732233600, "origin": "edge:fedora/stable/x86_64/iot", "booted": s.Booted, "staged": s.Staged,
			"pinned": false, "packages": []string{}, "requested-packages": []string{}, "unlocked": "none", "gpg-enabled": false, "regenerate-initramfs": false,
		})
	}
	var transaction any
	if m.Transaction != "" {
		transaction = []string{m.Transaction, "client(id:cli dbus:1.80 unit:session-3.scope uid:0)", "unix:abstract=/tmp/x"}
	}
	raw, err := json.Marshal(object{"deployments": deployments, "transaction": transaction, "cached-update": nil, "update-driver": nil})
	if err != nil {
		return err.Error()
	}
	return string(raw)
}

// bootc is the machine in the JSON of bootc status.
func (m *machine) bootc() string {
	type object = map[string]any
	entry := func(s *system) object {
		return object{
			"image": object{
				"image":   object{"image": s.ID, "transport": "registry"},
				"version": "41." + s.ID[len(s.ID)-2:], "timestamp": nil, "imageDigest": "sha256:" + s.checksum(),
			},
			"cachedUpdate": nil, "incompatible": false, "pinned": false,
			"ostree": object{"checksum": s.checksum(), "deploySerial": s.Serial},
		}
	}
	status := object{"staged": nil, "booted": nil, "rollback": nil, "rollbackQueued": false, "type": nil}
	before := true
	for _, s := range m.Deployments {
		switch {
		case !m.Image:
		case s.Booted:
			status["booted"], status["type"], before = entry(s), "bootcHost", false
		case s.Staged:
			status["staged"] = entry(s)
		default:
			status["rollback"], status["rollbackQueued"] = entry(s), before
		}
	}
	raw, err := json.Marshal(object{"apiVersion": "org.containers.bootc/v1", "kind": "BootcHost", "metadata": object{"name": "host"}, "spec": object{"image": nil}, "status": status})
	if err != nil {
		return err.Error()
	}
	return string(raw)
}

// linkStandIns puts the stand-ins where the tools are.
func linkStandIns(t *testing.T, root string, names ...string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(root, "usr/bin")
	if err := os.MkdirAll(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		target := self
		if name == "ostree" && realOstree {
			if target, err = exec.LookPath(name); err != nil {
				t.Fatalf("ostree is needed for this test: run make setup: %v", err)
			}
		}
		if err := os.Symlink(target, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if raw, err := os.ReadFile(filepath.Join(root, "refused")); err == nil {
			t.Errorf("the tools were called as they never were before:\n%s", raw)
		}
	})
}
