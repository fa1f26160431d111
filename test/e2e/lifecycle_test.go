//go:build device

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/project-flotta/flotta-agent/test/site"
)

func TestDeletedDeviceStopsAndMayAskAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t, false)
	e := newEdge(t, s, site.EdgeConfig{})
	must(t, e.Enrol(t.Context()))
	r := &rig{T: t, ctx: t.Context(), site: s, edge: e}
	text := r.workload("tenant", "args: [write, /export/kept, data]", "")
	r.save("w.yaml", text)
	r.running("tenant", "app")
	r.phase("tenant", "Running")

	_, err := s.API.Command(t.Context(), "delete", e.ID())
	must(t, err)
	r.gone("tenant")
	if raw, err := os.ReadFile(e.Path(filepath.Join(site.Export("tenant"), "kept"))); err != nil || string(raw) != "data\n" {
		t.Errorf("the workload's file is %q, %v; want it kept", raw, err)
	}

	// As the README says: back to the credential for newcomers, and ask again.
	_, err = e.Run(t.Context(), "cp", "/etc/pki/flotta/flotta-credentials-register.pem", "/etc/pki/flotta/flotta-credentials.pem")
	must(t, err)
	_, err = e.Run(t.Context(), "systemctl", "restart", "yggd.service")
	must(t, err)
	until(t, "the device asks again", func() error {
		if !s.Requested(e.ID()) {
			return fmt.Errorf("no request")
		}
		return nil
	})
	if err := e.Condition("Registered"); err == nil {
		t.Error("the deleted device was let in without a new approval")
	}
	must(t, e.Enrol(t.Context()))
	r.running("tenant", "app")
}
