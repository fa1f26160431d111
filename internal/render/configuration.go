package render

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Configuration renders the message for device. Previous is the last result for
// the same device, or nil: a workload that cannot be rendered now is taken from
// there. An error means that an object could not be read, other than for not
// being there; nothing is known then, and the caller keeps what it has.
func Configuration(ctx context.Context, r Reader, device *v1alpha1.EdgeDevice, previous *Result) (Result, error) {
	j := newJob(r, device, previous)
	config, err := j.deviceConfiguration(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("render device %s/%s: %w", device.Namespace, device.Name, err)
	}
	message := protocol.DeviceConfigurationMessage{DeviceID: device.Name, Configuration: config}
	if device.DeletionTimestamp == nil {
		message.Workloads, err = j.workloads(ctx)
		if err != nil {
			return Result{}, fmt.Errorf("render workloads of device %s/%s: %w", device.Namespace, device.Name, err)
		}
		message.Secrets = j.bundle.wire()
	}
	return j.result(message)
}

// job is one call of Configuration.
type job struct {
	device   *v1alpha1.EdgeDevice
	objects  *objects
	bundle   bundle
	previous previous
	problems map[Problem]struct{}
}

func newJob(r Reader, device *v1alpha1.EdgeDevice, last *Result) *job {
	j := &job{
		device:   device,
		objects:  newObjects(r, device.Namespace),
		bundle:   bundle{},
		previous: newPrevious(last),
		problems: map[Problem]struct{}{},
	}
	j.objects.looked(v1alpha1.KindEdgeDevice, device.Namespace, device.Name)
	return j
}

// broken notes problems of the device.
func (j *job) broken(problems ...Problem) {
	for _, p := range problems {
		j.problems[p] = struct{}{}
	}
}

func (j *job) result(message protocol.DeviceConfigurationMessage) (Result, error) {
	version, err := contentVersion(message)
	if err != nil {
		return Result{}, err
	}
	message.Version = version
	raw, err := json.Marshal(message)
	if err != nil {
		return Result{}, fmt.Errorf("encode configuration: %w", err)
	}
	return Result{
		Message:  message,
		JSON:     raw,
		Version:  version,
		ETag:     `"` + version + `"`,
		Problems: sortedProblems(j.problems),
		Sources:  j.objects.sources(),
	}, nil
}

// versionBytes of a SHA-256 are enough to tell one device's configurations
// apart, and in hexadecimal they fit into a label value.
const versionBytes = 16

// contentVersion returns the hash of message without its version.
func contentVersion(message protocol.DeviceConfigurationMessage) (string, error) {
	message.Version = ""
	raw, err := json.Marshal(message)
	if err != nil {
		return "", fmt.Errorf("encode configuration: %w", err)
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:versionBytes]), nil
}
