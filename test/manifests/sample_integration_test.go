//go:build integration

package manifests_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Every sample is right to the letter.
func TestSamples(t *testing.T) {
	t.Parallel()
	var files []string
	for _, pattern := range []string{"*.yaml", "*/*.yaml"} {
		found, err := filepath.Glob(filepath.Join(cluster.root, "config/samples", pattern))
		if err != nil || len(found) == 0 {
			t.Fatalf("there are no samples %s: %v", pattern, err)
		}
		files = append(files, found...)
	}
	kinds := map[string]bool{}
	for _, file := range files {
		text := read(t, file)
		// The namespace that a sample brings along cannot be there in a dry run.
		text = strings.ReplaceAll(text, "namespace: factory", "namespace: default")
		kubectl(t, text, strict...)
		for line := range strings.Lines(text) {
			if kind, ok := strings.CutPrefix(line, "kind: "); ok {
				kinds[strings.TrimSpace(kind)] = true
			}
		}
	}
	for _, kind := range []string{
		"EdgeDevice", "EdgeDeviceSet", "EdgeDeviceSignedRequest", "EdgeWorkload", "EdgeConfig", "PlaybookExecution",
	} {
		if !kinds[kind] {
			t.Errorf("there is no sample of %s", kind)
		}
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Manifests of flotta v0.2 apply as they are, lose nothing, and apply again
// without a change.
func TestManifestsOfV02(t *testing.T) {
	t.Parallel()
	kubectl(t, "", "create", "namespace", "v02")
	dir := filepath.Join(cluster.root, "test/manifests/testdata/v02")
	kubectl(t, "", "apply", "--validate=strict", "-n", "v02", "-f", dir)
	if out, err := cluster.kube.Kubectl(t.Context(), "", "diff", "-n", "v02", "-f", dir); err != nil {
		t.Errorf("applied again, they would change: %s", out)
	}
	var list struct {
		Items []struct {
			Kind     string
			Metadata struct {
				Name        string
				Annotations map[string]string
			}
			Spec json.RawMessage
		}
	}
	kinds := "edgedevices,edgedevicesets,edsr,edgeworkloads,edgeconfigs,playbookexecutions"
	if err := json.Unmarshal([]byte(kubectl(t, "", "get", "-n", "v02", kinds, "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 8 {
		t.Errorf("%d objects, want 8", len(list.Items))
	}
	for _, item := range list.Items {
		var applied struct{ Spec json.RawMessage }
		if err := json.Unmarshal([]byte(item.Metadata.Annotations["kubectl.kubernetes.io/last-applied-configuration"]), &applied); err != nil {
			t.Fatal(err)
		}
		var wanted, got any
		if err := json.Unmarshal(applied.Spec, &wanted); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(item.Spec, &got); err != nil {
			t.Fatal(err)
		}
		lost(t, item.Kind+" "+item.Metadata.Name+": spec", wanted, got)
	}
}

// lost reports what was written and is not stored. Defaults may be added.
func lost(t *testing.T, path string, wanted, got any) {
	t.Helper()
	switch wanted := wanted.(type) {
	case map[string]any:
		stored, _ := got.(map[string]any)
		for key, value := range wanted {
			lost(t, path+"."+key, value, stored[key])
		}
	case []any:
		stored, _ := got.([]any)
		if len(stored) != len(wanted) {
			t.Errorf("%s: %d items stored, want %d", path, len(stored), len(wanted))
			return
		}
		for i, value := range wanted {
			lost(t, path+"[]", value, stored[i])
		}
	default:
		if wanted != got {
			t.Errorf("%s: %v stored, want %v", path, got, wanted)
		}
	}
}
