package file

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/render"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
)

func TestManifestsComeChangeAndGo(t *testing.T) {
	t.Parallel()
	r := newRig(t, t.TempDir())
	d := r.enrolled("dev1")
	start := time.Now()
	r.save("a.yaml", workload("w1", "dev1", "img:1"))
	r.eventually("new", func() bool { return r.workloads(d) == "w1" })
	t.Logf("from the save to the configuration: %s", time.Since(start))
	r.save("a.yaml", workload("w1", "dev1", "img:2"))
	r.eventually("changed", func() bool { return r.image(d, "w1") == "img:2" })
	r.save("deep/er/b.yml", workload("w2", "dev1", "img:1"))
	r.eventually("in a new folder", func() bool { return r.workloads(d) == "w1 w2" })
	r.save("deep/er/c.json", `{"apiVersion":"management.project-flotta.io/v1alpha1","kind":"EdgeWorkload","metadata":{"name":"w3"},
		"spec":{"type":"pod","deviceSelector":{"matchLabels":{"zone":"a"}},"pod":{"spec":{"containers":[{"name":"c","image":"i"}]}}}}`)
	r.save("dev1.yaml", `{apiVersion: management.project-flotta.io/v1alpha1, kind: EdgeDevice, metadata: {name: dev1, labels: {zone: a}}}`)
	r.eventually("by label", func() bool { return r.workloads(d) == "w1 w2 w3" })
	r.must(os.RemoveAll(filepath.Join(r.dir, manifestsDir, "deep")))
	r.eventually("folder removed", func() bool { return r.workloads(d) == "w1" })
	r.must(os.Rename(filepath.Join(r.dir, manifestsDir, "a.yaml"), filepath.Join(r.dir, manifestsDir, "a.yaml.off")))
	r.eventually("renamed away", func() bool { return r.workloads(d) == "" })
	r.eventually("status follows", func() bool { return len(r.stored(d).Status.Workloads) == 0 })
}

// However a file is saved, the device is at no time told to remove what is in it.
func TestSavingNeverDropsAWorkload(t *testing.T) {
	t.Parallel()
	path := func(r *rig) string { return filepath.Join(r.dir, manifestsDir, "a.yaml") }
	for name, write := range map[string]func(r *rig, text string){
		"in place, in pieces": func(r *rig, text string) {
			f, err := os.Create(path(r)) // empties it
			r.must(err)
			defer f.Close()
			for len(text) > 0 {
				n := min(40, len(text))
				_, err := f.WriteString(text[:n])
				r.must(err)
				text = text[n:]
				time.Sleep(time.Millisecond) // a slow writer: what is tested, not a wait
			}
		},
		"emptied first": func(r *rig, text string) {
			r.must(os.Truncate(path(r), 0))
			time.Sleep(3 * r.cfg.Settle)
			r.must(os.WriteFile(path(r), []byte(text), 0o600))
		},
		"removed first": func(r *rig, text string) {
			r.must(os.Remove(path(r)))
			time.Sleep(r.cfg.Settle)
			r.must(os.WriteFile(path(r), []byte(text), 0o600))
		},
		"moved to a backup first": func(r *rig, text string) {
			r.must(os.Rename(path(r), path(r)+"~"))
			r.must(os.WriteFile(path(r), []byte(text), 0o600))
		},
		"by renaming": func(r *rig, text string) { r.save("a.yaml", text) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, t.TempDir())
			d := r.enrolled("dev1")
			r.save("a.yaml", workload("w1", "dev1", "img:0")+"---\n"+workload("w2", "dev1", "img:0"))
			r.eventually("there", func() bool { return r.workloads(d) == "w1 w2" })
			for i := 1; i <= 5; i++ {
				done := make(chan struct{})
				image := fmt.Sprintf("img:%d", i)
				go func() {
					defer close(done)
					write(r, workload("w1", "dev1", image)+"---\n"+workload("w2", "dev1", image))
				}()
				r.eventually(image, func() bool {
					if got := r.workloads(d); got != "w1 w2" {
						t.Fatalf("told to run %q", got)
					}
					return r.image(d, "w1") == image && r.image(d, "w2") == image
				})
				<-done
			}
		})
	}
}

func TestBrokenDocumentAffectsWhatItDescribes(t *testing.T) {
	t.Parallel()
	r := newRig(t, t.TempDir())
	d := r.enrolled("dev1")
	other := r.enrolled("dev2")
	r.save("a.yaml", workload("w1", "dev1", "img:1")+"---\n"+workload("w2", "dev1", "img:1"))
	r.save("b.yaml", workload("w3", "dev1", "img:1"))
	r.eventually("there", func() bool { return r.workloads(d) == "w1 w2 w3" })

	// w1 gets a field that does not exist, w2 changes, w4 is new.
	broken := strings.Replace(workload("w1", "dev1", "img:2"), "type: pod", "tipe: pod", 1)
	r.save("a.yaml", broken+"---\n"+workload("w2", "dev1", "img:2")+"---\n"+workload("w4", "dev1", "img:2"))
	r.eventually("the good ones changed", func() bool { return r.image(d, "w2") == "img:2" && r.image(d, "w4") == "img:2" })
	if got := r.workloads(d); got != "w1 w2 w3 w4" || r.image(d, "w1") != "img:1" {
		t.Errorf("told to run %s, w1 with %s", got, r.image(d, "w1"))
	}
	r.eventually("problem listed", func() bool { return len(r.problemList()) == 1 })
	p := r.problemList()[0]
	if p.File != "manifests/a.yaml" || p.Line != 1 || p.Object != "EdgeWorkload default/w1" || !strings.Contains(p.Message, "tipe") {
		t.Errorf("problem: %+v", p)
	}
	r.eventually("named in the status", func() bool {
		status, reason, message := condition(r.stored(d), v1alpha1.ConditionDegraded)
		return status == "True" && reason == render.ReasonInvalidManifest && strings.Contains(message, "tipe")
	})
	for _, w := range r.stored(d).Status.Workloads {
		if (w.Name == "w1") != (w.Reason == render.ReasonInvalidManifest) {
			t.Errorf("workload %s: reason %q", w.Name, w.Reason)
		}
	}
	r.eventually("another device is not degraded", func() bool {
		status, _, _ := condition(r.stored(other), v1alpha1.ConditionDegraded)
		return status == "False"
	})
	if n := strings.Count(r.log.String(), "file not usable as it is"); n != 1 {
		t.Errorf("named %d times in the log", n)
	}

	// No YAML at all: everything that the file had counts.
	r.save("a.yaml", "{{{ nothing : that [ parses")
	r.eventually("problem changed", func() bool { return len(r.problemList()) == 1 && r.problemList()[0].Object == "" })
	if got := r.workloads(d); got != "w1 w2 w3 w4" {
		t.Errorf("told to run %s", got)
	}
	r.eventually("status names the file", func() bool {
		_, _, message := condition(r.stored(d), v1alpha1.ConditionDegraded)
		return strings.Contains(message, "manifests/a.yaml")
	})

	// Repaired, without w4: gone for good.
	r.save("a.yaml", workload("w1", "dev1", "img:3")+"---\n"+workload("w2", "dev1", "img:3"))
	r.eventually("repaired", func() bool { return r.workloads(d) == "w1 w2 w3" && r.image(d, "w1") == "img:3" })
	r.eventually("no problem", func() bool {
		status, _, _ := condition(r.stored(d), v1alpha1.ConditionDegraded)
		return len(r.problemList()) == 0 && status == "False"
	})
}

// A new workload that is broken from the start is named where it was meant for.
func TestBrokenFromTheStartIsNamedAtTheDeviceItIsFor(t *testing.T) {
	t.Parallel()
	r := newRig(t, t.TempDir())
	d, other := r.enrolled("dev1"), r.enrolled("dev2")
	r.save("a.yaml", strings.Replace(workload("w1", "dev1", "i"), "type: pod", "tipe: pod", 1))
	r.eventually("named", func() bool {
		_, _, message := condition(r.stored(d), v1alpha1.ConditionDegraded)
		return strings.Contains(message, "manifests/a.yaml")
	})
	r.eventually("another device is not degraded", func() bool {
		status, _, _ := condition(r.stored(other), v1alpha1.ConditionDegraded)
		return status == "False"
	})
}

// A manifest that is broken when the server starts counts as it did before.
func TestLastGoodSurvivesARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := newRig(t, dir)
	d := r.enrolled("dev1")
	r.save("a.yaml", workload("w1", "dev1", "img:1"))
	r.eventually("there", func() bool { return r.workloads(d) == "w1" })
	before := r.message(d).Version
	r.stop()
	for name, text := range map[string]string{
		"cut": workload("w1", "dev1", "img:2")[:60], "empty": "", "unknown field": strings.Replace(workload("w1", "dev1", "img:2"), "type: pod", "x: 1", 1),
	} {
		save(t, dir, "a.yaml", text)
		next := newRig(t, dir)
		if got := next.message(d); got.Version != before {
			t.Errorf("%s: configuration changed to %+v", name, got)
		}
		if len(next.problemList()) != 1 {
			t.Errorf("%s: problems %v", name, next.problemList())
		}
		next.stop()
	}
	r.must(os.Remove(filepath.Join(dir, manifestsDir, "a.yaml")))
	last := newRig(t, dir)
	if got := last.workloads(d); got != "" {
		t.Errorf("removed while the server was down, but told to run %s", got)
	}
	entries, err := os.ReadDir(filepath.Join(dir, statusDir, goodDir))
	r.must(err)
	if len(entries) != 0 {
		t.Errorf("copies left: %v", entries)
	}
}

func TestFirstOfTwoCounts(t *testing.T) {
	t.Parallel()
	r := newRig(t, t.TempDir())
	d := r.enrolled("dev1")
	r.save("b.yaml", workload("w1", "dev1", "img:b"))
	r.eventually("b", func() bool { return r.image(d, "w1") == "img:b" })
	r.save("a.yaml", workload("w1", "dev1", "img:a"))
	r.eventually("a", func() bool { return r.image(d, "w1") == "img:a" })
	r.eventually("named", func() bool {
		list := r.problemList()
		return len(list) == 1 && list[0].File == "manifests/b.yaml" && strings.Contains(list[0].Message, "manifests/a.yaml")
	})
	r.must(os.Remove(filepath.Join(r.dir, manifestsDir, "a.yaml")))
	r.eventually("b again", func() bool { return r.image(d, "w1") == "img:b" })
}

// What is not a manifest is left alone.
func TestOtherFilesAreIgnored(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{".a.yaml.swp", ".#a.yaml", ".hidden/b.yaml", "README.md", "c.yaml~", "d.yaml.bak"} {
		save(t, dir, name, "{{{")
	}
	if err := os.Symlink("/nowhere", filepath.Join(dir, manifestsDir, "dangling.yaml")); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, dir)
	if list := r.problemList(); len(list) != 0 {
		t.Errorf("problems: %v", list)
	}
}

// A file that no notice is sent for is found by the periodic scan.
func TestRescanFindsWhatWasNotNoticed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	target := filepath.Join(t.TempDir(), "elsewhere")
	if err := os.WriteFile(target, []byte(workload("w1", "dev1", "img:1")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, manifestsDir), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, filepath.Join(dir, manifestsDir, "link.yaml")); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, dir, func(c *Config) { c.Rescan = 50 * time.Millisecond })
	d := r.enrolled("dev1")
	r.must(os.WriteFile(target, []byte(workload("w1", "dev1", "img:2")), 0o600))
	r.eventually("changed behind the link", func() bool { return r.image(d, "w1") == "img:2" })
}

// A folder that cannot be listed is not an empty one.
func TestManifestFolderGone(t *testing.T) {
	t.Parallel()
	r := newRig(t, t.TempDir(), func(c *Config) { c.Rescan = 50 * time.Millisecond })
	d := r.enrolled("dev1")
	r.save("a.yaml", workload("w1", "dev1", "img:1"))
	r.eventually("there", func() bool { return r.workloads(d) == "w1" })
	from, to := filepath.Join(r.dir, manifestsDir), filepath.Join(r.dir, "moved")
	r.must(os.Rename(from, to))
	r.eventually("not ready", func() bool { return r.Ready(context.Background()) != nil })
	if got := r.workloads(d); got != "w1" {
		t.Errorf("told to run %q", got)
	}
	r.must(os.Rename(to, from))
	r.eventually("ready", func() bool { return r.Ready(context.Background()) == nil })
	r.save("a.yaml", workload("w1", "dev1", "img:2"))
	r.eventually("followed again", func() bool { return r.image(d, "w1") == "img:2" })
}

func TestThousandManifests(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for i := range 1000 {
		save(t, dir, fmt.Sprintf("%d/w%d.yaml", i%10, i), workload(fmt.Sprintf("w%d", i), fmt.Sprintf("dev%d", i%5), "img:1"))
	}
	start := time.Now()
	r := newRig(t, dir)
	t.Logf("opened in %s", time.Since(start))
	d := r.enrolled("dev3")
	if got := len(r.message(d).Workloads); got != 200 {
		t.Fatalf("%d workloads, want 200", got)
	}
	start = time.Now()
	r.save("3/w503.yaml", workload("w503", "dev3", "img:2"))
	r.eventually("changed", func() bool { return r.image(d, "w503") == "img:2" })
	t.Logf("one of 1000 changed, in force after %s", time.Since(start))
}

// The configuration of a device is rendered again only when something that it is
// made of changed.
func TestRenderedOnlyWhenSomethingChanged(t *testing.T) {
	t.Parallel()
	r := newRig(t, t.TempDir())
	d := r.enrolled("dev1")
	current := func() *rendering {
		_, err := r.Configuration(context.Background(), d)
		r.must(err)
		r.mu.RLock()
		defer r.mu.RUnlock()
		return r.devices[d].rendered
	}
	objects := func() int {
		r.mu.RLock()
		defer r.mu.RUnlock()
		return len(r.catalog.objects)
	}
	r.save("a.yaml", workload("w1", "dev1", "img:1"))
	r.eventually("there", func() bool { return r.workloads(d) == "w1" })
	first := current()
	for range 10 {
		if current() != first {
			t.Fatal("rendered again for a poll")
		}
	}
	r.save("other.yaml", `{apiVersion: v1, kind: ConfigMap, metadata: {name: unrelated}}`+"\n---\n"+
		`{apiVersion: v1, kind: Secret, metadata: {name: unrelated, namespace: elsewhere}}`)
	r.eventually("read", func() bool { return objects() == 3 })
	r.save("a.yaml", "# a comment\n"+workload("w1", "dev1", "img:1"))
	if current() != first && current().result.Version != first.result.Version {
		t.Error("unrelated objects changed the version")
	}
	r.save("a.yaml", workload("w1", "dev1", "img:2"))
	r.eventually("changed", func() bool { return r.image(d, "w1") == "img:2" })
	if current() == first || current().at.Before(first.at) {
		t.Error("not rendered again")
	}
}

func TestSplitDocuments(t *testing.T) {
	t.Parallel()
	text := "\xef\xbb\xbfa: 1\n---\n# nothing\n--- \nb: |\n  ---\n  x\n---x: no separator\n---\n\n--- {c: 3}\n"
	var got []string
	for _, doc := range splitDocuments([]byte(text)) {
		got = append(got, fmt.Sprintf("%d:%s", doc.line, strings.TrimSpace(string(doc.text))))
	}
	want := []string{"1:a: 1", "2:# nothing", "4:b: |\n  ---\n  x\n---x: no separator", "11:{c: 3}"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	flotta := "apiVersion: management.project-flotta.io/v1alpha1\n"
	for name, text := range map[string]string{
		"no kind":          "metadata: {name: x}",
		"unknown kind":     "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}",
		"other version":    "apiVersion: management.project-flotta.io/v1\nkind: EdgeWorkload\nmetadata: {name: x}",
		"no name":          "apiVersion: v1\nkind: ConfigMap\nmetadata: {}",
		"bad name":         "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ../../x}",
		"bad namespace":    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: a/b}",
		"duplicate key":    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: b}\ndata: {c: d}",
		"unknown field":    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndatum: {a: b}",
		"no pod":           flotta + "kind: EdgeWorkload\nmetadata: {name: x}\nspec: {type: pod}",
		"no containers":    flotta + "kind: EdgeWorkload\nmetadata: {name: x}\nspec: {type: pod, pod: {spec: {}}}",
		"bad pod":          flotta + "kind: EdgeWorkload\nmetadata: {name: x}\nspec: {type: pod, pod: {spec: {containers: 7}}}",
		"other type":       flotta + "kind: EdgeWorkload\nmetadata: {name: x}\nspec: {type: vm, pod: {spec: {containers: [{name: a, image: b}]}}}",
		"bad selector":     flotta + "kind: EdgeWorkload\nmetadata: {name: x}\nspec: {type: pod, deviceSelector: {matchLabels: {'a b': c}}, pod: {spec: {containers: [{name: a, image: b}]}}}",
		"long workload":    strings.Replace(workload("x", "d", "i"), "name: x", "name: "+strings.Repeat("x", 64), 1),
		"no target":        flotta + "kind: EdgeDeviceSignedRequest\nmetadata: {name: x}\nspec: {approved: true}",
		"a scalar":         "hello",
		"a list":           "[1, 2]",
		"a tab":            "a:\n\t- b",
		"an alias bomb":    "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b,*nope]",
		"kind as a number": "apiVersion: v1\nkind: 7\nmetadata: {name: x}",
	} {
		objects, broken := decodeManifest("f", []byte(text))
		if len(objects) != 0 || len(broken) != 1 {
			t.Errorf("%s: %d objects, %d broken", name, len(objects), len(broken))
		}
	}
}

func TestDecodeList(t *testing.T) {
	t.Parallel()
	objects, broken := decodeManifest("f", []byte(`apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}
- {apiVersion: v1, kind: Secret, metadata: {name: b, namespace: ns}, stringData: {x: y}}
- {apiVersion: v1, kind: Nonsense, metadata: {name: c}}
`))
	if len(objects) != 2 || len(broken) != 1 || objects[1].key != (objectKey{"Secret", "ns", "b"}) || broken[0].key.name != "c" {
		t.Errorf("%v, %v", objects, broken)
	}
}

func FuzzDecodeManifest(f *testing.F) {
	f.Add([]byte(workload("w1", "dev1", "img:1")), []byte(workload("w2", "dev1", "img:1")))
	f.Add([]byte("a: 1\n---\n---\n"), []byte("{{{"))
	f.Add([]byte("apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: List, items: [null, 1, []]}]"), []byte(""))
	f.Add([]byte("apiVersion: v1\nkind: Secret\nmetadata: {name: s, creationTimestamp: null}\ndata: {a: '!'}"), []byte("---"))
	f.Add([]byte("a: &a [*a]"), []byte("\x00"))
	f.Add([]byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}}`), []byte("? {a: b}\n: c"))
	f.Fuzz(func(t *testing.T, before, after []byte) {
		previous, _ := decodeManifest("f", before)
		objects, broken := decodeManifest("f", after)
		for _, o := range objects {
			if o.key.name != o.value.GetName() || o.key.namespace != o.value.GetNamespace() || o.key.name == "" || o.line < 1 {
				t.Errorf("object %v is %s/%s", o.key, o.value.GetNamespace(), o.value.GetName())
			}
		}
		for _, b := range broken {
			if b.err == nil {
				t.Error("broken without a reason")
			}
		}
		force := inForce(previous, objects, broken)
		if len(broken) == 0 && len(force) != len(objects) || len(force) < len(objects) {
			t.Errorf("%d objects, %d in force", len(objects), len(force))
		}
		newCatalog([]*manifest{{path: "f", objects: force}})
	})
}
