package architecture

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/project-flotta/flotta-agent"

// treeComplete says that every package the laws name exists, except those
// marked as coming later. A law about a package that is gone then fails, so a
// renamed package cannot escape its law.
const treeComplete = true

// later are packages that laws name already and that do not exist yet. An entry
// must go as soon as its package is there.
var later []string

// law limits the imports of the packages below one folder, direct and indirect.
type law struct {
	of     string   // folder relative to the root; holds for everything below it
	except []string // folders below it that have laws of their own
	allow  []string // the only folders of this module that may be imported, beside its own; nil means no limit
	never  []string // folders of this module, or import path prefixes, that may not be imported
	why    string
}

// none is the allow list of a leaf.
var none = []string{}

var laws = []law{
	// Leaves.
	{of: "internal/podman", allow: none, why: "it speaks libpod and does not know what a workload is"},
	{of: "internal/command", allow: none, why: "it runs programs and knows none"},
	{of: "internal/systemd", allow: []string{"internal/command"}, why: "it speaks to systemd and does not know what runs in the units"},
	{of: "internal/diskq", allow: none, why: "a queue does not know what it stores"},
	{of: "internal/pulse", allow: none, why: "it knows no loop"},
	{of: "internal/environ", allow: none, why: "it knows no program and no setting"},
	{of: "internal/durable", allow: none, why: "everything that must survive a power cut stands on it"},
	{of: "internal/pki", allow: none, why: "server and device share it"},
	{of: "internal/secret", allow: none, why: "everybody who holds a secret imports it"},

	{of: "internal/netns", allow: none, why: "it joins a network namespace and does not know whose"},
	{of: "internal/metrics/series", allow: none, why: "both ends of the metrics share it"},
	{of: "internal/metrics/remotewrite", allow: []string{"internal/metrics/series"}, why: "the protocol knows neither configuration nor spool"},
	{of: "internal/metrics/scrape", allow: []string{"internal/metrics/series"}, why: "a scrape is handed its way to the target"},
	{of: "internal/logs/syslog", allow: none, why: "the protocol knows neither configuration nor spool"},

	// The two public packages.
	{of: "pkg/protocol", allow: none, never: []string{"k8s.io", "sigs.k8s.io", "google.golang.org"}, why: "the device wire knows no transport and costs nobody a dependency"},
	{of: "pkg/api", allow: none, why: "the API types are imported by programs of others"},

	// The device. Data goes down as snapshots and up as status; nothing goes sideways.
	{of: "internal/desired", allow: []string{"internal/durable", "internal/secret", "pkg/protocol"}, why: "the desired state does not know who reads it"},
	{of: "internal/transport", never: []string{
		"internal/agent", "internal/datasync", "internal/desired", "internal/heartbeat", "internal/identity", "internal/workload",
	}, why: "a transport does not know what is in the messages it carries"},
	{of: "internal/workload", except: []string{"internal/workload/adapter"}, allow: reconcilerMay, why: "a reconciler reads the desired state and knows no other reconciler, nor Podman's or systemd's API"},
	{of: "internal/workload/adapter", allow: []string{
		"internal/command", "internal/desired", "internal/durable", "internal/host/devnode", "internal/host/mounts", "internal/host/socket", "internal/podman", "internal/pulse", "internal/secret", "internal/systemd", "internal/workload", "pkg/protocol",
	}, why: "it fits Podman and systemd to what the reconciler asks for, and is the only one there that knows them"},
	{of: "internal/datasync", allow: reconcilerMay, why: "a reconciler reads the desired state and knows no other reconciler"},
	{of: "internal/containers", allow: []string{"internal/podman"}, why: "it lists containers and does not know what is read from them"},
	{of: "internal/metrics", allow: readerMay, why: "a reconciler reads the desired state and knows no other reconciler"},
	{of: "internal/logs", allow: readerMay, why: "a reconciler reads the desired state and knows no other reconciler"},
	{of: "internal/takeover", allow: []string{
		"internal/command", "internal/desired", "internal/durable", "internal/podman", "internal/secret", "internal/systemd", "internal/workload/manifest", "pkg/protocol",
	}, why: "it knows what flotta v0.2 left, and not how workloads are run"},
	{of: "internal/doctor", allow: none, why: "it looks at the machine itself, so that it can be trusted when the agent cannot"},
	{of: "internal/bundle", allow: []string{"internal/secret"}, why: "it packs what it is handed and takes out what is secret"},
	{of: "internal/host/mounts/apply", allow: append([]string{"internal/host/mounts", "internal/systemd"}, reconcilerMay...), why: "it has the system's manager mount what is configured, and looks at the kernel's table of mounts"},
	{of: "internal/host/playbook", allow: append([]string{"internal/systemd", "internal/transport"}, reconcilerMay...), why: "it has the system's manager run playbooks, and asks the control plane for them"},
	{of: "internal/host", except: []string{"internal/host/mounts/apply", "internal/host/playbook"}, allow: reconcilerMay, why: "a reconciler reads the desired state and knows no other reconciler"},
	{of: "internal/heartbeat", never: []string{
		"internal/agent", "internal/datasync", "internal/host", "internal/logs", "internal/metrics", "internal/workload",
	}, why: "heartbeat pulls status through what it defines itself; it imports no reconciler"},
	{of: "internal/console", allow: []string{"pkg/protocol"}, why: "it shows what it is given and knows no component"},
	{of: "internal/identity", never: []string{
		"internal/agent", "internal/datasync", "internal/heartbeat", "internal/workload",
	}, why: "who the device is does not depend on what it runs"},

	// The control plane.
	{of: "internal/render", allow: []string{"pkg/api", "pkg/protocol"}, never: []string{"k8s.io/client-go", "sigs.k8s.io/controller-runtime"}, why: "rendering is pure; both backends share it"},
	{of: "internal/fleet", allow: []string{"internal/render", "pkg/api", "pkg/protocol"}, never: []string{
		"k8s.io/client-go", "sigs.k8s.io/controller-runtime",
	}, why: "rules on objects are pure; operator and backends share them"},
	{of: "internal/edgeapi", except: []string{"internal/edgeapi/backend/kube"}, never: []string{
		"k8s.io/client-go", "sigs.k8s.io/controller-runtime",
	}, why: "an Edge API without a cluster needs no client of one"},
	{of: "internal/edgeapi/backend/file", never: []string{
		"internal/edgeapi/backend/kube", "internal/edgeapi/backend/remote",
	}, why: "backends do not know each other"},
	{of: "internal/edgeapi/backend/kube", never: []string{
		"internal/edgeapi/backend/file", "internal/edgeapi/backend/remote",
	}, why: "backends do not know each other"},
	{of: "internal/edgeapi/backend/remote", never: []string{
		"internal/edgeapi/backend/file", "internal/edgeapi/backend/kube",
	}, why: "backends do not know each other"},
	{of: "internal/edgeapi", never: []string{
		"internal/agent", "internal/datasync", "internal/desired", "internal/heartbeat", "internal/identity",
		"internal/operator", "internal/podman", "internal/systemd", "internal/transport", "internal/workload",
	}, why: "server and device share the wire, not code"},
	{of: "internal/operator", never: []string{"internal/agent", "internal/desired", "internal/edgeapi", "internal/workload"}, why: "the operator reconciles objects and knows no device"},

	// What is linked into the agent, whichever way it comes in.
	{of: "cmd/flotta-agent", never: []string{
		"internal/edgeapi", "internal/fleet", "internal/operator", "internal/render",
	}, why: "the device carries nothing of the control plane"},
	{of: "cmd/flotta-agent", never: []string{
		"k8s.io", "sigs.k8s.io/controller-runtime",
	}, why: "the agent links no Kubernetes library: 13 MB of binary against 26"},
	{of: "cmd/flotta-agent", never: []string{
		"github.com/containers", "go.podman.io", "github.com/docker",
	}, why: "the agent links no container engine"},
	{of: "cmd", never: []string{"test", "testing"}, why: "no test code is shipped"},
}

var reconcilerMay = []string{
	"internal/command", "internal/desired", "internal/diskq", "internal/durable", "internal/pulse", "internal/secret", "pkg/protocol",
}

// readerMay is for those who also read from the containers of workloads.
var readerMay = append([]string{"internal/containers", "internal/netns", "internal/podman"}, reconcilerMay...)

// listed is what `go list -json` tells of a package.
type listed struct {
	ImportPath string
	Standard   bool
	Imports    []string
	Deps       []string
	Error      *struct{ Err string }
}

func TestImports(t *testing.T) {
	t.Parallel()
	packages := list(t)
	for _, l := range laws {
		found := false
		for _, p := range packages {
			if !below(p.ImportPath, path.Join(module, l.of)) || anyBelow(p.ImportPath, l.except) {
				continue
			}
			found = true
			for _, reason := range l.broken(p) {
				t.Errorf("%s imports %s: %s", p.ImportPath, reason, l.why)
			}
		}
		checkPresence(t, l.of, found)
	}
}

// TestOnlyProgramsImportTheRoot keeps the composition root at the top.
func TestOnlyProgramsImportTheRoot(t *testing.T) {
	t.Parallel()
	root := path.Join(module, "internal/agent")
	for _, p := range list(t) {
		inside := below(p.ImportPath, root) || below(p.ImportPath, path.Join(module, "cmd"))
		if !inside && slices.Contains(p.Deps, root) {
			t.Errorf("%s imports %s: only the programs stand above the composition root", p.ImportPath, root)
		}
	}
}

// TestLaterPackages keeps the list of what is to come honest.
func TestLaterPackages(t *testing.T) {
	t.Parallel()
	for _, p := range list(t) {
		for _, folder := range later {
			if below(p.ImportPath, path.Join(module, folder)) {
				t.Errorf("%s exists: take %s from the list of later packages", p.ImportPath, folder)
			}
		}
	}
}

func checkPresence(t *testing.T, folder string, found bool) {
	t.Helper()
	if found || slices.Contains(later, folder) {
		return
	}
	if treeComplete {
		t.Errorf("no package in %s, though a law names it: rename it in the law, too", folder)
		return
	}
	t.Logf("no package in %s yet", folder)
}

// broken returns the imports of p that the law forbids.
func (l law) broken(p listed) []string {
	var found []string
	for _, dep := range p.Deps {
		inModule := below(dep, module)
		switch {
		case l.allow != nil && inModule && !below(dep, path.Join(module, l.of)) && !anyBelow(dep, l.allow):
			found = append(found, dep)
		case anyBelow(dep, l.never):
			found = append(found, dep)
		}
	}
	return found
}

// anyBelow reports whether an import path lies in one of the folders, each of
// which is a folder of this module or an import path.
func anyBelow(importPath string, folders []string) bool {
	return slices.ContainsFunc(folders, func(f string) bool {
		return below(importPath, f) || below(importPath, path.Join(module, f))
	})
}

func below(importPath, folder string) bool {
	return importPath == folder || strings.HasPrefix(importPath, folder+"/")
}

// list asks the go command for every package of the module, as they are built
// for a release.
func list(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-tags", "grpcnotrace", "-json=ImportPath,Standard,Imports,Deps,Error", "./...")
	cmd.Dir = root
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var packages []listed
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("decode answer of go list: %v", err)
		}
		packages = append(packages, p)
	}
	if len(packages) == 0 {
		t.Fatal("go list names no package")
	}
	return packages
}
