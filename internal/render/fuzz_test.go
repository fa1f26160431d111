package render_test

import (
	"encoding/json"
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/project-flotta/flotta-agent/internal/render"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
)

// FuzzMatches: no selector and no labels end the process, and a device's name
// decides alone.
func FuzzMatches(f *testing.F) {
	f.Add([]byte(`{"matchLabels":{"flotta/member-of":"floor"}}`), []byte(`{"flotta/member-of":"floor"}`), "")
	f.Add([]byte(`{"matchExpressions":[{"key":"a/b/c","operator":"In"}]}`), []byte(`{"a/b/c":""}`), "dev1")
	f.Add([]byte(`{"matchExpressions":[{"key":"dc","operator":"NotIn","values":["x"]}]}`), []byte(`{}`), "dev2")
	f.Add([]byte(`null`), []byte(`null`), "")
	f.Fuzz(func(t *testing.T, selector, labels []byte, name string) {
		var w v1alpha1.EdgeWorkload
		var d v1alpha1.EdgeDevice
		if json.Unmarshal(labels, &d.Labels) != nil {
			return
		}
		var s *metav1.LabelSelector
		if json.Unmarshal(selector, &s) != nil {
			return
		}
		d.Name, w.Spec.Device, w.Spec.DeviceSelector = "dev1", name, s
		got, err := render.Matches(&w, &d)
		if err != nil && (got || name != "") {
			t.Errorf("%v with error %v", got, err)
		}
		if name != "" && got != (name == "dev1") || name == "" && s == nil && got {
			t.Errorf("name %q: %v", name, got)
		}
	})
}

// FuzzPodSpec: whatever the pod spec is, the message is rendered, the workload
// is in it, and the specification says what the pod spec said.
func FuzzPodSpec(f *testing.F) {
	f.Add([]byte(`{"containers":[{"name":"a","env":[{"name":"A","value":"1"},null]}],"volumes":[{"name":"v","projected":{"sources":[{},null]}}]}`))
	f.Add([]byte(`{"containers":[{"envFrom":[{"secretRef":{"name":"token"}},{"configMapRef":{"name":"settings"}}]}],"initContainers":[null]}`))
	f.Add([]byte(`{"volumes":[{"secret":{"secretName":"token","items":[{"key":"token"}]}},{"configMap":{"name":"settings","items":[{"key":"x"}]}}]}`))
	f.Add([]byte(`{"a":"yes","b":"0o7","c":"1e3","d":"\ud83d\ude00\u007f\u0085\ufeff\uffff\u0000","<<":{"=":"~"},"e":"1:30","f":-0.0,"g":1e21}`))
	f.Add([]byte(`{"containers":"none"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var spec v1alpha1.PodSpec
		if json.Unmarshal(raw, &spec) != nil {
			return
		}
		s := parse(t, device+app("app", "")+secret("token", "token", "t")+configMap("settings", "key", "value"))
		s.workloads["default/app"].Spec.Pod.Spec = spec
		first := s.render(t, nil)
		text := findWorkload(t, first, "app").Specification
		if text == "" {
			if !slices.Contains(reasonsOf(first, "app"), render.ReasonInvalidPodSpec) {
				t.Errorf("there is no specification, and no problem: %+v", first.Problems)
			}
			return
		}
		var want, got any
		if json.Unmarshal(spec.Raw, &want) != nil && len(spec.Raw) > 0 {
			return // numbers that no float holds
		}
		if want == nil {
			want = map[string]any{}
		}
		if err := yaml.Unmarshal([]byte(text), &got); err != nil {
			t.Fatalf("the specification is not YAML: %v\n%s", err, text)
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(near)); diff != "" {
			t.Errorf("the specification says otherwise:\n%s", diff)
		}
		second := s.render(t, &first)
		if second.Version != first.Version {
			t.Error("rendered again, the version moved")
		}
	})
}

// near allows for a float's last digit, which YAML may write otherwise.
func near(a, b float64) bool {
	return a == b || math.Abs(a-b) <= 1e-14*math.Max(math.Abs(a), math.Abs(b))
}

// FuzzConfigMap: what a ConfigMap holds arrives as it was.
func FuzzConfigMap(f *testing.F) {
	f.Add("key", "value")
	f.Add("metrics_list.yaml", "names:\n- a\n\n  \ttabs\r\n")
	f.Add("k", "\u0000\u007f\u0085\u2028\ufeff\U0010ffff trailing ")
	f.Add("<<", "!!binary |\n  x")
	f.Fuzz(func(t *testing.T, key, value string) {
		s := parse(t, device+app("app", `envFrom: [{configMapRef: {name: settings}}]`)+configMap("settings", "key", "value"))
		// As it is after an object was decoded: valid text.
		data := map[string]string{}
		raw, err := json.Marshal(map[string]string{key: value})
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(raw, &data); err != nil {
			t.Fatal(err)
		}
		s.configMaps["default/settings"].Data = data
		result := s.render(t, nil)
		list := findWorkload(t, result, "app").ConfigMaps
		if len(list) == 0 && slices.Contains(reasonsOf(result, "app"), render.ReasonInvalidConfigMap) {
			return
		}
		if len(list) != 1 {
			t.Fatalf("%d ConfigMaps", len(list))
		}
		var got struct{ Data map[string]string }
		if err := yaml.Unmarshal([]byte(list[0]), &got); err != nil {
			t.Fatalf("%v in:\n%s", err, list[0])
		}
		if diff := cmp.Diff(data, got.Data); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
}
