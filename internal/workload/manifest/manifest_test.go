package manifest_test

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/secret"
	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const volumes = "/var/local/yggdrasil/device/volumes"

func options() manifest.Options {
	return manifest.Options{DeviceID: "device-1", VolumesDir: volumes}
}

// spec returns the JSON of a pod specification that is written as YAML.
func spec(t testing.TB, text string) []byte {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func secrets() []desired.Secret {
	return []desired.Secret{
		{Name: "db", Data: map[string]secret.Value{"password": secret.New("s3cret"), "user": secret.New("bob")}},
		{Name: "tls", Data: map[string]secret.Value{"tls.key": secret.New("key\n")}},
	}
}

func TestRenderGolden(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no inputs: %v", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".in.yaml")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			specText, rest, _ := strings.Cut(string(raw), "---\n")
			w := desired.Workload{Name: name, PodSpec: spec(t, specText)}
			for doc := range strings.SplitSeq(rest, "---\n") {
				if doc != "" {
					w.ConfigMaps = append(w.ConfigMaps, spec(t, doc))
				}
			}
			if name == "everything" {
				w.Labels = map[string]string{"app": "x", manifest.LabelWorkload: "forged", manifest.LabelDigest: "forged"}
				w.Annotations = map[string]string{"io.containers.autoupdate": "registry", "note": "yes"}
			}
			plan, err := manifest.Render(w, secrets(), options())
			if err != nil {
				t.Fatal(err)
			}
			golden := strings.TrimSuffix(file, ".in.yaml") + ".golden.yaml"
			if *update {
				if err := os.WriteFile(golden, plan.Manifest, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(plan.Manifest)); diff != "" {
				t.Errorf("manifest differs (-want +got); -update rewrites it:\n%s", diff)
			}
			again, err := manifest.Render(w, secrets(), options())
			if err != nil || string(again.Manifest) != string(plan.Manifest) || again.Digest != plan.Digest {
				t.Errorf("a second rendering differs: %v", err)
			}
			for doc := range strings.SplitSeq(string(plan.Manifest), "---\n") {
				var object map[string]any
				if err := yaml.Unmarshal([]byte(doc), &object); err != nil {
					t.Errorf("not YAML: %v", err)
				}
			}
		})
	}
}

func TestRenderPlan(t *testing.T) {
	t.Parallel()
	w := desired.Workload{Name: "w", PodSpec: spec(t, `
restartPolicy: OnFailure
initContainers:
- {name: init, image: quay.io/x/init@sha256:aa}
containers:
- {name: a, image: quay.io:443/x/a}
- {name: b, image: "quay.io/x/b:latest", imagePullPolicy: IfNotPresent, env: [{name: P, valueFrom: {secretKeyRef: {name: db, key: password}}}]}
- {name: c, image: "quay.io/x/c:v1"}
- {name: d, image: "quay.io/x/c:v1", imagePullPolicy: Never, envFrom: [{secretRef: {name: gone, optional: true}}]}
`)}
	plan, err := manifest.Render(w, secrets(), options())
	if err != nil {
		t.Fatal(err)
	}
	wantImages := []manifest.Image{
		{Reference: "quay.io/x/init@sha256:aa", Policy: "IfNotPresent"},
		{Reference: "quay.io:443/x/a", Policy: "Always"},
		{Reference: "quay.io/x/b:latest", Policy: "IfNotPresent"},
		{Reference: "quay.io/x/c:v1", Policy: "IfNotPresent"},
		{Reference: "quay.io/x/c:v1", Policy: "Never"},
	}
	if diff := cmp.Diff(wantImages, plan.Images); diff != "" {
		t.Errorf("images (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"a", "b", "c", "d"}, plan.Containers); diff != "" {
		t.Errorf("containers (-want +got):\n%s", diff)
	}
	if plan.RestartPolicy != manifest.RestartOnFailure {
		t.Errorf("restart policy %q", plan.RestartPolicy)
	}
	if len(plan.Secrets) != 1 || !manifest.NewSecretNames().Ours(plan.Secrets[0].Name) {
		t.Fatalf("secrets %v", plan.Secrets)
	}
	if got := plan.Secrets[0].Data.Reveal(); got != `{"password":"czNjcmV0","user":"Ym9i"}` {
		t.Errorf("secret data %s", got)
	}
	if diff := cmp.Diff([]string{plan.Secrets[0].Name}, manifest.NewSecretNames().In(plan.Manifest)); diff != "" {
		t.Errorf("secrets found in the manifest (-want +got):\n%s", diff)
	}
}

// TestRenderSecretChange says which workloads a changed secret changes.
func TestRenderSecretChange(t *testing.T) {
	t.Parallel()
	uses := desired.Workload{Name: "w", PodSpec: spec(t, `{containers: [{name: a, image: i, envFrom: [{secretRef: {name: db}}]}]}`)}
	others := desired.Workload{Name: "w", PodSpec: spec(t, `{containers: [{name: a, image: i}]}`)}
	changed := secrets()
	changed[0].Data = map[string]secret.Value{"password": secret.New("other")}
	digest := func(w desired.Workload, s []desired.Secret) string {
		plan, err := manifest.Render(w, s, options())
		if err != nil {
			t.Fatal(err)
		}
		return plan.Digest
	}
	if digest(uses, secrets()) == digest(uses, changed) {
		t.Error("the workload that uses the secret did not change")
	}
	if digest(others, secrets()) != digest(others, changed) {
		t.Error("a workload that does not use the secret changed")
	}
}

func TestRenderInvalid(t *testing.T) {
	t.Parallel()
	const ok = "{name: a, image: i}"
	for name, test := range map[string]struct{ name, spec, reason string }{
		"traversal":         {"../x", "{containers: [" + ok + "]}", "lower-case"},
		"long name":         {strings.Repeat("a", 300), "{containers: [" + ok + "]}", "63"},
		"unicode name":      {"wörk", "{containers: [" + ok + "]}", "lower-case"},
		"option name":       {"-.mount", "{containers: [" + ok + "]}", "lower-case"},
		"dots":              {"..", "{containers: [" + ok + "]}", "lower-case"},
		"empty name":        {"", "{containers: [" + ok + "]}", "empty"},
		"no containers":     {"w", "{}", "no containers"},
		"null containers":   {"w", "{containers: null}", "no containers"},
		"odd containers":    {"w", "{containers: {a: b}}", "not a list"},
		"odd container":     {"w", "{containers: [1]}", "not an object"},
		"no image":          {"w", "{containers: [{name: a}]}", "no image"},
		"no container name": {"w", "{containers: [{image: i}]}", "containers[0]"},
		"same names":        {"w", "{containers: [" + ok + "," + ok + "]}", "another container"},
		"same init name":    {"w", "{initContainers: [" + ok + "], containers: [" + ok + "]}", "another container"},
		"volume taken":      {"w", "{containers: [" + ok + "], volumes: [{name: export-w, emptyDir: {}}]}", "export-w"},
		"mount taken":       {"w", "{containers: [{name: a, image: i, volumeMounts: [{name: v, mountPath: /x/../export/}]}]}", "/export"},
		"odd mounts":        {"w", "{containers: [{name: a, image: i, volumeMounts: 3}]}", "not a list"},
		"odd env":           {"w", "{containers: [{name: a, image: i, env: {A: b}}]}", "not a list"},
		"secret missing":    {"w", "{containers: [{name: a, image: i, envFrom: [{secretRef: {name: gone}}]}]}", "was not sent"},
		"key missing":       {"w", "{containers: [{name: a, image: i, env: [{name: X, valueFrom: {secretKeyRef: {name: db, key: gone}}}]}]}", "has no key"},
		"volume secret":     {"w", "{containers: [" + ok + "], volumes: [{name: v, secret: {secretName: gone}}]}", "was not sent"},
		"pull policy":       {"w", "{containers: [{name: a, image: i, imagePullPolicy: Sometimes}]}", "imagePullPolicy"},
		"restart policy":    {"w", "{restartPolicy: [], containers: [" + ok + "]}", "restartPolicy"},
		"spec is a list":    {"w", "[1]", "not a JSON object"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := manifest.Render(desired.Workload{Name: test.name, PodSpec: spec(t, test.spec)}, secrets(), options())
			var invalid *manifest.InvalidError
			if !errors.As(err, &invalid) {
				t.Fatalf("error %v, want an InvalidError", err)
			}
			if !strings.Contains(invalid.Reason, test.reason) {
				t.Errorf("reason %q lacks %q", invalid.Reason, test.reason)
			}
			if strings.Contains(invalid.Reason, "s3cret") {
				t.Errorf("reason %q tells a secret", invalid.Reason)
			}
		})
	}
}

func TestRenderConfigMapOfAnotherKind(t *testing.T) {
	t.Parallel()
	w := desired.Workload{
		Name: "w", PodSpec: spec(t, "{containers: [{name: a, image: i}]}"),
		ConfigMaps: [][]byte{[]byte(`{"kind":"Pod","metadata":{"name":"other"}}`)},
	}
	if _, err := manifest.Render(w, nil, options()); err == nil {
		t.Error("a Pod among the config maps was accepted")
	}
}

func TestHideContainerPorts(t *testing.T) {
	t.Parallel()
	w := desired.Workload{Name: "w", PodSpec: spec(t, `
containers:
- {name: a, image: i, ports: [{containerPort: 80}, {containerPort: 81, hostPort: 8081}, {containerPort: 82, hostPort: 0}]}
- {name: b, image: i, ports: [{containerPort: 83}]}`)}
	count := func(hide bool) int {
		o := options()
		o.HideContainerPorts = hide
		plan, err := manifest.Render(w, nil, o)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(plan.Manifest), "containerPort:")
	}
	if shown, hidden := count(false), count(true); shown != 4 || hidden != 1 {
		t.Errorf("%d ports shown and %d left when hidden, want 4 and 1", shown, hidden)
	}
}

func TestLongSecretName(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 41) + "-.b" + strings.Repeat("c", 200)
	w := desired.Workload{Name: "w", PodSpec: spec(t, `{containers: [{name: a, image: i, envFrom: [{secretRef: {name: "`+strings.ReplaceAll(long, "-.", "-1.")+`"}}]}]}`)}
	s := []desired.Secret{{Name: strings.ReplaceAll(long, "-.", "-1."), Data: map[string]secret.Value{"a": secret.New("b")}}}
	plan, err := manifest.Render(w, s, options())
	if err != nil {
		t.Fatal(err)
	}
	if name := plan.Secrets[0].Name; len(name) > 63 || !manifest.NewSecretNames().Ours(name) {
		t.Errorf("name %q has %d characters", name, len(name))
	}
}

func TestSecretNamesOurs(t *testing.T) {
	t.Parallel()
	names := manifest.NewSecretNames()
	for name, want := range map[string]bool{
		"flotta-db-0123456789ab": true, "flotta-a.b-c-0123456789ab": true,
		"flotta-db": false, "flotta-db-0123456789AB": false, "flotta-0123456789ab": false,
		"my-flotta-db-0123456789ab": false, "flotta-db-0123456789abc": false, "db": false, "": false,
	} {
		if got := names.Ours(name); got != want {
			t.Errorf("Ours(%q) = %t, want %t", name, got, want)
		}
	}
}

func FuzzRender(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.in.yaml")
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		text, _, _ := strings.Cut(string(raw), "---\n")
		f.Add(string(spec(f, text)))
	}
	f.Add(`{"containers":[{"name":"a","image":"i","x":[[[{}]],1e9,-0.5,"\u2028\u0085 - : #","yes","1","~",""]}]}`)
	f.Fuzz(func(t *testing.T, podSpec string) {
		plan, err := manifest.Render(desired.Workload{Name: "w", PodSpec: []byte(podSpec)}, secrets(), options())
		if err != nil {
			var invalid *manifest.InvalidError
			if !errors.As(err, &invalid) || invalid.Reason == "" {
				t.Fatalf("error %v without a reason", err)
			}
			return
		}
		var got map[string]any
		if err := yaml.Unmarshal(plan.Manifest, &got); err != nil {
			t.Fatalf("not YAML: %v\n%s", err, plan.Manifest)
		}
		// Every string that was there and is not one we change is there again.
		var in map[string]any
		if err := json.Unmarshal([]byte(podSpec), &in); err != nil {
			t.Fatal(err)
		}
		out, _ := got["spec"].(map[string]any)
		for key, value := range in {
			switch key {
			case "containers", "initContainers", "volumes":
			default:
				if text, ok := value.(string); ok && out[key] != text {
					t.Errorf("%q: %q became %q", key, text, out[key])
				}
			}
		}
	})
}

func TestAutoUpdate(t *testing.T) {
	t.Parallel()
	auth := secret.New(`{"auths":{}}`)
	for name, test := range map[string]struct {
		annotations map[string]string
		auth        secret.Value
		update      bool
		authFile    string // in the manifest
	}{
		"none":            {nil, auth, false, ""},
		"disabled":        {map[string]string{"io.containers.autoupdate": "disabled"}, auth, false, ""},
		"registry":        {map[string]string{"io.containers.autoupdate": "registry"}, auth, true, "/state/workloads/a/auth.json"},
		"public registry": {map[string]string{"io.containers.autoupdate": "registry"}, secret.Value{}, true, ""},
		"one container":   {map[string]string{"io.containers.autoupdate/main": "local"}, secret.Value{}, true, ""},
		"credentials at hand": {map[string]string{
			"io.containers.autoupdate": "registry", "io.containers.autoupdate.authfile": "/etc/auth.json",
		}, auth, true, "/etc/auth.json"},
	} {
		w := desired.Workload{
			Name: "a", Annotations: test.annotations, AuthFile: test.auth, PodSpec: []byte(`{"containers":[{"name":"main","image":"i"}]}`),
		}
		plan, err := manifest.Render(w, nil, manifest.Options{VolumesDir: "/state/volumes"})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if plan.AutoUpdate != test.update {
			t.Errorf("%s: auto-update %v", name, plan.AutoUpdate)
		}
		has := strings.Contains(string(plan.Manifest), "io.containers.autoupdate.authfile: "+test.authFile)
		if has != (test.authFile != "") {
			t.Errorf("%s:\n%s", name, plan.Manifest)
		}
	}
}
