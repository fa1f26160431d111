//go:build bench

package fleet_test

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/project-flotta/flotta-agent/internal/pki"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/test/bench/fleet"
)

// administrator is a client that nothing slows down.
func (r *rig) administrator() client.Client {
	r.Helper()
	scheme := runtime.NewScheme()
	must(r.T, v1alpha1.AddToScheme(scheme))
	kube, err := client.New(&rest.Config{
		Host: r.kube.URL, BearerToken: r.kube.Token, QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{CAFile: r.kube.CAFile},
	}, client.Options{Scheme: scheme})
	must(r.T, err)
	return kube
}

// ceiling measures how many writes of a device's status the API server takes
// while nobody but this program asks it, in a namespace that is gone afterwards:
// what is reported by a changing heartbeat is one such write.
func (r *rig) ceiling(figures *report) {
	r.Helper()
	const place = "ceiling"
	var err error
	r.authority, err = pki.NewAuthority(time.Now()) // of nobody
	must(r.T, err)
	_, err = r.kube.Kubectl(r.Context(), "", "create", "namespace", place)
	must(r.T, err)
	kube := r.administrator()
	devices := make([]*fleet.Device, r.settings.devices)
	for i := range devices {
		devices[i] = fleet.NewDevice(place, place, i)
	}
	objects := r.createObjects(devices)
	write := map[string]func(object *v1alpha1.EdgeDevice, phase string) error{
		"update": func(object *v1alpha1.EdgeDevice, phase string) error {
			object.Status.Phase = phase
			return kube.Status().Update(r.Context(), object)
		},
		"merge patch": func(object *v1alpha1.EdgeDevice, phase string) error {
			body := fmt.Appendf(nil, `{"metadata":{"resourceVersion":%q},"status":{"phase":%q}}`, object.ResourceVersion, phase)
			return kube.Status().Patch(r.Context(), object, client.RawPatch("application/merge-patch+json", body))
		},
	}
	for _, how := range []string{"update", "merge patch"} {
		watch := r.watch()
		result, err := fleet.Saturate(r.Context(), len(objects), r.settings.workers, r.settings.lasting, func(number, n int) error {
			return write[how](objects[number], fmt.Sprintf("%s-%d", how, n))
		})
		spent := watch()
		must(r.T, err)
		figures.add(r.T, figure{
			what: "the API server alone: status, by " + how + ", a second", ours: thousands(result.Rate()),
			value: result.Rate(), note: spent.each(result.Count()),
		})
	}
	_, err = r.kube.Kubectl(r.Context(), "", "delete", "edgedevices", "--all", "--namespace", place)
	must(r.T, err)
}
