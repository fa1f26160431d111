package manifest

import (
	"cmp"
	"strings"
)

// keepGroupsKey is what crun is told by to leave a container the supplementary
// groups of the user who runs it; it takes no others away or in then. Podman
// hands annotations of a pod to the runtime.
const keepGroupsKey = "run.oci.keep_original_groups"

func compareDevices(a, b Device) int {
	first, second := 0, 0
	if a.Block {
		first = 1
	}
	if b.Block {
		second = 1
	}
	return cmp.Or(strings.Compare(a.Path, b.Path), cmp.Compare(first, second))
}

// keepGroups reports whether the containers keep the groups of the user who runs
// them, and sees to it where they need them and have not asked for others.
func (p *podSpec) keepGroups(pod map[string]any) bool {
	metadata, _ := pod["metadata"].(map[string]any)
	annotations, _ := metadata["annotations"].(map[string]any)
	if said, ok := annotations[keepGroupsKey]; ok {
		return said == "1"
	}
	if !p.options.Rootless || len(p.devices) == 0 {
		return false
	}
	security, _ := p.spec["securityContext"].(map[string]any)
	if others, _ := security["supplementalGroups"].([]any); len(others) > 0 {
		return false
	}
	if annotations == nil {
		annotations = map[string]any{}
		metadata["annotations"] = annotations
	}
	annotations[keepGroupsKey] = "1"
	return true
}
