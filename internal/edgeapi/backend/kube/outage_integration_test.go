//go:build integration

package kube

import (
	"errors"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// While the API server is away, what is known is answered from memory, and no
// device is told that it is not managed. Not parallel: all tests share it.
func TestAPIServerAway(t *testing.T) {
	r := newRig(t)
	d := r.device("dev1", map[string]string{"app": "web"})
	r.apply(twoKeys)
	r.until(d, "workload", func(m protocol.DeviceConfigurationMessage) bool {
		return workloadNames(m) == "web" && len(m.Secrets) == 1
	})
	version, _ := r.configuration(d)
	r.heartbeat(d, report(version.Version))
	cluster.kube.KillServer()
	for range 5 {
		if c, err := r.backend.Configuration(t.Context(), d); err != nil || c.Version != version.Version {
			t.Errorf("configuration: %v", err)
		}
		if managed, err := r.backend.Managed(t.Context(), d); err != nil || !managed {
			t.Errorf("managed %v, %v", managed, err)
		}
		if err := r.backend.Heartbeat(t.Context(), d, report(version.Version)); err != nil {
			t.Errorf("unchanged heartbeat: %v", err)
		}
		if err := r.backend.Heartbeat(t.Context(), d, report("changed")); err == nil || errors.Is(err, edgeapi.ErrNotFound) {
			t.Errorf("changed heartbeat: %v", err)
		}
		unknown := r.name("unknown")
		if managed, err := r.backend.Managed(t.Context(), unknown); err == nil {
			t.Errorf("unknown device: managed %v without an error", managed)
		}
		if _, err := r.backend.Configuration(t.Context(), unknown); err == nil || errors.Is(err, edgeapi.ErrNotFound) {
			t.Errorf("configuration of an unknown device: %v", err)
		}
		if err := r.backend.Authorise(t.Context(), d, key1); err != nil {
			t.Errorf("authorise: %v", err)
		}
		if err := r.backend.Authorise(t.Context(), d, key2); err == nil || errors.Is(err, edgeapi.ErrUnauthorised) {
			t.Errorf("authorise with another key: %v", err)
		}
		if err := r.backend.Ready(t.Context()); err != nil {
			t.Errorf("ready: %v", err)
		}
	}
	r.eventually("the metric tells", func() bool { return r.backend.interrupted() == float64(len(r.backend.feeds)) })
	if err := cluster.kube.StartServer(); err != nil {
		t.Fatal(err)
	}
	r.eventually("heartbeat taken", func() bool { return r.backend.Heartbeat(t.Context(), d, report("changed")) == nil })
	if s := r.get(d); s.Status.LastSyncedResourceVersion != "changed" || condition(s, v1alpha1.ConditionConfigurationApplied).Status != metav1.ConditionFalse {
		t.Errorf("status %+v", s.Status)
	}
	r.apply("apiVersion: v1\nkind: Secret\nmetadata: {name: keys, namespace: $NS}\nstringData: {a: after, b: other}")
	r.until(d, "watching again", func(m protocol.DeviceConfigurationMessage) bool { return m.Version != version.Version })
	r.eventually("the metric tells that it is over", func() bool { return r.backend.interrupted() == 0 })
}
