package render_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/project-flotta/flotta-agent/internal/render"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// store is a Reader of objects in memory. Lists come in a random order.
type store struct {
	devices    map[string]*v1alpha1.EdgeDevice
	sets       map[string]*v1alpha1.EdgeDeviceSet
	workloads  map[string]*v1alpha1.EdgeWorkload
	configMaps map[string]*corev1.ConfigMap
	secrets    map[string]*corev1.Secret
	routes     map[string]string // hosts
	fail       map[string]error  // by kind and name
	asked      []string
}

func parse(t testing.TB, manifests string) *store {
	t.Helper()
	s := &store{
		devices:    map[string]*v1alpha1.EdgeDevice{},
		sets:       map[string]*v1alpha1.EdgeDeviceSet{},
		workloads:  map[string]*v1alpha1.EdgeWorkload{},
		configMaps: map[string]*corev1.ConfigMap{},
		secrets:    map[string]*corev1.Secret{},
		routes:     map[string]string{},
		fail:       map[string]error{},
	}
	for text := range strings.SplitSeq("\n"+manifests, "\n---\n") {
		var kind metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(text), &kind); err != nil {
			t.Fatalf("%v in:\n%s", err, text)
		}
		switch kind.Kind {
		case v1alpha1.KindEdgeDevice:
			put(t, s.devices, text)
		case v1alpha1.KindEdgeDeviceSet:
			put(t, s.sets, text)
		case v1alpha1.KindEdgeWorkload:
			put(t, s.workloads, text)
		case "ConfigMap":
			put(t, s.configMaps, text)
		case "Secret":
			put(t, s.secrets, text)
		case "Route":
			var route struct {
				Metadata metav1.ObjectMeta     `json:"metadata"`
				Spec     struct{ Host string } `json:"spec"`
			}
			if err := yaml.Unmarshal([]byte(text), &route); err != nil {
				t.Fatalf("%v in:\n%s", err, text)
			}
			s.routes[route.Metadata.Namespace+"/"+route.Metadata.Name] = route.Spec.Host
		default:
			t.Fatalf("kind %q in:\n%s", kind.Kind, text)
		}
	}
	return s
}

func put[T any, P interface {
	*T
	metav1.Object
}](t testing.TB, set map[string]P, text string) {
	t.Helper()
	object := P(new(T))
	if err := yaml.UnmarshalStrict([]byte(text), object); err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	set[object.GetNamespace()+"/"+object.GetName()] = object
}

func get[T any](s *store, set map[string]*T, kind, namespace, name string) (*T, error) {
	s.asked = append(s.asked, kind+" "+name)
	if err := s.fail[kind+" "+name]; err != nil {
		return nil, err
	}
	object, ok := set[namespace+"/"+name]
	if !ok {
		return nil, fmt.Errorf("get %s %s/%s: %w", kind, namespace, name, render.ErrNotFound)
	}
	return object, nil
}

func (s *store) EdgeDevice(_ context.Context, namespace, name string) (*v1alpha1.EdgeDevice, error) {
	return get(s, s.devices, "EdgeDevice", namespace, name)
}

func (s *store) EdgeDeviceSet(_ context.Context, namespace, name string) (*v1alpha1.EdgeDeviceSet, error) {
	return get(s, s.sets, "EdgeDeviceSet", namespace, name)
}

func (s *store) Workloads(_ context.Context, device *v1alpha1.EdgeDevice) ([]v1alpha1.EdgeWorkload, error) {
	if err := s.fail["EdgeWorkload"]; err != nil {
		return nil, err
	}
	var list []v1alpha1.EdgeWorkload
	for _, w := range s.workloads {
		if ok, err := render.Matches(w, device); err != nil {
			return nil, err
		} else if ok {
			list = append(list, *w)
		}
	}
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list, nil
}

func (s *store) ConfigMap(_ context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	return get(s, s.configMaps, "ConfigMap", namespace, name)
}

func (s *store) Secret(_ context.Context, namespace, name string) (*corev1.Secret, error) {
	return get(s, s.secrets, "Secret", namespace, name)
}

func (s *store) Route(_ context.Context, namespace, name string) (string, error) {
	if err := s.fail["Route "+name]; err != nil {
		return "", err
	}
	host, ok := s.routes[namespace+"/"+name]
	if !ok {
		return "", fmt.Errorf("get route %s/%s: %w", namespace, name, render.ErrNotFound)
	}
	return host, nil
}

// device returns the one device of the store.
func (s *store) device(t testing.TB) *v1alpha1.EdgeDevice {
	t.Helper()
	if len(s.devices) != 1 {
		t.Fatalf("%d devices, want one", len(s.devices))
	}
	return slices.Collect(maps.Values(s.devices))[0]
}

func (s *store) render(t testing.TB, previous *render.Result) render.Result {
	t.Helper()
	result, err := render.Configuration(t.Context(), s, s.device(t), previous)
	if err != nil {
		t.Fatal(err)
	}
	check(t, result)
	return result
}

// check asserts what is true of every result.
func check(t testing.TB, r render.Result) {
	t.Helper()
	var decoded protocol.DeviceConfigurationMessage
	if err := json.Unmarshal(r.JSON, &decoded); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r.Message, decoded); diff != "" {
		t.Errorf("JSON is not the message (-message +json):\n%s", diff)
	}
	if r.Version == "" || r.Message.Version != r.Version || r.ETag != `"`+r.Version+`"` {
		t.Errorf("version %q, in the message %q, etag %s", r.Version, r.Message.Version, r.ETag)
	}
	config := r.Message.Configuration
	if config == nil || config.Heartbeat == nil || config.Heartbeat.HardwareProfile == nil ||
		config.Metrics == nil || config.Metrics.Receiver == nil || config.Mounts == nil {
		t.Errorf("configuration lacks what is always there: %s", r.JSON)
	}
}

func findWorkload(t testing.TB, r render.Result, name string) protocol.Workload {
	t.Helper()
	for _, w := range r.Message.Workloads {
		if w.Name == name {
			return w
		}
	}
	t.Fatalf("workload %s is not in the message", name)
	return protocol.Workload{}
}

// findSecret returns the data of a secret; nil when it is not in the message.
func findSecret(t testing.TB, r render.Result, name string) map[string]string {
	t.Helper()
	for _, s := range r.Message.Secrets {
		if s.Name != name {
			continue
		}
		var raw map[string][]byte
		if err := json.Unmarshal([]byte(s.Data), &raw); err != nil {
			t.Fatal(err)
		}
		data := map[string]string{}
		for key, value := range raw {
			data[key] = string(value)
		}
		return data
	}
	return nil
}

func readFile(t testing.TB, elements ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(elements...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
