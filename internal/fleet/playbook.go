package fleet

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// ConfigsOf returns the EdgeConfigs that the labels of a device name, each once,
// in the order of their names.
func ConfigsOf(labels map[string]string) []string {
	names := make(map[string]bool)
	for key, value := range labels {
		if strings.HasPrefix(key, v1alpha1.LabelConfigPrefix) && value != "" {
			names[value] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// NewRuns returns the runs of a config on a device, in their order. They point to
// the playbooks of the config, so they must not be changed.
func NewRuns(config *v1alpha1.EdgeConfig, device string) []*v1alpha1.PlaybookExecution {
	if config.Spec.EdgePlaybook == nil {
		return nil
	}
	playbooks := config.Spec.EdgePlaybook.Playbooks
	runs := make([]*v1alpha1.PlaybookExecution, len(playbooks))
	for n := range playbooks {
		runs[n] = &v1alpha1.PlaybookExecution{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: config.Namespace,
				Name:      runName(device, config.Name, n),
				Labels:    map[string]string{v1alpha1.LabelDevice: device, v1alpha1.LabelDeviceByConfig: config.Name},
			},
			Spec: v1alpha1.PlaybookExecutionSpec{Playbook: &playbooks[n], User: config.Spec.EdgePlaybook.User},
		}
	}
	return runs
}

// runName is <device>-<config> for the first playbook of a config, as in flotta
// v0.2, and <device>-<config>-<n> for the n-th. What is too long ends in a hash.
func runName(device, config string, n int) string {
	name := device + "-" + config
	if n > 0 {
		name += "-" + strconv.Itoa(n+1)
	}
	if len(name) <= validation.DNS1123SubdomainMaxLength {
		return name
	}
	sum := sha256.Sum256([]byte(device + "\x00" + config + "\x00" + strconv.Itoa(n)))
	tail := "-" + hex.EncodeToString(sum[:8])
	return strings.TrimRight(name[:validation.DNS1123SubdomainMaxLength-len(tail)], "-.") + tail
}

// RunID identifies a run of the API server as it is asked for now: one that was
// made anew or changed since has another ID.
func RunID(run *v1alpha1.PlaybookExecution) string {
	return string(run.UID) + "." + strconv.FormatInt(run.Generation, 10)
}

// RunDigest identifies a run by what is to be done.
func RunDigest(run *v1alpha1.PlaybookExecution) (string, error) {
	text, err := json.Marshal(RunMessage(run, ""))
	if err != nil {
		return "", fmt.Errorf("digest playbook %s: %w", run.Name, err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16]), nil
}

// RunMessage tells a device of a run. The run has a playbook.
func RunMessage(run *v1alpha1.PlaybookExecution, id string) protocol.PlaybookExecution {
	p := run.Spec.Playbook
	m := protocol.PlaybookExecution{
		Name: run.Name, AnsiblePlaybookString: string(p.Content), ID: id, Config: run.Labels[v1alpha1.LabelDeviceByConfig],
		TimeoutSeconds: p.TimeoutSeconds, Strategy: p.ExecutionStrategy, User: run.Spec.User,
	}
	if p.AnsibleOptions != nil {
		m.Check = p.AnsibleOptions.Check
	}
	if o := p.PrivilegeEscalationOptions; o != nil && o.Become {
		m.Become = &protocol.PlaybookBecome{Method: o.BecomeMethod, User: o.BecomeUser}
	}
	if l := p.RequiredPrivilegeLevel; l != nil {
		m.CapAdd, m.CapDrop = widened(l.CapAdd), widened(l.CapDrop)
	}
	return m
}

func widened(list []int8) []int32 {
	out := make([]int32, len(list))
	for i, n := range list {
		out[i] = int32(n)
	}
	return out
}

// RunState returns the condition that is true, or one of no type.
func RunState(s v1alpha1.PlaybookExecutionStatus) v1alpha1.PlaybookCondition {
	if i := slices.IndexFunc(s.Conditions, func(c v1alpha1.PlaybookCondition) bool { return c.Status == metav1.ConditionTrue }); i >= 0 {
		return s.Conditions[i]
	}
	return v1alpha1.PlaybookCondition{}
}

// RunEnded reports whether the run with that ID is over. A status without an ID,
// which is of flotta v0.2, is of any.
func RunEnded(s v1alpha1.PlaybookExecutionStatus, id string) bool {
	return tellsOf(s, id) && isEnd(RunState(s).Type)
}

func tellsOf(s v1alpha1.PlaybookExecutionStatus, id string) bool {
	return s.RunID == id || s.RunID == ""
}

func isEnd(state string) bool {
	return state == v1alpha1.PlaybookSuccessfullyCompleted || state == v1alpha1.PlaybookCompletedWithError
}

// Stops reports whether a run failed and keeps those after it, of the same device
// and config, from being run.
func Stops(run *v1alpha1.PlaybookExecution) bool {
	return stopsOnFailure(run) && RunState(run.Status).Type == v1alpha1.PlaybookCompletedWithError
}

func stopsOnFailure(run *v1alpha1.PlaybookExecution) bool {
	return run.Spec.Playbook != nil && run.Spec.Playbook.ExecutionStrategy == v1alpha1.StrategyStopOnFailure
}

// MayGoOn reports whether a run that was skipped is to be begun anew: nothing
// before it keeps it from being run any more, and something there ended after it
// was skipped. Since is when that was.
func MayGoOn(skipped v1alpha1.PlaybookExecutionStatus, before []*v1alpha1.PlaybookExecution) (since time.Time, ok bool) {
	state := RunState(skipped)
	if state.Type != v1alpha1.PlaybookCompletedWithError || state.Reason != v1alpha1.PlaybookSkipped || state.LastTransitionTime == nil {
		return time.Time{}, false
	}
	for _, run := range before {
		c := RunState(run.Status)
		if stopsOnFailure(run) && c.Type != v1alpha1.PlaybookSuccessfullyCompleted {
			return time.Time{}, false
		}
		if at := c.LastTransitionTime; isEnd(c.Type) && at != nil && at.After(since) {
			since = at.Time
		}
	}
	return since, !since.Before(state.LastTransitionTime.Time)
}

// BegunRun is the status of a run that no device has heard of.
func BegunRun(id string, now time.Time) v1alpha1.PlaybookExecutionStatus {
	at := Timestamp(now)
	return v1alpha1.PlaybookExecutionStatus{RunID: id, Conditions: []v1alpha1.PlaybookCondition{
		{Type: v1alpha1.PlaybookDeploying, Status: metav1.ConditionTrue, LastTransitionTime: &at},
	}}
}
