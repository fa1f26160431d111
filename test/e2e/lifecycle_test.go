//go:build device

package e2e

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/pki"
	"github.com/project-flotta/flotta-agent/test/site"
)

const (
	stateDir       = "/var/local/yggdrasil/device"
	credentialFile = "/etc/pki/flotta/flotta-credentials.pem"
)

// rareSync makes the agent synchronise at its start and then not again within
// the test.
const rareSync = `log-level = "debug"
[runtime]
settle = "1s"
[sync]
interval = "1h"
final-timeout = "30s"
[identity]
retry = "1s"
`

// newTenant returns a device that was approved by hand and runs a workload with
// a secret and files to deliver.
func newTenant(t *testing.T, cfg site.EdgeConfig) *rig {
	t.Helper()
	if cfg.Settings == "" {
		cfg.Settings = rareSync
	}
	s := newSite(t, false)
	e := newEdge(t, s, cfg)
	must(t, e.Enrol(t.Context()))
	r := &rig{T: t, ctx: t.Context(), site: s, edge: e}
	r.device("", "")
	r.save("keys.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: keys}\nstringData: {TOKEN: s3cr3t-of-the-tenant}\n")
	r.save("w.yaml", r.workload("tenant", "args: [serve, '8080']\nports: [{containerPort: 8080, hostPort: 18080}]\nenvFrom: [{secretRef: {name: keys}}]",
		"data: {egress: [{source: out, target: tenant}]}\n"))
	r.running("tenant", "app")
	r.phase("tenant", "Running")
	return r
}

// unmanage deletes the device with its manifest. The device hears of both at
// once.
func (r *rig) unmanage() {
	r.Helper()
	r.site.APIPath.Cut()
	r.remove("device.yaml")
	must(r.T, r.site.Delete(r.ctx, r.edge.ID()))
	r.site.APIPath.Mend()
}

// asksAgain waits until the device asks to be managed like one that was never
// seen, and checks that nothing of its former life is left but the volume.
func (r *rig) asksAgain() {
	r.Helper()
	r.until("the device asks again", func() error {
		if !r.site.Requested(r.edge.ID()) {
			return fmt.Errorf("no request")
		}
		return nil
	})
	if err := r.edge.Condition("Registered"); err == nil {
		r.Error("the deleted device was let in without a new approval")
	}
	r.gone("tenant")
	out, err := r.edge.Podman(r.ctx, "secret", "ls", "--noheading")
	must(r.T, err)
	if out != "" {
		r.Errorf("podman secrets are left: %s", out)
	}
	if got := r.certificate().Subject.CommonName; got != pki.RegisterName {
		r.Errorf("the credential in place is of %q, want that for newcomers", got)
	}
	for _, file := range []string{"desired.json", "yggd-restart.json"} {
		if _, err := os.Lstat(r.edge.Path(filepath.Join(stateDir, file))); err == nil {
			r.Errorf("%s is left", file)
		}
	}
	if left, err := os.ReadDir(r.edge.Path(filepath.Join(stateDir, "workloads"))); err == nil && len(left) > 0 {
		r.Errorf("folders of workloads are left: %v", left)
	}
	must(r.T, filepath.WalkDir(r.edge.Path(stateDir), func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(path)
		if bytes.Contains(raw, []byte("s3cr3t-of-the-tenant")) || bytes.Contains(raw, []byte("czNjcjN0LW9mLXRoZS10ZW5hbn")) {
			r.Errorf("%s holds the secret", path)
		}
		return err
	}))
}

// comesBack approves the device anew and waits for its workload, with the file
// that it wrote before.
func (r *rig) comesBack(file, want string) {
	r.Helper()
	must(r.T, r.edge.Enrol(r.ctx))
	r.device("", "")
	r.running("tenant", "app")
	r.answers("18080", "/file?path="+file, want)
	r.phase("tenant", "Running")
	if got := r.certificate().Subject.CommonName; !strings.EqualFold(got, r.edge.ID()) {
		r.Errorf("the credential in place is of %q, want the device's", got)
	}
}

// certificate returns what the device shows to the Edge API.
func (r *rig) certificate() *x509.Certificate {
	r.Helper()
	raw, err := r.edge.ReadFile(credentialFile)
	must(r.T, err)
	leaf, err := pki.ParseCertificate(raw)
	must(r.T, err)
	return leaf
}

func TestDeletedDeviceDeliversLeavesAndAsksAgain(t *testing.T) {
	t.Parallel()
	r := newTenant(t, site.EdgeConfig{})
	r.answers("18080", "/put?path=/out/last&text=words", "")
	time.Sleep(3 * time.Second) // a cycle would have come by now, were they as frequent as usual
	if _, err := os.Stat(filepath.Join(r.site.BucketDir(), "tenant/last")); err == nil {
		t.Fatal("the file is in the bucket already: this test shows nothing")
	}
	r.answers("18080", "/put?path=/out/later&text=still", "")
	r.unmanage()
	r.object("tenant/last", "words")
	r.object("tenant/later", "still")
	r.asksAgain()
	r.comesBack("/out/last", "words")
}

func TestDeletedDeviceWhoseBucketIsAway(t *testing.T) {
	t.Parallel()
	r := newTenant(t, site.EdgeConfig{Settings: strings.Replace(rareSync, `"30s"`, `"5s"`, 1)})
	r.answers("18080", "/put?path=/out/last&text=words", "")
	r.site.S3Path.Cut()
	r.unmanage()
	r.asksAgain()
	r.site.S3Path.Mend()
	r.comesBack("/out/last", "words")
	// It was kept in the volume, and arrives in the device's next life.
	r.object("tenant/last", "words")
}

func TestDeletedDevicePowerCutWhileItLeaves(t *testing.T) {
	t.Parallel()
	// However long its network takes to come up.
	r := newTenant(t, site.EdgeConfig{Settings: strings.Replace(rareSync, `"30s"`, `"85s"`, 1)})
	r.answers("18080", "/put?path=/out/last&text=words", "")
	r.site.S3Path.Cut() // holds the device in its first step
	r.unmanage()
	r.until("the device begins to leave", func() error {
		raw, err := r.edge.ReadFile(filepath.Join(stateDir, "desired.json"))
		if err == nil && !bytes.Contains(raw, []byte(`"leaving":`)) {
			err = fmt.Errorf("it is managed")
		}
		return err
	})
	must(t, r.edge.PowerCut())
	r.site.S3Path.Mend()
	r.site.APIPath.Cut() // nobody tells it again
	must(t, r.edge.PowerOn(r.ctx))
	r.object("tenant/last", "words")
	r.gone("tenant")
	r.site.APIPath.Mend()
	r.asksAgain()
	r.comesBack("/out/last", "words")
}

func TestDeletedDeviceKilledAtEveryStep(t *testing.T) {
	t.Parallel()
	const crashFile = "/run/flotta-crash"
	r := newTenant(t, site.EdgeConfig{Agent: faultyAgent(t), WorkerEnv: []string{"FLOTTA_TEST_CRASH_FILE=" + crashFile}})
	r.answers("18080", "/put?path=/out/last&text=words", "")
	for _, step := range []string{
		"leave-recorded", "leave-delivered", "leave-withdrawn", "remove-stopped", "leave-removed",
		"leave-spool-gone", "leave-credential-back", "leave-restart-marked", "leave-forgotten",
	} {
		must(t, r.edge.WriteFile(crashFile, []byte(step+":1"), 0o600))
		r.unmanage()
		r.until("the agent was killed at "+step, func() error {
			if _, err := os.Stat(r.edge.Path(crashFile)); err == nil {
				return fmt.Errorf("it passed no such step yet")
			}
			return nil
		})
		r.asksAgain()
		r.comesBack("/out/last", "words")
	}
}

func TestOutagesTouchNoWorkload(t *testing.T) {
	t.Parallel()
	r := newTenant(t, site.EdgeConfig{})
	id := r.running("tenant", "app")
	for _, wrong := range []func(){
		r.site.APIPath.Cut,
		r.site.API.Kill,
	} {
		wrong()
		hold(t, 10*time.Second, func() error {
			now, err := r.edge.Container(r.ctx, "tenant", "app")
			if err == nil && now != id {
				err = fmt.Errorf("the container was replaced")
			}
			return err
		})
	}
	must(t, r.site.API.Start())
	r.site.APIPath.Mend()
	r.phase("tenant", "Running")
}
