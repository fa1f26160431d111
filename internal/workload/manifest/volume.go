package manifest

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/project-flotta/flotta-agent/internal/secret"
)

// exportVolume is the name of the volume that every workload gets.
func (p *podSpec) exportVolume() string { return "export-" + p.workload }

// rewriteVolumes checks the volumes, makes files of those that hold them, and
// adds the export volume.
func (p *podSpec) rewriteVolumes() error {
	volumes, err := objects(p.spec, "volumes")
	if err != nil {
		return err
	}
	p.volumes = map[string]string{}
	p.fileVolumes = map[string]*fileVolume{}
	for i, v := range volumes {
		if err := p.rewriteVolume(v); err != nil {
			return within(err, "volumes[%d]", i)
		}
	}
	p.files = fileSet(p.fileVolumes)
	for _, v := range volumes {
		if name, _ := v["name"].(string); p.fileVolumes[name] != nil {
			delete(v, "configMap")
			delete(v, "secret")
			delete(v, "projected")
			v["hostPath"] = p.fileSource(name, "DirectoryOrCreate")
		}
	}
	slices.Sort(p.hostPaths)
	p.hostPaths = slices.Compact(p.hostPaths)
	slices.SortFunc(p.devices, compareDevices)
	p.devices = slices.Compact(p.devices)
	list, _ := p.spec["volumes"].([]any)
	p.spec["volumes"] = append(list, map[string]any{
		"name": p.exportVolume(),
		"hostPath": map[string]any{
			"path": VolumeDir(p.options.VolumesDir, p.workload), "type": "DirectoryOrCreate",
		},
	})
	return nil
}

// fileSource returns what mounts something of the workload's files. Only the
// types with OrCreate make Podman give it the label that SELinux asks for; it
// is there, so that nothing is created.
func (p *podSpec) fileSource(at, kind string) map[string]any {
	return map[string]any{"path": filepath.Join(FilesFolder(p.options.WorkloadsDir, p.workload, p.files), at), "type": kind}
}

func (p *podSpec) rewriteVolume(v map[string]any) error {
	name, _ := v["name"].(string)
	if name == p.exportVolume() {
		return invalidf("the name %s is taken: it is added to every workload", name)
	}
	if !dnsLabel(name) || len(name) > maxName {
		return invalidf("name %.80q is not of lower-case letters, digits and hyphens", name)
	}
	if _, twice := p.volumes[name]; twice {
		return invalidf("name %s is that of another volume", name)
	}
	p.volumes[name] = name
	if _, said := v["emptyDir"]; said && v["emptyDir"] == nil {
		v["emptyDir"] = map[string]any{} // all that is said of it is its key
	}
	sources := make([]string, 0, 1)
	for key, value := range v {
		if key != "name" && value != nil {
			sources = append(sources, key)
		}
	}
	if len(sources) != 1 {
		return invalidf("volume %s has %d sources, which should be one", name, len(sources))
	}
	source, err := object(v, sources[0])
	if err != nil {
		return err
	}
	return within(p.rewriteSource(name, sources[0], v, source), "%s", sources[0])
}

// rewriteSource rewrites what a volume is made of.
func (p *podSpec) rewriteSource(name, kind string, v, source map[string]any) error {
	switch kind {
	case "hostPath":
		return p.checkHostPath(source)
	case "emptyDir":
		// Podman makes a volume of that very name, for all pods that ask for it.
		p.volumes[name] = "flotta_" + p.workload + "_" + name
		v["name"] = p.volumes[name]
	case "persistentVolumeClaim":
		if claim, _ := source["claimName"].(string); !dnsSubdomain(claim) {
			return invalidf("claimName %.80q %s", claim, notSubdomain)
		}
	case "image":
		return p.takeImage(source, "reference", "pullPolicy")
	case "configMap", "secret":
		volume, err := newFileVolume(source)
		if err != nil {
			return err
		}
		p.fileVolumes[name] = volume
		field := "name"
		if kind == "secret" {
			field = "secretName"
		}
		return p.fill(volume, kind, field, source)
	case "projected":
		return p.project(name, source)
	}
	return nil
}

// project puts the files of several sources into one volume.
func (p *podSpec) project(name string, projected map[string]any) error {
	volume, err := newFileVolume(projected)
	if err != nil {
		return err
	}
	p.fileVolumes[name] = volume
	sources, err := objects(projected, "sources")
	if err != nil {
		return err
	}
	for i, s := range sources {
		for kind := range s {
			source, err := object(s, kind)
			if err != nil {
				return within(err, "sources[%d]", i)
			}
			if source == nil {
				continue
			}
			if kind != "configMap" && kind != "secret" {
				return invalidf("sources[%d]: a device has no %.40s", i, printableKey(kind))
			}
			if err := p.fill(volume, kind, "name", source); err != nil {
				return within(err, "sources[%d].%s", i, kind)
			}
		}
	}
	return nil
}

// fill adds what a ConfigMap or Secret holds to a volume.
func (p *podSpec) fill(volume *fileVolume, kind, field string, source map[string]any) error {
	name, _ := source[field].(string)
	optional, _ := source["optional"].(bool)
	var data map[string]secret.Value
	var sent bool
	if kind == "secret" {
		data, sent = p.vault.sent[name]
	} else {
		var configMap configMap
		configMap, sent = p.configMaps[name]
		data = configMap.files
	}
	if !sent && optional {
		return nil
	}
	if !sent {
		return invalidf("%s %.80q was not sent", kind, name)
	}
	return volume.add(source, data)
}

// checkHostPath checks a path of the host, and notes it.
func (p *podSpec) checkHostPath(source map[string]any) error {
	at, _ := source["path"].(string)
	switch {
	case !path.IsAbs(at):
		return invalidf("path %.80q is not absolute", at)
	case slices.Contains(strings.Split(at, "/"), ".."):
		return invalidf("path %.80q has .. in it", at)
	case strings.ContainsFunc(at, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return invalidf("path %.80q has control characters in it", at)
	}
	switch kind := source["type"]; kind {
	case nil, "", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket":
	case "CharDevice", "BlockDevice":
		if strings.Contains(at, ":") {
			return invalidf("path %.80q of a device has a colon in it, which Podman takes for the end of the path", at)
		}
		p.devices = append(p.devices, Device{Path: path.Clean(at), Block: kind == "BlockDevice"})
	default:
		text, _ := kind.(string)
		return invalidf("type %.40q is none of DirectoryOrCreate, Directory, FileOrCreate, File, Socket, CharDevice and BlockDevice", text)
	}
	p.hostPaths = append(p.hostPaths, path.Clean(at))
	return nil
}

// rewriteMounts points the mounts of a container to the rewritten volumes, and
// adds that of the export volume.
func (p *podSpec) rewriteMounts(c map[string]any) error {
	mounts, err := objects(c, "volumeMounts")
	if err != nil {
		return err
	}
	taken := map[string]bool{}
	for i, m := range mounts {
		target, _ := m["mountPath"].(string)
		target, _, _ = strings.Cut(target, ":") // Podman takes the rest for options
		switch target = path.Clean("/" + target); {
		case target == exportPath:
			return invalidf("volumeMounts[%d]: something is mounted at %s, which is added to every container", i, exportPath)
		case target == "/":
			return invalidf("volumeMounts[%d]: mountPath is no folder in the container", i)
		case taken[target]:
			return invalidf("volumeMounts[%d]: there are two mounts at %.80q", i, target)
		}
		taken[target] = true
		if err := p.rewriteMount(m); err != nil {
			return within(err, "volumeMounts[%d]", i)
		}
	}
	list, _ := c["volumeMounts"].([]any)
	c["volumeMounts"] = append(list, map[string]any{"name": p.exportVolume(), "mountPath": exportPath})
	return nil
}

func (p *podSpec) rewriteMount(m map[string]any) error {
	name, _ := m["name"].(string)
	volume, ok := p.volumes[name]
	if !ok {
		return invalidf("there is no volume %.80q", name)
	}
	m["name"] = volume
	sub, _ := m["subPath"].(string)
	if sub != "" && !localPath(sub) {
		return invalidf("subPath %.80q does not lead to something in the volume", sub)
	}
	files := p.fileVolumes[name]
	if files == nil {
		return nil
	}
	m["readOnly"] = true // as Kubernetes mounts them
	if sub == "" {
		return nil
	}
	sub = path.Clean(sub)
	kind := "FileOrCreate"
	if _, isFile := files.files[sub]; !isFile {
		kind = "DirectoryOrCreate"
		if !files.folder(sub) {
			return invalidf("there is no file %.80q in volume %s", sub, name)
		}
	}
	delete(m, "subPath")
	m["name"] = p.subVolume(name, sub, kind)
	return nil
}

// subVolume returns the name of the volume that is a part of a volume of files.
// Older versions of Podman mount whole volumes only.
func (p *podSpec) subVolume(volume, sub, kind string) string {
	if p.subVolumes == nil {
		p.subVolumes = map[string]string{}
	}
	at := volume + "/" + sub
	if name, ok := p.subVolumes[at]; ok {
		return name
	}
	name := fmt.Sprintf("%s_%d", volume, len(p.subVolumes)+1)
	p.subVolumes[at] = name
	list, _ := p.spec["volumes"].([]any)
	p.spec["volumes"] = append(list, map[string]any{"name": name, "hostPath": p.fileSource(at, kind)})
	return name
}
