package file

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// playbookRun is a playbook that a device is to run. There is no object of it: it
// follows from the EdgeConfigs that the device's labels name, and what became of
// it is in the state of the device.
type playbookRun struct {
	*v1alpha1.PlaybookExecution
	id string
}

// Playbooks implements edgeapi.Backend.
func (b *Backend) Playbooks(_ context.Context, d edgeapi.Device) ([]protocol.PlaybookExecution, error) {
	object, err := b.device(d)
	if err != nil {
		return nil, err
	}
	runs, err := b.runsOf(d, object)
	if err != nil {
		return nil, err
	}
	var list []protocol.PlaybookExecution
	stopped := make(map[string]bool) // by config
	for _, run := range runs {
		config := run.Labels[v1alpha1.LabelDeviceByConfig]
		switch {
		case fleet.RunEnded(run.Status, run.id):
			stopped[config] = stopped[config] || fleet.Stops(run.PlaybookExecution)
		case !stopped[config]: // a device that got it now would not know of the one before
			list = append(list, fleet.RunMessage(run.PlaybookExecution, run.id))
		}
	}
	return list, nil
}

// runsOf returns the runs of a device with that state.
func (b *Backend) runsOf(d edgeapi.Device, object *v1alpha1.EdgeDevice) ([]playbookRun, error) {
	b.mu.RLock()
	c := b.catalog
	b.mu.RUnlock()
	known := make(map[string]v1alpha1.PlaybookExecutionStatus, len(object.Status.PlaybookExec))
	for _, e := range object.Status.PlaybookExec {
		known[e.Name] = e.PlaybookExecutionStatus
	}
	var runs []playbookRun
	taken := make(map[string]bool) // a name may follow from two configs; the first counts
	for _, name := range fleet.ConfigsOf(merged(object, c.device(d)).Labels) {
		config, err := find[v1alpha1.EdgeConfig](c, v1alpha1.KindEdgeConfig, d.Namespace, name)
		if err != nil {
			continue // it may come yet
		}
		var before []*v1alpha1.PlaybookExecution
		for _, object := range fleet.NewRuns(config, d.ID) {
			if taken[object.Name] {
				continue
			}
			taken[object.Name] = true
			object.Status = known[object.Name]
			id, err := runID(object, before)
			if err != nil {
				return nil, err
			}
			run := playbookRun{object, id}
			if object.Status.RunID != id {
				object.Status = v1alpha1.PlaybookExecutionStatus{} // of the run before
			}
			runs, before = append(runs, run), append(before, object)
		}
	}
	return runs, nil
}

// runID identifies a run by what is to be done. One that was skipped and goes on
// after all is another one, and stays that.
func runID(run *v1alpha1.PlaybookExecution, before []*v1alpha1.PlaybookExecution) (string, error) {
	digest, err := fleet.RunDigest(run)
	if err != nil {
		return "", err
	}
	if last := run.Status.RunID; last != digest && !strings.HasPrefix(last, digest+".") {
		return digest, nil
	}
	if since, ok := fleet.MayGoOn(run.Status, before); ok {
		return digest + "." + strconv.FormatInt(since.Unix(), 10), nil
	}
	return run.Status.RunID, nil
}

// runIDs returns the IDs of the runs of a device by name.
func (b *Backend) runIDs(d edgeapi.Device, object *v1alpha1.EdgeDevice) (map[string]string, error) {
	runs, err := b.runsOf(d, object)
	if err != nil {
		return nil, err
	}
	ids := make(map[string]string, len(runs))
	for _, run := range runs {
		ids[run.Name] = run.id
	}
	return ids, nil
}

// validateConfig checks what the API server would refuse.
func validateConfig(c *v1alpha1.EdgeConfig) error {
	if len(c.Name) > validation.LabelValueMaxLength {
		return fmt.Errorf("metadata.name has %d bytes, at most %d are possible: devices name it in a label", len(c.Name), validation.LabelValueMaxLength)
	}
	s := c.Spec.EdgePlaybook
	if s == nil {
		return nil
	}
	if err := validateUser(s.User); err != nil {
		return fmt.Errorf("spec.edgePlaybook.user: %w", err)
	}
	for i := range s.Playbooks {
		if err := validatePlaybook(&s.Playbooks[i]); err != nil {
			return fmt.Errorf("spec.edgePlaybook.playbooks[%d].%w", i, err)
		}
	}
	return nil
}

// maxCapability is AUDIT_READ, the last one that flotta v0.2 knows.
const maxCapability = 37

func validatePlaybook(p *v1alpha1.Playbook) error {
	switch {
	case len(p.Content) == 0:
		return errors.New("content is empty")
	case !utf8.Valid(p.Content):
		return errors.New("content is not a text in UTF-8")
	case p.TimeoutSeconds < 0:
		return fmt.Errorf("timeoutSeconds %d: must not be negative", p.TimeoutSeconds)
	}
	switch p.ExecutionStrategy {
	case "", v1alpha1.StrategyStopOnFailure, v1alpha1.StrategyRetryOnFailure, v1alpha1.StrategyExecuteOnce:
	default:
		return fmt.Errorf("executionStrategy %q: must be %s, %s or %s", p.ExecutionStrategy,
			v1alpha1.StrategyStopOnFailure, v1alpha1.StrategyRetryOnFailure, v1alpha1.StrategyExecuteOnce)
	}
	if o := p.PrivilegeEscalationOptions; o != nil {
		if o.BecomeMethod != "" && o.BecomeMethod != "sudo" && o.BecomeMethod != "su" {
			return fmt.Errorf("privilegeEscalationOptions.becomeMethod %q: must be sudo or su", o.BecomeMethod)
		}
		if err := validateUser(o.BecomeUser); err != nil {
			return fmt.Errorf("privilegeEscalationOptions.becomeUser: %w", err)
		}
	}
	if l := p.RequiredPrivilegeLevel; l != nil {
		for _, n := range append(append([]int8(nil), l.CapAdd...), l.CapDrop...) {
			if n < 0 || n > maxCapability {
				return fmt.Errorf("requiredPrivilegeLevel: there is no capability %d, the last is %d", n, maxCapability)
			}
		}
	}
	return nil
}

func validateUser(name string) error {
	if ok, err := regexp.MatchString(`^([A-Za-z_][A-Za-z0-9._-]{0,31})?$`, name); err != nil || !ok {
		return fmt.Errorf("%.40q is not the name of a user: up to 32 letters, digits, '.', '_' and '-', the first a letter or '_'", name)
	}
	return nil
}
