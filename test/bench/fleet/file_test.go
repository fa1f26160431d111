//go:build bench

package fleet_test

import (
	"net/http"
	"os"
	"path/filepath"
	"time"

	"sigs.k8s.io/yaml"

	rules "github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/test/bench/fleet"
)

// openFile starts an Edge API on a folder.
func (r *rig) openFile() {
	r.Helper()
	dir := r.TempDir()
	must(r.T, os.MkdirAll(filepath.Join(dir, "manifests"), 0o700))
	must(r.T, os.WriteFile(filepath.Join(dir, "manifests", "bench.yaml"), []byte(r.manifest()), 0o600))
	r.startAPI(dir)
	read := func(name string) []byte {
		raw, err := os.ReadFile(filepath.Join(dir, "pki", name))
		must(r.T, err)
		return raw
	}
	r.trust(read("ca.crt"), read("ca.key"), read("register.crt"), read("register.key"))
	r.seed = func(devices []*fleet.Device) {
		_, err := fleet.Each(r.Context(), len(devices), 4, func(number, _ int) error {
			object, err := r.object(devices[number])
			if err != nil {
				return err
			}
			text, err := yaml.Marshal(object)
			if err != nil {
				return err
			}
			path := filepath.Join(dir, "devices", object.Namespace, object.Name+".yaml")
			return os.WriteFile(path, text, 0o600)
		})
		must(r.T, err)
		r.known(devices)
	}
}

// object is a registered device as the control plane knows it, with a
// certificate that the authority's key made: to let 10,000 in one by one would
// take long, and what is weighed is the same.
func (r *rig) object(d *fleet.Device) (*v1alpha1.EdgeDevice, error) {
	fingerprint, err := d.Certify(r.authority)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	object := rules.NewDevice(d.Namespace, d.ID, "", now)
	rules.Register(object, rules.Claim{Requested: fingerprint}, r.hardware(d.ID), now)
	object.CreationTimestamp = rules.Timestamp(now)
	rules.ListWorkloads(object, workloads[:], now)
	for _, name := range workloads {
		object.Labels[v1alpha1.LabelWorkloadPrefix+name] = v1alpha1.LabelTrue
	}
	rules.Touch(object, now, time.Hour)
	return object, nil
}

// known waits until the Edge API serves the last of the devices.
func (r *rig) known(devices []*fleet.Device) {
	r.Helper()
	last := devices[len(devices)-1]
	defer last.Close()
	must(r.T, r.until(2*time.Minute, func() error {
		if err := last.Connect(r.Context(), r.target); err != nil {
			return err
		}
		_, err := last.Do(fleet.NewRequest(r.target.Protocol, r.target.ServerName, last.Path("data", "in"), "", nil), http.StatusOK)
		return err
	}))
}
