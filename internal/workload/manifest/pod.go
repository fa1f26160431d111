package manifest

import (
	"slices"
	"strings"
	"time"

	"github.com/project-flotta/flotta-agent/internal/secret"
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

// maxGrace is a day. A longer time would hold up every change for as long.
const maxGrace = 24 * 60 * 60 // seconds

// podSpec is a pod's specification on its way to Podman.
type podSpec struct {
	workload   string
	options    Options
	spec       map[string]any
	vault      *vault
	configMaps map[string]configMap

	images        []Image
	containers    []string
	podmanNames   []string
	restartPolicy string
	grace         time.Duration
	hostNetwork   bool
	hostPorts     []HostPort
	hostPaths     []string
	devices       []Device
	files         FileSet

	names       map[string]bool        // of the containers
	volumes     map[string]string      // by the name that was given: the name that Podman sees
	fileVolumes map[string]*fileVolume // those of them that become files
	subVolumes  map[string]string      // parts of those, by their path: the name that Podman sees
}

// configMap is what a ConfigMap holds.
type configMap struct {
	texts map[string]any          // what variables can be made of
	files map[string]secret.Value // what files can be made of
}

// rewrite checks the specification and adapts it in place.
func (p *podSpec) rewrite() error {
	p.names = map[string]bool{}
	p.podmanNames = []string{p.workload}
	if err := p.readPod(); err != nil {
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
			if err := p.rewriteContainer(c, kind == "initContainers"); err != nil {
				return within(err, "%s[%d]", kind, i)
			}
		}
	}
	p.calmInitContainers()
	return nil
}

// calmInitContainers keeps versions before 4.6 from running an init container
// that came to its end again and again, as the pod's restartPolicy says, and
// from giving up the pod over it. Where Podman then leaves a container ended, the
// agent and systemd see to it.
func (p *podSpec) calmInitContainers() {
	first, _ := p.spec["initContainers"].([]any)
	if len(first) > 0 && p.restartPolicy == RestartAlways && versionOrOldest(p.options.Podman).before(release{4, 6}) {
		p.spec["restartPolicy"] = RestartOnFailure
	}
}

// readPod reads what is said of the pod as a whole.
func (p *podSpec) readPod() error {
	switch v := p.spec["restartPolicy"]; v {
	case nil, "":
		p.restartPolicy = RestartAlways
	case RestartAlways, RestartOnFailure, RestartNever:
		p.restartPolicy, _ = v.(string)
	default:
		return invalidf("restartPolicy is none of Always, OnFailure and Never")
	}
	p.hostNetwork, _ = p.spec["hostNetwork"].(bool)
	if p.spec["terminationGracePeriodSeconds"] == nil {
		return nil
	}
	seconds, err := integer(p.spec, "terminationGracePeriodSeconds", 0, maxGrace)
	// Kubernetes kills at once when it is zero, which means the default here.
	p.grace = max(time.Duration(seconds)*time.Second, time.Second)
	return err
}

func (p *podSpec) rewriteContainer(c map[string]any, initial bool) error {
	name, _ := c["name"].(string)
	if !dnsLabel(name) || len(name) > maxName {
		return invalidf("name %.80q is not of lower-case letters, digits and hyphens", name)
	}
	if p.names[name] {
		return invalidf("name %s is that of another container", name)
	}
	p.names[name] = true
	podmanName := p.workload + "-" + name
	if slices.Contains(p.podmanNames, podmanName) {
		return invalidf("name %s is, for Podman, that of something else in the pod", podmanName)
	}
	p.podmanNames = append(p.podmanNames, podmanName)
	if initial {
		if err := checkInit(c); err != nil {
			return err
		}
	} else {
		p.containers = append(p.containers, name)
	}
	if err := p.takeImage(c, "image", "imagePullPolicy"); err != nil {
		return err
	}
	if err := p.rewriteMounts(c); err != nil {
		return err
	}
	if err := p.rewriteEnv(c); err != nil {
		return err
	}
	if err := rewriteProbes(c); err != nil {
		return err
	}
	return p.rewritePorts(c, initial)
}

// takeImage notes the image and makes Podman take it from local storage: it is
// pulled before, and a start without network has to work.
func (p *podSpec) takeImage(in map[string]any, field, policyField string) error {
	reference, _ := in[field].(string)
	if reference == "" || strings.ContainsAny(reference, " \t\r\n\x00") {
		return invalidf("image %.80q is no image", reference)
	}
	image := Image{Reference: reference}
	switch policy := in[policyField]; policy {
	case nil, "":
		image.Policy = PullIfNotPresent
		if floating(reference) {
			image.Policy = PullAlways
		}
	case PullAlways, PullIfNotPresent, PullNever:
		image.Policy, _ = policy.(string)
	default:
		return invalidf("%s is none of Always, IfNotPresent and Never", policyField)
	}
	in[policyField] = PullIfNotPresent
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
