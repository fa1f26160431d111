package manifest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

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
	// WorkloadsDir is absolute; the files of volumes lie in
	// <WorkloadsDir>/<workload>/<Plan.Files.Folder>. Empty: it is called
	// workloads, beside VolumesDir.
	WorkloadsDir string

	// Podman is its version, such as 4.3.1. Empty, or anything that cannot be
	// read, counts as the oldest that is supported. Only what some version gets
	// wrong is rendered in another way for it.
	Podman string

	// HideContainerPorts leaves out the ports that name no host port. To
	// Kubernetes and to Podman 5 they are mere information; Podman 4 publishes
	// them on the host under the same number.
	HideContainerPorts bool

	// Rootless says that a user runs the pods. What it may open because of its
	// groups, a container may not, unless it keeps them: the pods that have a
	// device of the host do.
	Rootless bool
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

	// HostPorts are the ports of the host that the pod takes: those that name a
	// hostPort and, with hostNetwork, all that it declares.
	HostPorts []HostPort
	// Files have to be there before the pod starts.
	Files FileSet
	// HostPaths are the absolute paths of the host that the pod mounts, those of
	// the agent's own aside; sorted.
	HostPaths []string
	// Devices are those of the host that the pod has, sorted.
	Devices []Device
	// KeepsGroups says that its containers have the groups of the user who runs
	// them.
	KeepsGroups bool
	// PodmanNames are the names of the pod and of its containers, which no two
	// things in Podman may share.
	PodmanNames []string
	// Grace is how long the containers have to end before they are killed; zero:
	// Podman's default.
	Grace time.Duration
	// AutoUpdate says that Podman may replace an image by a newer one.
	AutoUpdate bool
	// Features are those parts of the specification that not every supported
	// Podman heeds.
	Features []Feature
}

// HostPort is a port of the host.
type HostPort struct {
	Protocol string // tcp, udp or sctp
	IP       string // that it is bound to; empty: all
	Port     uint16
}

// Device is a device node of the host.
type Device struct {
	Path  string // absolute
	Block bool   // a block device; else a character device
}

// Feature is a part of a specification that not every supported Podman heeds.
type Feature struct {
	Path  string // such as containers[0].readinessProbe
	Since string // version of Podman, such as 4.5; empty: none heeds it
	Note  string // what happens instead, for a person; may be empty
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
	configMaps, err := decodeConfigMaps(w.ConfigMaps)
	if err != nil {
		return Plan{}, err
	}
	if o.WorkloadsDir == "" {
		o.WorkloadsDir = filepath.Join(filepath.Dir(o.VolumesDir), "workloads")
	}
	p := &podSpec{workload: w.Name, options: o, spec: spec, vault: newVault(secrets)}
	if p.configMaps, err = indexConfigMaps(configMaps); err != nil {
		return Plan{}, err
	}
	unheeded := features(w, spec)
	if err := p.rewrite(); err != nil {
		return Plan{}, err
	}
	plan := Plan{
		Name: w.Name, Secrets: p.vault.used(), Files: p.files, Images: p.images,
		Containers: p.containers, PodmanNames: p.podmanNames, RestartPolicy: p.restartPolicy, Grace: p.grace,
		HostPorts: p.hostPorts, HostPaths: p.hostPaths, Devices: p.devices, Features: unheeded, AutoUpdate: autoUpdate(w.Annotations),
	}
	pod, labels := podObject(w, spec, o)
	plan.KeepsGroups = p.keepGroups(pod)
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
func podObject(w desired.Workload, spec map[string]any, o Options) (pod, labels map[string]any) {
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
		if _, given := annotations[autoUpdateAuth]; !given && autoUpdate(w.Annotations) && w.AuthFile.Reveal() != "" {
			annotations[autoUpdateAuth] = AuthPath(o.WorkloadsDir, w.Name)
		}
		metadata["annotations"] = annotations
	}
	return map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}, labels
}

// Annotations of Podman.
const (
	autoUpdateKey  = "io.containers.autoupdate" // and, of one container, with its name behind a slash
	autoUpdateAuth = "io.containers.autoupdate.authfile"
)

// autoUpdate reports whether Podman is asked to look for newer images.
func autoUpdate(annotations map[string]string) bool {
	for key, policy := range annotations {
		of, _, _ := strings.Cut(key, "/")
		if of == autoUpdateKey && (policy == "registry" || policy == "image" || policy == "local") {
			return true
		}
	}
	return false
}

// AuthPath returns where the credentials of a workload's registries are that
// Podman updates by itself.
func AuthPath(workloadsDir, name string) string {
	return filepath.Join(workloadsDir, name, "auth.json")
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

// indexConfigMaps returns what they hold, by their names.
func indexConfigMaps(objects []map[string]any) (map[string]configMap, error) {
	out := make(map[string]configMap, len(objects))
	for i, o := range objects {
		metadata, err := object(o, "metadata")
		if err != nil {
			return nil, within(err, "config map %d", i+1)
		}
		texts, err := object(o, "data")
		if err != nil {
			return nil, within(err, "config map %d", i+1)
		}
		files, err := configData(o)
		if err != nil {
			return nil, within(err, "config map %d", i+1)
		}
		name, _ := metadata["name"].(string)
		out[name] = configMap{texts: texts, files: files}
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
