package manifest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"

	"github.com/project-flotta/flotta-agent/internal/desired"
)

// Labels of the pods that are ours.
const (
	// LabelWorkload carries the workload's name. Whatever lacks it is somebody
	// else's.
	LabelWorkload = "io.project-flotta.workload"
	// LabelDigest carries the digest of the manifest that the pod was made
	// from, so that what runs is seen and never inferred.
	LabelDigest = "io.project-flotta.digest"
)

const (
	exportPath  = "/export"
	deviceIDEnv = "DEVICE_ID"
)

// Options is what rendering depends on besides the workload.
type Options struct {
	DeviceID   string // becomes DEVICE_ID in every container; empty: none
	VolumesDir string // absolute; <VolumesDir>/<workload> is mounted at /export

	// HideContainerPorts leaves out the ports that name no host port. To
	// Kubernetes and to Podman 5 they are mere information; Podman 4 publishes
	// them on the host under the same number.
	HideContainerPorts bool
}

// Plan is a rendered workload.
type Plan struct {
	Name          string
	Manifest      []byte // YAML documents
	Digest        string // of the manifest; also in its pod's LabelDigest
	Secrets       []Secret
	Containers    []string // the names of its containers, init containers aside
	Images        []Image
	RestartPolicy string // Always, OnFailure or Never
}

// Image is an image that has to be there before the pod starts.
type Image struct {
	Reference string
	Policy    string // Always, IfNotPresent or Never
}

// InvalidError says why a workload cannot be rendered.
type InvalidError struct{ Reason string }

// Error returns the reason.
func (e *InvalidError) Error() string { return "invalid workload: " + e.Reason }

func invalidf(format string, args ...any) error {
	return &InvalidError{Reason: fmt.Sprintf(format, args...)}
}

// VolumeDir returns the folder that is mounted at /export of the workload,
// whose name must be valid.
func VolumeDir(volumesDir, name string) string { return filepath.Join(volumesDir, name) }

// Render renders w. The error is an *InvalidError, whose reason holds no secret.
func Render(w desired.Workload, secrets []desired.Secret, o Options) (Plan, error) {
	if w.Invalid != "" {
		return Plan{}, &InvalidError{Reason: w.Invalid}
	}
	if reason := CheckName(w.Name); reason != "" {
		return Plan{}, invalidf("name %.80q %s", w.Name, reason)
	}
	spec, err := decodeObject(w.PodSpec)
	if err != nil {
		return Plan{}, invalidf("pod specification: %v", err)
	}
	p := &podSpec{workload: w.Name, options: o, spec: spec, vault: newVault(secrets)}
	if err := p.rewrite(); err != nil {
		return Plan{}, err
	}
	configMaps, err := decodeConfigMaps(w.ConfigMaps)
	if err != nil {
		return Plan{}, err
	}
	plan := Plan{
		Name: w.Name, Secrets: p.vault.used(), Images: p.images,
		Containers: p.containers, RestartPolicy: p.restartPolicy,
	}
	pod, labels := podObject(w, spec)
	bare, err := document(pod, configMaps)
	if err != nil {
		return Plan{}, invalidf("%v", err)
	}
	// 128 bits; a label's value holds no more than 63 characters.
	sum := sha256.Sum256(bare)
	plan.Digest = hex.EncodeToString(sum[:16])
	labels[LabelDigest] = plan.Digest
	if plan.Manifest, err = document(pod, configMaps); err != nil {
		return Plan{}, invalidf("%v", err)
	}
	return plan, nil
}

// podObject returns the Pod and, to add to, its labels.
func podObject(w desired.Workload, spec map[string]any) (pod, labels map[string]any) {
	labels = make(map[string]any, len(w.Labels)+2)
	for k, v := range w.Labels {
		labels[k] = v
	}
	delete(labels, LabelDigest)
	labels[LabelWorkload] = w.Name
	metadata := map[string]any{"name": w.Name, "labels": labels}
	if len(w.Annotations) > 0 {
		annotations := make(map[string]any, len(w.Annotations))
		for k, v := range w.Annotations {
			annotations[k] = v
		}
		metadata["annotations"] = annotations
	}
	return map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}, labels
}

// decodeConfigMaps decodes them. Another kind among them would be played too,
// as something that nobody sees.
func decodeConfigMaps(raw [][]byte) ([]map[string]any, error) {
	out := make([]map[string]any, 0, len(raw))
	for i, r := range raw {
		object, err := decodeObject(r)
		if err != nil {
			return nil, invalidf("config map %d: %v", i+1, err)
		}
		if kind, ok := object["kind"]; !ok {
			object["kind"] = "ConfigMap"
		} else if kind != "ConfigMap" {
			return nil, invalidf("config map %d is of another kind", i+1)
		}
		object["apiVersion"] = "v1"
		out = append(out, object)
	}
	return out, nil
}

func document(pod map[string]any, configMaps []map[string]any) ([]byte, error) {
	b, err := appendYAML(nil, pod)
	if err != nil {
		return nil, fmt.Errorf("pod specification: %w", err)
	}
	for i, cm := range configMaps {
		b = append(b, "---\n"...)
		if b, err = appendYAML(b, cm); err != nil {
			return nil, fmt.Errorf("config map %d: %w", i+1, err)
		}
	}
	return b, nil
}

// decodeObject decodes one JSON object and nothing behind it.
func decodeObject(raw []byte) (map[string]any, error) {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var object map[string]any
	if err := decoder.Decode(&object); err != nil {
		return nil, fmt.Errorf("not a JSON object: %w", err)
	}
	if object == nil {
		return nil, fmt.Errorf("not a JSON object")
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, fmt.Errorf("more than one JSON object")
	}
	return object, nil
}
