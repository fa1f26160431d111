package manifest_test

import (
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
)

// TestKeepGroups looks at who keeps the groups of the user that runs the pods.
func TestKeepGroups(t *testing.T) {
	t.Parallel()
	const key = "run.oci.keep_original_groups"
	const device = "volumes: [{name: d, hostPath: {path: /dev/ttyS0, type: CharDevice}}]\n"
	for name, c := range map[string]struct {
		spec        string
		annotations map[string]string
		root        bool
		keeps       bool
		says        string // in the manifest
	}{
		"no device":            {},
		"a device":             {spec: device, keeps: true, says: `"1"`},
		"a block device":       {spec: strings.Replace(device, "Char", "Block", 1), keeps: true, says: `"1"`},
		"a file":               {spec: strings.Replace(device, "CharDevice", "File", 1)},
		"root":                 {spec: device, root: true},
		"other groups":         {spec: device + "securityContext: {supplementalGroups: [5]}\n"},
		"other security":       {spec: device + "securityContext: {runAsUser: 5, supplementalGroups: []}\n", keeps: true, says: `"1"`},
		"asked for":            {annotations: map[string]string{key: "1"}, keeps: true, says: `"1"`},
		"asked for, with root": {spec: device, root: true, annotations: map[string]string{key: "1"}, keeps: true, says: `"1"`},
		"asked not to":         {spec: device, annotations: map[string]string{key: "0"}, says: `"0"`},
		"beside others":        {spec: device, annotations: map[string]string{"a": "b"}, keeps: true, says: `"1"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec, err := yaml.YAMLToJSON([]byte("containers: [{name: a, image: i}]\n" + c.spec))
			if err != nil {
				t.Fatal(err)
			}
			w := desired.Workload{Name: "w", PodSpec: spec, Annotations: c.annotations}
			p, err := manifest.Render(w, nil, manifest.Options{VolumesDir: "/v", Rootless: !c.root})
			if err != nil {
				t.Fatal(err)
			}
			var pod struct {
				Metadata struct{ Annotations map[string]string }
			}
			if err := yaml.Unmarshal(p.Manifest, &pod); err != nil {
				t.Fatal(err)
			}
			got := pod.Metadata.Annotations
			if want := strings.Trim(c.says, `"`); p.KeepsGroups != c.keeps || got[key] != want {
				t.Errorf("keeps %v, annotation %q; want %v, %q", p.KeepsGroups, got[key], c.keeps, want)
			}
			for k, v := range c.annotations {
				if got[k] != v {
					t.Errorf("annotation %s is %q, want %q", k, got[k], v)
				}
			}
		})
	}
}
