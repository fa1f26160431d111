package v1alpha1_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
)

func TestPodSpecKeepsWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	const text = `{"spec":{"containers":[{"name":"a","newInContainer":true}],"newInPod":{"x":[1,"2"]}}}`
	var pod v1alpha1.Pod
	if err := json.Unmarshal([]byte(text), &pod); err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	if string(raw) != text {
		t.Errorf("got  %s\nwant %s", raw, text)
	}
	spec, err := pod.Spec.Decode()
	if err != nil {
		t.Fatal(err)
	}
	if len(spec.Containers) != 1 || spec.Containers[0].Name != "a" {
		t.Errorf("decoded %+v", spec)
	}
}

func TestPodSpecRefuses(t *testing.T) {
	t.Parallel()
	for _, text := range []string{`[]`, `"a"`, `5`, `true`} {
		var spec v1alpha1.PodSpec
		if err := json.Unmarshal([]byte(text), &spec); err == nil {
			t.Errorf("%s is taken for a pod spec", text)
		}
	}
	bad := v1alpha1.PodSpec{Raw: json.RawMessage(`{"containers":"none"}`)}
	if _, err := bad.Decode(); err == nil {
		t.Error("containers may be a string")
	}
}

func TestPodSpecEmpty(t *testing.T) {
	t.Parallel()
	for _, text := range []string{`null`, `{}`} {
		spec := v1alpha1.PodSpec{Raw: json.RawMessage(`{"hostNetwork":true}`)}
		if err := json.Unmarshal([]byte(text), &spec); err != nil {
			t.Fatal(err)
		}
		decoded, err := spec.Decode()
		if err != nil || decoded.HostNetwork {
			t.Errorf("%s: decoded %+v, %v", text, decoded, err)
		}
		if raw, err := json.Marshal(spec); err != nil || string(raw) != `{}` {
			t.Errorf("%s became %s, %v", text, raw, err)
		}
	}
}

func TestNewPodSpec(t *testing.T) {
	t.Parallel()
	want := corev1.PodSpec{HostNetwork: true, Containers: []corev1.Container{{Name: "a", Image: "b"}}}
	spec, err := v1alpha1.NewPodSpec(&want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := spec.Decode()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// The bytes that a decoder hands over are its own.
func TestPodSpecOwnsItsBytes(t *testing.T) {
	t.Parallel()
	text := []byte(`{"a":1}`)
	var spec v1alpha1.PodSpec
	if err := spec.UnmarshalJSON(text); err != nil {
		t.Fatal(err)
	}
	clear(text)
	if string(spec.Raw) != `{"a":1}` {
		t.Errorf("the bytes changed to %q", spec.Raw)
	}
}
