package render_test

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/project-flotta/flotta-agent/internal/render"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
)

func TestMatches(t *testing.T) {
	t.Parallel()
	in := func(key string, values ...string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: key, Operator: metav1.LabelSelectorOpIn, Values: values},
		}}
	}
	tests := map[string]struct {
		namespace string
		device    string
		selector  *metav1.LabelSelector
		want      bool
		wantErr   bool
	}{
		"by name":                     {device: "dev1", want: true},
		"by another name":             {device: "dev2"},
		"by name in another case":     {device: "DEV1"},
		"name wins over selector":     {device: "dev2", selector: &metav1.LabelSelector{}},
		"name wins over no match":     {device: "dev1", selector: in("dc", "office"), want: true},
		"name wins over bad selector": {device: "dev1", selector: in("dc"), want: true},
		"neither":                     {},
		"empty selector":              {selector: &metav1.LabelSelector{}, want: true},
		"label":                       {selector: &metav1.LabelSelector{MatchLabels: map[string]string{"dc": "home"}}, want: true},
		"other value":                 {selector: &metav1.LabelSelector{MatchLabels: map[string]string{"dc": "office"}}},
		"one of two labels":           {selector: &metav1.LabelSelector{MatchLabels: map[string]string{"dc": "home", "x": "y"}}},
		"qualified key":               {selector: &metav1.LabelSelector{MatchLabels: map[string]string{"flotta/member-of": "floor"}}, want: true},
		"expression":                  {selector: in("dc", "home", "office"), want: true},
		"bad expression":              {selector: in("dc"), wantErr: true},
		"bad key":                     {selector: in("a/b/c", "x"), wantErr: true},
		"another namespace":           {namespace: "other", device: "dev1"},
		"another namespace, label":    {namespace: "other", selector: &metav1.LabelSelector{}},
	}
	s := parse(t, device)
	for name, test := range tests {
		w := &v1alpha1.EdgeWorkload{}
		w.Namespace, w.Name = "default", "app"
		if test.namespace != "" {
			w.Namespace = test.namespace
		}
		w.Spec.Device, w.Spec.DeviceSelector = test.device, test.selector
		got, err := render.Matches(w, s.device(t))
		if got != test.want || (err != nil) != test.wantErr {
			t.Errorf("%s: %v, %v; want %v, error %v", name, got, err, test.want, test.wantErr)
		}
	}
}

// A Reader that cannot read says nothing about the objects.
func TestReaderErrorEndsRendering(t *testing.T) {
	t.Parallel()
	unreachable := errors.New("unreachable")
	text, _, _ := strings.Cut(readFile(t, "testdata/full.txtar"), "-- message.yaml --")
	_, text, _ = strings.Cut(text, "-- objects.yaml --")
	all := parse(t, text)
	all.render(t, nil)
	asked := slices.Compact(slices.Sorted(slices.Values(all.asked)))
	if len(asked) < 10 {
		t.Fatalf("only %v was asked for", asked)
	}
	for _, what := range append(asked, "EdgeWorkload") {
		s := parse(t, text)
		s.fail[what] = unreachable
		_, err := render.Configuration(t.Context(), s, s.device(t), nil)
		if !errors.Is(err, unreachable) {
			t.Errorf("%s unreachable: the error is %v", what, err)
		}
	}
	s := parse(t, device)
	s.fail["EdgeDeviceSet floor"] = unreachable
	if _, err := render.Configuration(t.Context(), s, s.device(t), nil); !errors.Is(err, unreachable) {
		t.Errorf("set unreachable: the error is %v", err)
	}
}

// Every object is read once, so that a message never mixes two states of it.
func TestReadsEveryObjectOnce(t *testing.T) {
	t.Parallel()
	s := parse(t, device+app("a", twoSecrets)+app("b", twoSecrets)+app("c", twoSecrets)+secret("token", "token", "t"))
	s.render(t, nil)
	sorted := slices.Sorted(slices.Values(s.asked))
	if diff := cmp.Diff(slices.Compact(slices.Clone(sorted)), sorted); diff != "" {
		t.Errorf("asked more than once (+):\n%s", diff)
	}
}

// What a name cannot be, no Reader is asked for.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"../../etc/shadow", "/etc/shadow", "a/b", "..", "A", "", "a\\u0000", strings.Repeat("a", 254)} {
		quoted := `"` + name + `"`
		s := parse(t, strings.Replace(device, "floor", quoted, 1)+app("app",
			`envFrom: [{secretRef: {name: `+quoted+`}}, {configMapRef: {name: `+quoted+`}}]`)+
			"      volumes: [{name: v, secret: {secretName: "+quoted+"}}]\n"+
			"  imageRegistries: {secretRef: {name: "+quoted+"}}\n")
		s.device(t).Spec.Storage = &v1alpha1.Storage{S3: &v1alpha1.S3Storage{SecretName: name, ConfigMapName: name}}
		result := s.render(t, nil)
		if len(s.asked) > 0 {
			t.Errorf("%q was asked for: %v", name, s.asked)
		}
		if len(reasonsOf(result, "app")) != 2 {
			t.Errorf("%q: problems are %+v", name, result.Problems)
		}
	}
}

// Objects of a Reader may be shared with others.
func TestChangesNoObject(t *testing.T) {
	t.Parallel()
	text, _, _ := strings.Cut(readFile(t, "testdata/full.txtar"), "-- message.yaml --")
	_, text, _ = strings.Cut(text, "-- objects.yaml --")
	s, untouched := parse(t, text), parse(t, text)
	result := s.render(t, nil)
	s.render(t, &result)
	if diff := cmp.Diff(all(t, untouched), all(t, s)); diff != "" {
		t.Errorf("objects changed:\n%s", diff)
	}
}

func all(t *testing.T, s *store) string {
	t.Helper()
	raw, err := json.Marshal([]any{s.devices, s.sets, s.workloads, s.configMaps, s.secrets})
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// Problems go into logs and conditions.
func TestProblemsHoldNoValues(t *testing.T) {
	t.Parallel()
	const value = "s3cr3t-v4lu3"
	s := parse(t, device+app("app", `env: [{name: A, valueFrom: {secretKeyRef: {name: token, key: gone}}}]`)+
		"  imageRegistries: {secretRef: {name: token}}\n"+
		"  metrics: {port: 80, allowList: {name: settings}}\n"+
		secret("token", "token", value)+
		configMap("settings", "metrics_list.yaml", value)+
		configMap("port", "BUCKET_PORT", value))
	s.device(t).Spec.Storage = &v1alpha1.Storage{S3: &v1alpha1.S3Storage{SecretName: "token", ConfigMapName: "port"}}
	delete(s.device(t).Labels, v1alpha1.LabelMemberOf)
	result := s.render(t, nil)
	if len(result.Problems) < 5 {
		t.Errorf("problems: %+v", result.Problems)
	}
	for _, p := range result.Problems {
		if strings.Contains(p.Message, value) {
			t.Errorf("%+v", p)
		}
	}
}

// Only what a workload refers to leaves the control plane.
func TestSendsOnlyReferencedKeys(t *testing.T) {
	t.Parallel()
	s := parse(t, device+app("a", `env: [{name: A, valueFrom: {secretKeyRef: {name: token, key: user}}}]`)+
		app("b", `env: [{name: A, valueFrom: {secretKeyRef: {name: token, key: password}}}]`)+
		secret("token", "user", "u"))
	maps.Copy(s.secrets["default/token"].StringData, map[string]string{"password": "p", "unused": "x"})
	want := map[string]string{"user": "u", "password": "p"}
	if diff := cmp.Diff(want, findSecret(t, s.render(t, nil), "token")); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	s.workloads["default/b"].Spec.Pod.Spec.Raw = json.RawMessage(
		`{"containers": [{"name": "b", "envFrom": [{"secretRef": {"name": "token"}}]}]}`)
	want["unused"] = "x"
	if diff := cmp.Diff(want, findSecret(t, s.render(t, nil), "token")); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestSamples(t *testing.T) {
	t.Parallel()
	const samples = "../../config/samples"
	var text strings.Builder
	for _, name := range []string{"edgedevice", "edgedeviceset", "edgeworkload", "configmap", "secret"} {
		text.WriteString(readFile(t, samples, name+".yaml") + "\n---\n")
	}
	s := parse(t, strings.TrimSuffix(text.String(), "\n---\n"))
	for _, set := range []string{"", "shop-floor"} {
		if set != "" {
			s.device(t).Labels[v1alpha1.LabelMemberOf] = set
		}
		result := s.render(t, nil)
		if len(result.Problems) > 0 || len(result.Message.Workloads) != 1 || result.Message.Configuration.Storage == nil {
			t.Errorf("set %q: problems %+v in %s", set, result.Problems, result.JSON)
		}
	}
}
