package render_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/render"
)

// What flotta v0.2 got wrong when it rendered, one test each.

const device = `
apiVersion: management.project-flotta.io/v1alpha1
kind: EdgeDevice
metadata: {name: dev1, namespace: default, labels: {dc: home, flotta/member-of: floor}}
`

// app is a workload with one container, whose environment is the argument.
func app(name, environment string) string {
	return fmt.Sprintf(`
---
apiVersion: management.project-flotta.io/v1alpha1
kind: EdgeWorkload
metadata: {name: %s, namespace: default}
spec:
  device: dev1
  type: pod
  pod:
    spec:
      containers:
        - name: main
          image: quay.io/example/main:v1
          %s
`, name, environment)
}

func configMap(name, key, value string) string {
	return fmt.Sprintf("\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: default}\ndata: {%s: %q}\n",
		name, key, value)
}

func secret(name, key, value string) string {
	return fmt.Sprintf("\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: %s, namespace: default}\nstringData: {%s: %q}\n",
		name, key, value)
}

// A container with a literal environment variable ended the process.
func TestLiteralEnvironmentVariable(t *testing.T) {
	t.Parallel()
	s := parse(t, device+app("app", `env: [{name: A, value: "1"}, {name: B}, {name: C, valueFrom: {}}, {name: D, valueFrom: null}]`))
	delete(s.device(t).Labels, "flotta/member-of")
	result := s.render(t, nil)
	if len(result.Problems) > 0 {
		t.Errorf("problems: %v", result.Problems)
	}
	if spec := findWorkload(t, result, "app").Specification; !strings.Contains(spec, `value: "1"`) {
		t.Errorf("the variable is lost:\n%s", spec)
	}
}

// The order of ConfigMaps, workloads and secrets was random, so that devices
// deployed unchanged workloads again and again.
func TestOrderIsStable(t *testing.T) {
	t.Parallel()
	var manifests strings.Builder
	manifests.WriteString(device)
	for i := range 6 {
		var from []string
		for j := range 6 {
			from = append(from, fmt.Sprintf("{configMapRef: {name: map-%d}}, {secretRef: {name: secret-%d}}", (i+j)%6, (i*j)%6))
		}
		manifests.WriteString(app(fmt.Sprintf("app-%d", i), "envFrom: ["+strings.Join(from, ", ")+"]"))
		manifests.WriteString(configMap(fmt.Sprintf("map-%d", i), "key", "value"))
		manifests.WriteString(secret(fmt.Sprintf("secret-%d", i), "key", "value"))
	}
	want := parse(t, manifests.String()).render(t, nil)
	if n := len(findWorkload(t, want, "app-3").ConfigMaps); n != 6 {
		t.Fatalf("%d ConfigMaps, want 6", n)
	}
	for range 50 {
		got := parse(t, manifests.String()).render(t, nil)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("the same objects give another result:\n%s", diff)
		}
	}
}

// A selector by a label key with a slash matched nothing.
func TestQualifiedSelectorKeys(t *testing.T) {
	t.Parallel()
	for _, selector := range []string{
		`matchLabels: {flotta/member-of: floor}`,
		`matchExpressions: [{key: flotta/member-of, operator: In, values: [floor, yard]}]`,
		`matchExpressions: [{key: kubernetes.io/arch, operator: DoesNotExist}]`,
	} {
		s := parse(t, device+strings.Replace(app("app", ""), "device: dev1", "deviceSelector: {"+selector+"}", 1))
		if list := s.render(t, nil).Message.Workloads; len(list) != 1 {
			t.Errorf("%s: %d workloads, want 1", selector, len(list))
		}
	}
}

// One bad reference failed the configuration of all workloads.
func TestOneBadReference(t *testing.T) {
	t.Parallel()
	bad := map[string]struct{ environment, extra, reason string }{
		"secret":         {`env: [{name: A, valueFrom: {secretKeyRef: {name: gone, key: k}}}]`, "", render.ReasonSecretNotFound},
		"secret key":     {`env: [{name: A, valueFrom: {secretKeyRef: {name: token, key: gone}}}]`, "", render.ReasonSecretKeyNotFound},
		"all of secret":  {`envFrom: [{secretRef: {name: gone}}]`, "", render.ReasonSecretNotFound},
		"configmap":      {`envFrom: [{configMapRef: {name: gone}}]`, "", render.ReasonConfigMapNotFound},
		"configmap key":  {`env: [{name: A, valueFrom: {configMapKeyRef: {name: settings, key: gone}}}]`, "", render.ReasonConfigMapKeyNotFound},
		"volume":         {"", "      volumes: [{name: v, secret: {secretName: gone}}]\n", render.ReasonSecretNotFound},
		"auth file":      {"", "  imageRegistries: {secretRef: {name: gone}}\n", render.ReasonSecretNotFound},
		"allow list":     {"", "  metrics: {port: 80, allowList: {name: gone}}\n", render.ReasonConfigMapNotFound},
		"bad allow list": {"", "  metrics: {port: 80, allowList: {name: settings}}\n", render.ReasonConfigMapKeyNotFound},
		"wrong type":     {"command: 5", "", render.ReasonInvalidPodSpec},
	}
	good := app("good", `envFrom: [{secretRef: {name: token}}, {configMapRef: {name: settings}}]`) +
		secret("token", "token", "t") + configMap("settings", "key", "value")
	alone := parse(t, device+good).render(t, nil)
	for name, test := range bad {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := parse(t, device+good+app("bad", test.environment)+test.extra).render(t, nil)
			if diff := cmp.Diff(findWorkload(t, alone, "good"), findWorkload(t, got, "good")); diff != "" {
				t.Errorf("the good workload changed:\n%s", diff)
			}
			if diff := cmp.Diff(alone.Message.Configuration, got.Message.Configuration); diff != "" {
				t.Errorf("the device's configuration changed:\n%s", diff)
			}
			if diff := cmp.Diff(alone.Message.Secrets, got.Message.Secrets); diff != "" {
				t.Errorf("the secrets changed:\n%s", diff)
			}
			findWorkload(t, got, "bad")
			if reasons := reasonsOf(got, "bad"); len(reasons) != 1 || reasons[0] != test.reason {
				t.Errorf("reasons are %v, want %s", reasons, test.reason)
			}
			if reasons := reasonsOf(got, "good"); len(reasons) != 0 {
				t.Errorf("the good workload has problems: %v", reasons)
			}
		})
	}
}

func reasonsOf(r render.Result, workload string) []string {
	var reasons []string
	for _, p := range r.Problems {
		if p.Workload == workload {
			reasons = append(reasons, p.Reason)
		}
	}
	return reasons
}

// The version was the device's resourceVersion: it moved with every heartbeat,
// and not with a change of anything else.
func TestVersionNamesContent(t *testing.T) {
	t.Parallel()
	manifests := device +
		app("app", `envFrom: [{secretRef: {name: token}}, {configMapRef: {name: settings}}]`) +
		secret("token", "token", "one") + configMap("settings", "key", "one") +
		"\n---\napiVersion: management.project-flotta.io/v1alpha1\nkind: EdgeDeviceSet\n" +
		"metadata: {name: floor, namespace: default}\nspec: {heartbeat: {periodSeconds: 10}}\n"
	before := parse(t, manifests).render(t, nil).Version

	same := map[string]func(*store){
		"resource version":  func(s *store) { s.device(t).ResourceVersion = "99" },
		"phase":             func(s *store) { s.device(t).Status.Phase = "degraded" },
		"label":             func(s *store) { s.device(t).Labels["device.hostname"] = "edge" },
		"annotation":        func(s *store) { s.workloads["default/app"].Annotations = map[string]string{"note": "x"} },
		"secret's version":  func(s *store) { s.secrets["default/token"].ResourceVersion = "99" },
		"unused secret":     func(s *store) { s.secrets["default/other"] = s.secrets["default/token"] },
		"order of pod spec": func(s *store) { reorder(s) },
	}
	for name, change := range same {
		s := parse(t, manifests)
		change(s)
		if got := s.render(t, nil).Version; got != before {
			t.Errorf("%s: the version moved", name)
		}
	}
	other := map[string]func(*store){
		"set":       func(s *store) { s.sets["default/floor"].Spec.Heartbeat.PeriodSeconds++ },
		"secret":    func(s *store) { s.secrets["default/token"].StringData["token"] = "two" },
		"configmap": func(s *store) { s.configMaps["default/settings"].Data["key"] = "two" },
		"workload":  func(s *store) { s.workloads["default/app"].Labels = map[string]string{"podman/a": "b"} },
		"removal":   func(s *store) { delete(s.workloads, "default/app") },
	}
	seen := map[string]string{before: "nothing"}
	for name, change := range other {
		s := parse(t, manifests)
		change(s)
		got := s.render(t, nil).Version
		if as, ok := seen[got]; ok {
			t.Errorf("a change of %s has the version of a change of %s", name, as)
		}
		seen[got] = name
	}
}

// reorder writes the same pod spec in another order and layout.
func reorder(s *store) {
	spec := &s.workloads["default/app"].Spec.Pod.Spec
	spec.Raw = []byte(` { "containers" : [ { "name": "main", "image": "quay.io\/example\/main:v1", "envFrom": [
		{"secretRef": {"name": "token"}}, {"configMapRef": {"name": "settings"}} ] } ] } `)
}
