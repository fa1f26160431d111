package render_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"sigs.k8s.io/yaml"

	"github.com/project-flotta/flotta-agent/internal/render"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestGolden renders the objects of each archive in testdata and compares with
// what else is in it.
func TestGolden(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no golden files", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if len(archive.Files) == 0 || archive.Files[0].Name != "objects.yaml" {
				t.Fatal("the first file is not objects.yaml")
			}
			result := parse(t, string(archive.Files[0].Data)).render(t, nil)
			archive.Files = append(archive.Files[:1:1],
				txtar.File{Name: "message.yaml", Data: messageYAML(t, result)},
				txtar.File{Name: "problems.txt", Data: problemLines(result)},
				txtar.File{Name: "sources.txt", Data: sourceLines(result)},
			)
			got := txtar.Format(archive)
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(readFile(t, file), string(got)); diff != "" {
				t.Errorf("-want +got (-update writes it):\n%s", diff)
			}
		})
	}
}

func messageYAML(t *testing.T, r render.Result) []byte {
	t.Helper()
	text, err := yaml.JSONToYAML(r.JSON)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func problemLines(r render.Result) []byte {
	var b strings.Builder
	for _, p := range r.Problems {
		fmt.Fprintf(&b, "%s: %s: %s\n", p.Workload, p.Reason, p.Message)
	}
	return []byte(b.String())
}

func sourceLines(r render.Result) []byte {
	var b strings.Builder
	for _, s := range r.Sources {
		fmt.Fprintf(&b, "%s %s/%s\n", s.Kind, s.Namespace, s.Name)
	}
	return []byte(b.String())
}

// TestMinimalBytes fixes the bytes of the smallest message on the wire.
func TestMinimalBytes(t *testing.T) {
	t.Parallel()
	archive, err := txtar.ParseFile("testdata/minimal.txtar")
	if err != nil {
		t.Fatal(err)
	}
	result := parse(t, string(archive.Files[0].Data)).render(t, nil)
	want := `{"device_id":"dev1","version":"` + result.Version + `","configuration":{` +
		`"heartbeat":{"period_seconds":60,"hardware_profile":{}},` +
		`"metrics":{"receiver":{"timeout_seconds":10,"request_num_samples":30000}},"mounts":[]}}`
	if string(result.JSON) != want {
		t.Errorf("got  %s\nwant %s", result.JSON, want)
	}
}
