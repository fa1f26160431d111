//go:build integration

package kube

import (
	"encoding/base64"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

const group = v1alpha1.APIVersion

const twoKeys = `apiVersion: management.project-flotta.io/v1alpha1
kind: EdgeWorkload
metadata: {name: web, namespace: $NS}
spec:
  deviceSelector: {matchLabels: {app: web}}
  type: pod
  pod:
    spec:
      containers:
      - name: web
        image: example.com/web
        env:
        - {name: PLAIN, value: "1"}
        - {name: A, valueFrom: {secretKeyRef: {name: keys, key: a}}}
        envFrom:
        - configMapRef: {name: settings-b}
        - configMapRef: {name: settings-a}
---
apiVersion: v1
kind: Secret
metadata: {name: keys, namespace: $NS}
stringData: {a: first, b: not for devices}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings-a, namespace: $NS}
data: {x: "1"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings-b, namespace: $NS}
data: {y: "1"}`

// What is wanted of a device follows every object that it is made of, in an
// order that never changes, and nothing else.
func TestConfigurationFollowsObjects(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.apply(twoKeys)
	d := r.device("dev1", map[string]string{"app": "web"})
	m := r.until(d, "workload", func(m protocol.DeviceConfigurationMessage) bool {
		return workloadNames(m) == "web" && len(m.Secrets) == 1 && len(m.Workloads[0].ConfigMaps) == 2
	})
	if want := `{"a":"` + base64.StdEncoding.EncodeToString([]byte("first")) + `"}`; m.Secrets[0].Data != want {
		t.Errorf("secret %s, want %s: only the key that is used", m.Secrets[0].Data, want)
	}
	if !strings.Contains(m.Workloads[0].ConfigMaps[0], "settings-a") {
		t.Error("ConfigMaps are not in the order of their names")
	}
	first, _ := r.configuration(d)
	for range 50 {
		if again, _ := r.configuration(d); again.Version != first.Version || string(again.JSON) != string(first.JSON) || again.At != first.At {
			t.Fatal("the same objects give another configuration")
		}
	}
	// A key that is not used is no reason for a new version; one that is, is.
	r.apply("apiVersion: v1\nkind: Secret\nmetadata: {name: keys, namespace: $NS}\nstringData: {a: second, b: other}")
	r.until(d, "second secret", func(m protocol.DeviceConfigurationMessage) bool {
		return strings.Contains(m.Secrets[0].Data, base64.StdEncoding.EncodeToString([]byte("second")))
	})
	r.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings-a, namespace: $NS}\ndata: {x: '2'}")
	r.until(d, "second config map", func(m protocol.DeviceConfigurationMessage) bool {
		return strings.Contains(m.Workloads[0].ConfigMaps[0], `"2"`)
	})
	r.remove("v1", "ConfigMap", "settings-a")
	r.eventually("degraded", func() bool {
		_, _ = r.configuration(d)
		return condition(r.get(d), v1alpha1.ConditionDegraded).Status == metav1.ConditionTrue
	})
	if _, m := r.configuration(d); workloadNames(m) != "web" || len(m.Workloads[0].ConfigMaps) != 2 {
		t.Error("a missing object changed a workload that ran")
	}
	r.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings-a, namespace: $NS}\ndata: {x: '3'}")
	r.until(d, "third config map", func(m protocol.DeviceConfigurationMessage) bool {
		return strings.Contains(m.Workloads[0].ConfigMaps[0], `"3"`)
	})
	r.eventually("not degraded", func() bool { return condition(r.get(d), v1alpha1.ConditionDegraded).Status == metav1.ConditionFalse })

	r.patchMeta(d, `{"metadata":{"labels":{"app":"other"}}}`)
	r.until(d, "label change undeploys", func(m protocol.DeviceConfigurationMessage) bool { return workloadNames(m) == "" && len(m.Secrets) == 0 })
	r.eventually("contents given free", func() bool {
		r.backend.references.mu.Lock()
		defer r.backend.references.mu.Unlock()
		return len(r.backend.references.entries) == 0
	})
}

// A status-only change of a device or workload renders nothing anew, and a
// device set and its sections count.
func TestCacheAndDeviceSet(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.apply(`apiVersion: management.project-flotta.io/v1alpha1
kind: EdgeDeviceSet
metadata: {name: set, namespace: $NS}
spec: {heartbeat: {periodSeconds: 7}}`)
	d := r.device("dev1", map[string]string{v1alpha1.LabelMemberOf: "set"})
	r.until(d, "period of the set", func(m protocol.DeviceConfigurationMessage) bool { return m.Configuration.Heartbeat.PeriodSeconds == 7 })
	before := r.backend.renderings.Load()
	r.patchStatus(d, `{"status":{"phase":"up","conditions":[{"type":"Online","status":"True","reason":"Seen","message":"","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`)
	r.eventually("status seen", func() bool { return r.backend.devices.find(d).state().object.Status.Phase == "up" })
	r.configuration(d)
	if after := r.backend.renderings.Load(); after != before {
		t.Errorf("%d renderings after a change of the status", after-before)
	}
	r.apply(`apiVersion: management.project-flotta.io/v1alpha1
kind: EdgeDeviceSet
metadata: {name: set, namespace: $NS}
spec: {heartbeat: {periodSeconds: 8}}`)
	r.until(d, "new period", func(m protocol.DeviceConfigurationMessage) bool { return m.Configuration.Heartbeat.PeriodSeconds == 8 })
}

// Defect 7.2.5 and 7.2.6: editing a selector undeploys, and its keys may be
// qualified. No status and no label of the device is needed for that.
func TestDefect725And726SelectorEdit(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	workload := func(selector string) string {
		return "apiVersion: management.project-flotta.io/v1alpha1\nkind: EdgeWorkload\nmetadata: {name: w, namespace: $NS}\n" +
			"spec: {type: pod, " + selector + ", pod: {spec: {containers: [{name: c, image: example.com/c}]}}}"
	}
	r.apply(workload(`deviceSelector: {matchLabels: {flotta/member-of: red}}`))
	a := r.device("a", map[string]string{"flotta/member-of": "red"})
	b := r.device("b", map[string]string{"flotta/member-of": "blue"})
	has := func(m protocol.DeviceConfigurationMessage) bool { return workloadNames(m) == "w" }
	hasNot := func(m protocol.DeviceConfigurationMessage) bool { return workloadNames(m) == "" }
	r.until(a, "deployed to a", has)
	r.until(b, "not deployed to b", hasNot)
	r.apply(workload(`deviceSelector: {matchLabels: {flotta/member-of: blue}}`))
	r.until(a, "undeployed from a", hasNot)
	r.until(b, "deployed to b", has)
	r.apply(workload(`device: a`))
	r.until(a, "deployed to a by name", has)
	r.until(b, "a name wins over the selector", hasNot)
	r.remove(group, "EdgeWorkload", "w")
	r.until(a, "removed", hasNot)
}

// Defect 7.2.10: one bad reference is one bad workload, and it is told.
func TestDefect7210MissingReference(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.apply(`apiVersion: management.project-flotta.io/v1alpha1
kind: EdgeWorkload
metadata: {name: bad, namespace: $NS}
spec: {type: pod, device: dev1, imageRegistries: {secretRef: {name: nothing}}, pod: {spec: {containers: [{name: c, image: example.com/c}]}}}
---
apiVersion: management.project-flotta.io/v1alpha1
kind: EdgeWorkload
metadata: {name: good, namespace: $NS}
spec: {type: pod, device: dev1, pod: {spec: {containers: [{name: c, image: example.com/c}]}}}`)
	d := r.device("dev1", nil)
	r.patchStatus(d, `{"status":{"workloads":[{"name":"bad"},{"name":"good"}]}}`)
	r.until(d, "both", func(m protocol.DeviceConfigurationMessage) bool { return workloadNames(m) == "bad good" })
	r.eventually("condition", func() bool {
		object := r.get(d)
		c := condition(object, v1alpha1.ConditionDegraded)
		return c.Status == metav1.ConditionTrue && c.Reason == "SecretNotFound" && strings.Contains(c.Message, "bad") &&
			len(object.Status.Workloads) == 2 && object.Status.Workloads[0].Reason == "SecretNotFound" && object.Status.Workloads[1].Reason == ""
	})
	r.eventually("event", func() bool {
		list := r.events(d)
		return len(list) == 1 && list[0].Type == corev1.EventTypeWarning && list[0].Reason == "SecretNotFound" && list[0].Source.Component == "flotta-edge-api"
	})
	for range 20 {
		r.configuration(d)
	}
	if n := len(r.events(d)); n != 1 {
		t.Errorf("%d events, want one", n)
	}
}

// Secrets and ConfigMaps that nobody refers to cost next to nothing. Not
// parallel: all tests share the heap.
func TestUnrelatedObjects(t *testing.T) {
	r := newRig(t)
	d := r.device("dev1", nil)
	r.configuration(d)
	before := heap()
	const n, size = 300, 100 << 10
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := w; i < n; i += 8 {
				meta := metav1.ObjectMeta{Name: fmt.Sprintf("unrelated-%d", i)}
				_, err := r.admin.core.Secrets(r.namespace).Create(t.Context(), &corev1.Secret{
					ObjectMeta: meta, Data: map[string][]byte{"x": make([]byte, size)},
				}, metav1.CreateOptions{})
				if err == nil {
					_, err = r.admin.core.ConfigMaps(r.namespace).Create(t.Context(), &corev1.ConfigMap{
						ObjectMeta: meta, BinaryData: map[string][]byte{"x": make([]byte, size)},
					}, metav1.CreateOptions{})
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	// The watch tells in order: this one is told after those.
	r.apply("apiVersion: v1\nkind: Secret\nmetadata: {name: last, namespace: $NS}\nstringData: {.dockerconfigjson: '{}'}")
	r.apply(`apiVersion: management.project-flotta.io/v1alpha1
kind: EdgeWorkload
metadata: {name: w, namespace: $NS}
spec: {type: pod, device: dev1, imageRegistries: {secretRef: {name: last}}, pod: {spec: {containers: [{name: c, image: example.com/c}]}}}`)
	r.until(d, "workload with auth file", func(m protocol.DeviceConfigurationMessage) bool {
		return len(m.Workloads) == 1 && m.Workloads[0].ImageRegistries != nil && m.Workloads[0].ImageRegistries.AuthFile == "{}"
	})
	// What grows are buffers of connections, a few of the objects' size.
	grown, all := int64(heap())-int64(before), int64(2*n*size)
	t.Logf("the heap grew by %d KiB for %d KiB that nobody needs", grown>>10, all>>10)
	if grown > all/10 {
		t.Errorf("the heap grew by %d KiB for %d KiB that nobody needs", grown>>10, all>>10)
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Without a Role in a namespace, the workloads there that need Secrets are
// degraded, others are not, and a Role mends it.
func TestNamespaceWithoutRole(t *testing.T) {
	t.Parallel()
	r := bareRig(t)
	r.remove("rbac.authorization.k8s.io/v1", "RoleBinding", "flotta-edge-api-device-objects")
	r.backend = r.run(func(c *Config) { c.ForeignInterval = 200 * time.Millisecond })
	r.apply(strings.Replace(twoKeys, "deviceSelector: {matchLabels: {app: web}}", "device: dev1", 1))
	d := r.device("dev1", nil)
	r.until(d, "workload", func(m protocol.DeviceConfigurationMessage) bool { return workloadNames(m) == "web" })
	r.eventually("problem", func() bool {
		return strings.Contains(condition(r.get(d), v1alpha1.ConditionDegraded).Message, "needs a Role there")
	})
	r.apply(deviceRoles)
	r.until(d, "secrets", func(m protocol.DeviceConfigurationMessage) bool {
		return len(m.Secrets) == 1 && len(m.Workloads[0].ConfigMaps) == 2
	})
	r.eventually("no problem", func() bool {
		r.configuration(d)
		return condition(r.get(d), v1alpha1.ConditionDegraded).Status == metav1.ConditionFalse
	})
}

// A device that is being deleted is told to run nothing.
func TestDeletingDevice(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.apply(strings.Replace(twoKeys, "deviceSelector: {matchLabels: {app: web}}", "device: dev1", 1))
	d := r.device("dev1", nil)
	r.until(d, "workload", func(m protocol.DeviceConfigurationMessage) bool { return workloadNames(m) == "web" })
	r.patchMeta(d, `{"metadata":{"finalizers":["example.com/wait"]}}`)
	r.remove(group, "EdgeDevice", "dev1")
	r.until(d, "nothing to run", func(m protocol.DeviceConfigurationMessage) bool { return workloadNames(m) == "" })
	if managed, err := r.backend.Managed(t.Context(), d); err != nil || managed {
		t.Errorf("managed %v, %v", managed, err)
	}
	r.patchMeta(d, `{"metadata":{"finalizers":null}}`)
	r.eventually("gone", func() bool {
		_, err := r.backend.Configuration(t.Context(), d)
		return isNotFound(err)
	})
	if managed, err := r.backend.Managed(t.Context(), edgeapi.Device{Namespace: r.namespace, ID: "never-there"}); err != nil || managed {
		t.Errorf("a device that never was: managed %v, %v", managed, err)
	}
}
