package v1alpha1_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
)

// kinds makes an empty object of every kind. For each there is a manifest in
// testdata, written by hand, in which no field is zero.
var kinds = map[string]func() metav1.Object{
	v1alpha1.KindEdgeDevice:              func() metav1.Object { return new(v1alpha1.EdgeDevice) },
	v1alpha1.KindEdgeDeviceSet:           func() metav1.Object { return new(v1alpha1.EdgeDeviceSet) },
	v1alpha1.KindEdgeDeviceSignedRequest: func() metav1.Object { return new(v1alpha1.EdgeDeviceSignedRequest) },
	v1alpha1.KindEdgeWorkload:            func() metav1.Object { return new(v1alpha1.EdgeWorkload) },
	v1alpha1.KindEdgeConfig:              func() metav1.Object { return new(v1alpha1.EdgeConfig) },
	v1alpha1.KindPlaybookExecution:       func() metav1.Object { return new(v1alpha1.PlaybookExecution) },
}

func TestManifests(t *testing.T) {
	t.Parallel()
	for kind, object := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(filepath.Join("testdata", strings.ToLower(kind)+".yaml"))
			if err != nil {
				t.Fatal(err)
			}
			into := object()
			if err := yaml.UnmarshalStrict(text, into); err != nil {
				t.Fatal(err)
			}
			if fields := untested(into); len(fields) > 0 {
				t.Errorf("the manifest leaves fields out: %v", fields)
			}
			again, err := yaml.Marshal(into)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(plain(t, text), plain(t, again)); diff != "" {
				t.Errorf("encoded again, the manifest differs (-want +got):\n%s", diff)
			}
		})
	}
}

// An object that only has a name is written without sections of nothing.
func TestEmptyObjects(t *testing.T) {
	t.Parallel()
	for kind, object := range kinds {
		empty := object()
		empty.SetName("a")
		raw, err := json.Marshal(empty)
		if err != nil {
			t.Fatal(err)
		}
		want := `{"metadata":{"name":"a"}}`
		if string(raw) != want {
			t.Errorf("%s is %s, want %s", kind, raw, want)
		}
	}
}

func TestLists(t *testing.T) {
	t.Parallel()
	lists := []any{
		&v1alpha1.EdgeDeviceList{}, &v1alpha1.EdgeDeviceSetList{}, &v1alpha1.EdgeDeviceSignedRequestList{},
		&v1alpha1.EdgeWorkloadList{}, &v1alpha1.EdgeConfigList{}, &v1alpha1.PlaybookExecutionList{},
	}
	for _, list := range lists {
		text := `{"apiVersion":"management.project-flotta.io/v1alpha1","items":[{"metadata":{"name":"a"}}],"metadata":{"resourceVersion":"7"}}`
		if err := yaml.UnmarshalStrict([]byte(text), list); err != nil {
			t.Errorf("%T: %v", list, err)
			continue
		}
		if n := reflect.ValueOf(list).Elem().FieldByName("Items").Len(); n != 1 {
			t.Errorf("%T: %d items, want 1", list, n)
		}
	}
}

// Samples are what people copy: they hold no key that does not exist.
func TestSamples(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../../config/samples/*.yaml")
	if err != nil || len(files) < 5 {
		t.Fatalf("found %v, %v", files, err)
	}
	seen := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for document := range strings.SplitSeq(string(text), "\n---\n") {
			var meta metav1.TypeMeta
			if err := yaml.Unmarshal([]byte(document), &meta); err != nil {
				t.Fatal(err)
			}
			if of := schema.FromAPIVersionAndKind(meta.APIVersion, meta.Kind).Group; of != v1alpha1.Group && meta.Kind != "ConfigMap" && meta.Kind != "Secret" {
				continue // the API server checks those that are none of ours
			}
			object := sample(t, meta)
			if err := yaml.UnmarshalStrict([]byte(document), object); err != nil {
				t.Errorf("%s: %v", file, err)
			}
			if object.GetName() == "" || object.GetNamespace() == "" {
				t.Errorf("%s: a %s has no name or no namespace", file, meta.Kind)
			}
			seen[meta.Kind] = true
		}
	}
	for _, kind := range append(slices.Collect(maps.Keys(kinds)), "ConfigMap", "Secret") {
		if !seen[kind] {
			t.Errorf("there is no sample of %s", kind)
		}
	}
}

func sample(t *testing.T, meta metav1.TypeMeta) metav1.Object {
	t.Helper()
	switch {
	case meta.APIVersion == "v1" && meta.Kind == "ConfigMap":
		return &corev1.ConfigMap{}
	case meta.APIVersion == "v1" && meta.Kind == "Secret":
		return &corev1.Secret{}
	case meta.APIVersion == v1alpha1.APIVersion && kinds[meta.Kind] != nil:
		return kinds[meta.Kind]()
	}
	t.Fatalf("%s %s is no kind of ours", meta.APIVersion, meta.Kind)
	return nil
}

func plain(t *testing.T, text []byte) any {
	t.Helper()
	var value any
	if err := yaml.Unmarshal(text, &value); err != nil {
		t.Fatal(err)
	}
	return value
}

// untested returns the fields of ours below object that are zero wherever they
// occur.
func untested(object any) []string {
	set := map[string]bool{}
	walk(reflect.ValueOf(object), "", set)
	var fields []string
	for path, nonzero := range set {
		if !nonzero && path != ".Status" { // some kinds have an empty one
			fields = append(fields, path)
		}
	}
	slices.Sort(fields)
	return fields
}

func walk(v reflect.Value, path string, set map[string]bool) {
	if path != "" {
		set[path] = set[path] || !v.IsZero()
	}
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			walk(v.Elem(), path, set)
		}
	case reflect.Slice:
		for i := range v.Len() {
			walk(v.Index(i), path+"[]", set)
		}
	case reflect.Map:
		for _, key := range v.MapKeys() {
			walk(v.MapIndex(key), path+"{}", set)
		}
	case reflect.Struct:
		if v.Type().PkgPath() != reflect.TypeFor[v1alpha1.PodSpec]().PkgPath() {
			return
		}
		for i := range v.NumField() {
			walk(v.Field(i), path+"."+v.Type().Field(i).Name, set)
		}
	}
}
