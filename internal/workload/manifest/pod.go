package manifest

import (
	"encoding/json"
	"path"
	"slices"
	"strings"
)

// Pull policies and restart policies of Kubernetes.
const (
	PullAlways       = "Always"
	PullIfNotPresent = "IfNotPresent"
	PullNever        = "Never"

	RestartAlways    = "Always"
	RestartOnFailure = "OnFailure"
	RestartNever     = "Never"
)

// podSpec is a pod's specification on its way to Podman.
type podSpec struct {
	workload string
	options  Options
	spec     map[string]any
	vault    *vault

	images        []Image
	containers    []string
	restartPolicy string
	names         map[string]bool // of the containers
}

func (p *podSpec) exportVolume() string { return "export-" + p.workload }

// rewrite checks the specification and adapts it in place.
func (p *podSpec) rewrite() error {
	p.names = map[string]bool{}
	if err := p.readRestartPolicy(); err != nil {
		return err
	}
	if err := p.rewriteVolumes(); err != nil {
		return err
	}
	for _, kind := range []string{"initContainers", "containers"} {
		containers, err := objects(p.spec, kind)
		if err != nil {
			return err
		}
		if kind == "containers" && len(containers) == 0 {
			return invalidf("the pod has no containers")
		}
		for i, c := range containers {
			if err := p.rewriteContainer(c); err != nil {
				return within(err, "%s[%d]", kind, i)
			}
			if name, _ := c["name"].(string); kind == "containers" {
				p.containers = append(p.containers, name)
			}
		}
	}
	return nil
}

func (p *podSpec) readRestartPolicy() error {
	switch v := p.spec["restartPolicy"]; v {
	case nil, "":
		p.restartPolicy = RestartAlways
	case RestartAlways, RestartOnFailure, RestartNever:
		p.restartPolicy, _ = v.(string)
	default:
		return invalidf("restartPolicy is none of Always, OnFailure and Never")
	}
	return nil
}

// rewriteVolumes adds the export volume and resolves secrets.
func (p *podSpec) rewriteVolumes() error {
	volumes, err := objects(p.spec, "volumes")
	if err != nil {
		return err
	}
	for i, v := range volumes {
		if v["name"] == p.exportVolume() {
			return invalidf("volume name %s is taken: it is added to every workload", p.exportVolume())
		}
		if err := p.rewriteVolume(v); err != nil {
			return within(err, "volumes[%d]", i)
		}
	}
	list, _ := p.spec["volumes"].([]any)
	p.spec["volumes"] = append(list, map[string]any{
		"name": p.exportVolume(),
		"hostPath": map[string]any{
			"path": VolumeDir(p.options.VolumesDir, p.workload), "type": "DirectoryOrCreate",
		},
	})
	return nil
}

func (p *podSpec) rewriteVolume(v map[string]any) error {
	if source, err := object(v, "secret"); err != nil {
		return err
	} else if source != nil {
		return p.rewriteReference(source, "secretName", formObject)
	}
	projected, err := object(v, "projected")
	if err != nil || projected == nil {
		return err
	}
	sources, err := objects(projected, "sources")
	if err != nil {
		return err
	}
	for _, s := range sources {
		if source, err := object(s, "secret"); err != nil {
			return err
		} else if source != nil {
			if err := p.rewriteReference(source, "name", formObject); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *podSpec) rewriteContainer(c map[string]any) error {
	name, _ := c["name"].(string)
	if !dnsLabel(name) || len(name) > maxName {
		return invalidf("name %.80q is not of lower-case letters, digits and hyphens", name)
	}
	if p.names[name] {
		return invalidf("name %s is that of another container", name)
	}
	p.names[name] = true
	if err := p.rewriteImage(c); err != nil {
		return err
	}
	if err := p.rewriteMounts(c); err != nil {
		return err
	}
	if err := p.rewriteEnv(c); err != nil {
		return err
	}
	return p.rewritePorts(c)
}

// rewriteImage notes the image and makes Podman take it from local storage: it
// is pulled before, and a start without network has to work.
func (p *podSpec) rewriteImage(c map[string]any) error {
	reference, _ := c["image"].(string)
	if reference == "" || strings.ContainsAny(reference, " \t\r\n\x00") {
		return invalidf("image %.80q is no image", reference)
	}
	image := Image{Reference: reference}
	switch policy := c["imagePullPolicy"]; policy {
	case nil, "":
		image.Policy = PullIfNotPresent
		if floating(reference) {
			image.Policy = PullAlways
		}
	case PullAlways, PullIfNotPresent, PullNever:
		image.Policy, _ = policy.(string)
	default:
		return invalidf("imagePullPolicy is none of Always, IfNotPresent and Never")
	}
	c["imagePullPolicy"] = PullIfNotPresent
	if !slices.Contains(p.images, image) {
		p.images = append(p.images, image)
	}
	return nil
}

// floating reports whether the reference means a latest image, which Kubernetes
// pulls always unless told otherwise.
func floating(reference string) bool {
	if strings.Contains(reference, "@") {
		return false
	}
	_, tag, tagged := strings.Cut(reference[strings.LastIndex(reference, "/")+1:], ":")
	return !tagged || tag == "latest"
}

func (p *podSpec) rewriteMounts(c map[string]any) error {
	mounts, err := objects(c, "volumeMounts")
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if target, _ := m["mountPath"].(string); path.Clean("/"+target) == exportPath {
			return invalidf("something is mounted at %s: that mount is added to every container", exportPath)
		}
	}
	list, _ := c["volumeMounts"].([]any)
	c["volumeMounts"] = append(list, map[string]any{"name": p.exportVolume(), "mountPath": exportPath})
	return nil
}

func (p *podSpec) rewriteEnv(c map[string]any) error {
	from, err := objects(c, "envFrom")
	if err != nil {
		return err
	}
	for _, source := range from {
		if ref, err := object(source, "secretRef"); err != nil {
			return err
		} else if ref != nil {
			if err := p.rewriteReference(ref, "name", formFlat); err != nil {
				return err
			}
		}
	}
	env, err := objects(c, "env")
	if err != nil {
		return err
	}
	known := p.options.DeviceID == ""
	for _, variable := range env {
		known = known || variable["name"] == deviceIDEnv
		from, err := object(variable, "valueFrom")
		if err != nil {
			return err
		}
		if ref, err := object(from, "secretKeyRef"); err != nil {
			return err
		} else if ref != nil {
			if err := p.rewriteReference(ref, "name", formFlat); err != nil {
				return err
			}
		}
	}
	if !known {
		list, _ := c["env"].([]any)
		c["env"] = append(list, map[string]any{"name": deviceIDEnv, "value": p.options.DeviceID})
	}
	return nil
}

// rewriteReference replaces the secret's name in a reference by that of the
// Podman secret. A secret that was not sent is an error unless the reference is
// optional.
func (p *podSpec) rewriteReference(ref map[string]any, field string, form secretForm) error {
	name, _ := ref[field].(string)
	optional, _ := ref["optional"].(bool)
	data, sent := p.vault.sent[name]
	if !sent {
		if optional {
			return nil
		}
		return invalidf("secret %.80q was not sent", name)
	}
	if key, ok := ref["key"].(string); ok && !optional {
		if _, ok := data[key]; !ok {
			return invalidf("secret %.80q has no key %.80q", name, key)
		}
	}
	if !dnsSubdomain(name) {
		return invalidf("secret name %.80q %s", name, notSubdomain)
	}
	podmanName, err := p.vault.take(name, form)
	if err != nil {
		return err
	}
	ref[field] = podmanName
	return nil
}

func (p *podSpec) rewritePorts(c map[string]any) error {
	ports, err := objects(c, "ports")
	if err != nil || !p.options.HideContainerPorts {
		return err
	}
	kept := make([]any, 0, len(ports))
	for _, port := range ports {
		switch host := port["hostPort"]; host {
		case nil, json.Number("0"):
		default:
			kept = append(kept, port)
		}
	}
	if len(kept) == 0 {
		delete(c, "ports")
	} else {
		c["ports"] = kept
	}
	return nil
}

// object returns the object at key; nil when there is none.
func object(in map[string]any, key string) (map[string]any, error) {
	switch v := in[key].(type) {
	case nil:
		return nil, nil //nolint:nilnil // absent is not an error, and there is nothing to return
	case map[string]any:
		return v, nil
	default:
		return nil, invalidf("%s is not an object", key)
	}
}

// objects returns the list of objects at key; nil when there is none.
func objects(in map[string]any, key string) ([]map[string]any, error) {
	list, ok := in[key].([]any)
	if !ok && in[key] != nil {
		return nil, invalidf("%s is not a list", key)
	}
	out := make([]map[string]any, 0, len(list))
	for i, item := range list {
		o, ok := item.(map[string]any)
		if !ok {
			return nil, invalidf("%s[%d] is not an object", key, i)
		}
		out = append(out, o)
	}
	return out, nil
}

// within names the place of an invalid part.
func within(err error, format string, args ...any) error {
	if invalid, ok := err.(*InvalidError); ok { //nolint:errorlint // made in this file, never wrapped
		return invalidf(format+": %s", append(args, invalid.Reason)...)
	}
	return err
}
