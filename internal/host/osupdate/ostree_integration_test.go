//go:build integration

package osupdate

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/command"
	"github.com/project-flotta/flotta-agent/internal/console"
)

// realOstree says that ostree is the distribution's, and not a stand-in. All
// tests of a device's life run with it, too.
const realOstree = true

// stride leaves out no step at which an update could be interrupted.
const stride = 1

// repository returns the path of a new repository.
func repository(t *testing.T) string {
	t.Helper()
	repo := filepath.Join(t.TempDir(), "repo")
	ostree(t, "--repo="+repo, "init", "--mode=archive")
	return repo
}

// commit makes a commit with text in it.
func commit(t *testing.T, repo, text string) string {
	t.Helper()
	tree := t.TempDir()
	write(t, filepath.Join(tree, "file"), text)
	return strings.TrimSpace(ostree(t, "--repo="+repo, "commit", "--branch=fedora/stable/x86_64/iot", "--orphan", "--subject="+text, tree))
}

func ostree(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("ostree", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ostree %v: %v: %s (make setup installs ostree)", args, err, out)
	}
	return string(out)
}

// host returns the rpm-ostree of a machine with a repository of its own, whose
// remotes are below root.
func host(t *testing.T, conf string) (*rpmOstree, string) {
	t.Helper()
	root := t.TempDir()
	linkStandIns(t, root, "ostree")
	for _, dir := range []string{remotesDir, "scratch"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if conf != "" {
		write(t, filepath.Join(root, remotesDir, "edge.conf"), conf)
	}
	run := runner{command.Runner{Dirs: []string{filepath.Join(root, "usr/bin")}, Grace: time.Second}}
	return &rpmOstree{run: run, root: root, scratch: filepath.Join(root, "scratch"), origin: "edge:fedora/stable/x86_64/iot"}, root
}

// TestScriptsAreClean has shellcheck look at the scripts of greenboot.
func TestScriptsAreClean(t *testing.T) {
	t.Parallel()
	for _, name := range []string{checkScript, redScript} {
		if out, err := exec.Command("shellcheck", filepath.Join("../../../rpm/greenboot", name)).CombinedOutput(); err != nil {
			t.Errorf("shellcheck: %v: %s (make setup installs it)", err, out)
		}
	}
}

// TestCheckScriptAsksTheAgent runs greenboot's check with the program itself.
func TestCheckScriptAsksTheAgent(t *testing.T) {
	t.Parallel()
	root, n := bootedHost(t)
	program := filepath.Join(t.TempDir(), "flotta-agent")
	build := exec.Command("go", "build", "-o", program, "../../../cmd/flotta-agent")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	socket := filepath.Join(root, "agent.sock")
	hostCommand(t, root, "flotta-agent", "exec "+program+" \"$@\" --socket "+socket)
	hostCommand(t, root, "systemctl", "exit 0")
	if err := n.expect("ee.0", true); err != nil {
		t.Fatal(err)
	}
	patience(t, root, 3)
	if out, code := script(t, "bash", root, checkScript); code != 1 || !strings.Contains(out, "status: 2") {
		t.Errorf("nobody answers, and it ended with %d: %s", code, out)
	}
	var sick atomic.Bool
	sick.Store(true)
	server, err := console.New(console.Config{Socket: socket, Group: -1, Collect: func() console.Document {
		workload := console.Workload{Name: "web", Phase: "Running", DesiredDigest: "d", AppliedDigest: "d"}
		if sick.Load() {
			workload = console.Workload{Name: "web", Phase: "Error", Reason: "ImagePullFailed"}
		}
		return console.Document{Version: "1", Workloads: []console.Workload{workload}}
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	if out, code := script(t, "bash", root, checkScript); code != 1 || !strings.Contains(out, "status: 1") {
		t.Errorf("a workload fails that did not before, and it ended with %d: %s", code, out)
	}
	sick.Store(false)
	patience(t, root, 60)
	if out, code := script(t, "bash", root, checkScript); code != 0 || !strings.Contains(out, "good") {
		t.Errorf("all is well, and it ended with %d: %s", code, out)
	}
}

// TestLookup asks a web server for commits.
func TestLookup(t *testing.T) {
	t.Parallel()
	repo := repository(t)
	id := commit(t, repo, "new")
	var agent string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("User-Agent") != "" {
			agent = r.Header.Get("User-Agent")
		}
		http.FileServer(http.Dir(repo)).ServeHTTP(w, r)
	}))
	defer server.Close()
	target, root := host(t, "[remote \"edge\"]\nurl=http://127.0.0.1:1/\ngpg-verify=true\nhttp2=false\n")
	before := read(t, filepath.Join(root, remotesDir, "edge.conf"))
	if err := target.Lookup(t.Context(), Goal{Commit: id, URL: server.URL}); err != nil {
		t.Errorf("there is such a commit: %v", err)
	}
	if !strings.Contains(agent, "ostree") {
		t.Errorf("it was not ostree that asked, but %q", agent)
	}
	absent := strings.Repeat("0", 64)
	if err := target.Lookup(t.Context(), Goal{Commit: absent, URL: server.URL}); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("there is no such commit: %v", err)
	}
	if err := target.Lookup(t.Context(), Goal{Commit: id}); err == nil || !strings.Contains(err.Error(), "127.0.0.1") {
		t.Errorf("where the remote is, nobody listens: %v", err)
	}
	if after := read(t, filepath.Join(root, remotesDir, "edge.conf")); after != before {
		t.Errorf("looking up has changed the remote:\n%s", after)
	}
	// A commit that is something else than its name says.
	dir := filepath.Join(repo, "objects", "00")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, absent[2:]+".commit"), "nonsense")
	if err := target.Lookup(t.Context(), Goal{Commit: absent, URL: server.URL}); err == nil || !strings.Contains(strings.ToLower(err.Error()), "corrupt") {
		t.Errorf("a damaged commit: %v", err)
	}
	if left, err := os.ReadDir(target.scratch); err != nil || len(left) > 0 {
		t.Errorf("looking up left %v, %v", left, err)
	}
}

// TestOstreeReadsRemote: what was edited is what ostree reads, and pulls from.
func TestOstreeReadsRemote(t *testing.T) {
	t.Parallel()
	repo := repository(t)
	id := commit(t, repo, "new")
	for name, conf := range map[string]string{
		"none":           "",
		"usual":          "[remote \"edge\"]\nurl=http://127.0.0.1:1/\ngpg-verify=false\n",
		"without url":    "[remote \"edge\"]\ngpg-verify=false",
		"with others":    "# x\n[remote \"other\"]\nurl=http://other/\n\n[remote \"edge\"]\n# mine\n url = http://127.0.0.1:1/ \ngpg-verify=false\n\n[remote \"edge2\"]\nurl=http://edge2/",
		"twice the url":  "[remote \"edge\"]\nurl=http://1/\ngpg-verify=false\nurl=http://2/\n",
		"twice the head": "[remote \"edge\"]\nurl=http://1/\n[remote \"x\"]\nurl=http://x/\n[remote \"edge\"]\ngpg-verify=false\nurl=http://2/\n",
	} {
		target, root := host(t, conf)
		if err := target.Source(t.Context(), Goal{URL: "file://" + repo}); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		mine := filepath.Join(root, "mine")
		ostree(t, "--repo="+mine, "init", "--mode=archive")
		ostree(t, "--repo="+mine, "config", "set", "core.add-remotes-config-dir", "true")
		text := read(t, filepath.Join(mine, "config")) + read(t, filepath.Join(root, remotesDir, "edge.conf"))
		write(t, filepath.Join(mine, "config"), text)
		if got := strings.TrimSpace(ostree(t, "--repo="+mine, "remote", "show-url", "edge")); got != "file://"+repo {
			t.Errorf("%s: ostree reads %q from\n%s", name, got, text)
		}
		if conf != "" {
			ostree(t, "--repo="+mine, "pull", "--commit-metadata-only", "edge", id)
		}
		others := map[string]string{"other": "http://other/", "edge2": "http://edge2/"}
		for remote, url := range others {
			if !strings.Contains(conf, `"`+remote+`"`) {
				continue
			}
			if diff := cmp.Diff(url, strings.TrimSpace(ostree(t, "--repo="+mine, "remote", "show-url", remote))); diff != "" {
				t.Errorf("%s: remote %s (-want +got):\n%s", name, remote, diff)
			}
		}
	}
}
