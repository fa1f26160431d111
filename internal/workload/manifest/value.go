package manifest

import (
	"fmt"
	"regexp"
	"strings"
)

// values adds the features that depend on what a field says.
func (f *survey) values(spec map[string]any) {
	if users, ok := spec["hostUsers"].(bool); ok && !users {
		f.add("hostUsers", "4.3", "the pod's users are those of the host's namespace")
	}
	if first, ok := spec["initContainers"].([]any); ok && len(first) > 0 && (spec["restartPolicy"] == nil || spec["restartPolicy"] == RestartAlways) {
		f.add("initContainers", "4.6", "Podman would run them again and again, so it is given restartPolicy OnFailure; "+
			"a container that ends with status 0, or is unhealthy, is started again by the agent with the whole pod")
	}
	files := fileVolumes(spec)
	for _, kind := range []string{"initContainers", "containers"} {
		list, _ := spec[kind].([]any)
		for i, item := range list {
			if c, ok := item.(map[string]any); ok {
				at := fmt.Sprintf("%s[%d].", kind, i)
				f.commands(at, c)
				f.variables(at, c)
				f.probes(at, c, spec["restartPolicy"] == RestartOnFailure)
				f.mounts(at, c, files)
			}
		}
	}
}

// commands looks for variables that have to be replaced.
func (f *survey) commands(at string, c map[string]any) {
	for _, field := range []string{"command", "args"} {
		words, _ := c[field].([]any)
		for _, word := range words {
			if text, ok := word.(string); ok && strings.Contains(text, "$(") {
				f.add(at+field, "4.7", "variables in it, such as $(NAME), are not replaced")
				break
			}
		}
	}
}

func (f *survey) variables(at string, c map[string]any) {
	env, _ := c["env"].([]any)
	for i, item := range env {
		variable, _ := item.(map[string]any)
		if text, ok := variable["value"].(string); ok && strings.Contains(text, "$(") {
			f.add(fmt.Sprintf("%senv[%d].value", at, i), "", "variables in it, such as $(NAME), are not replaced")
		}
		from, _ := variable["valueFrom"].(map[string]any)
		if ref, ok := from["fieldRef"].(map[string]any); ok {
			path, _ := ref["fieldPath"].(string)
			if !knownFieldPath(path) {
				f.add(fmt.Sprintf("%senv[%d].valueFrom.fieldRef", at, i), "", refusedNote)
			}
		}
	}
}

// knownFieldPath reports whether Podman can tell a field of the pod.
func knownFieldPath(path string) bool {
	if path == "metadata.name" || path == "metadata.uid" {
		return true
	}
	return (strings.HasPrefix(path, "metadata.labels['") || strings.HasPrefix(path, "metadata.annotations['")) &&
		strings.HasSuffix(path, "']")
}

// probes looks at what older versions make of a command, and of a failure.
func (f *survey) probes(at string, c map[string]any, onFailure bool) {
	probe, ok := c["livenessProbe"].(map[string]any)
	if !ok {
		return
	}
	if onFailure {
		f.add(at+"livenessProbe", "5.2", "with restartPolicy OnFailure an unhealthy container is reported, but not restarted")
	}
	// Joined by blanks and given to a shell: what a shell takes apart or
	// replaces does not arrive as it was meant.
	exec, _ := probe["exec"].(map[string]any)
	words, _ := exec["command"].([]any)
	plainWord := regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`)
	for _, word := range words {
		if text, ok := word.(string); ok && !plainWord.MatchString(text) {
			f.add(at+"livenessProbe.exec.command", "4.4",
				"its words are joined by blanks and read by /bin/sh: put the command into a script without arguments")
			return
		}
	}
}

func (f *survey) mounts(at string, c map[string]any, files map[string]bool) {
	mounts, _ := c["volumeMounts"].([]any)
	for i, item := range mounts {
		mount, _ := item.(map[string]any)
		name, _ := mount["name"].(string)
		if sub, _ := mount["subPath"].(string); sub != "" && !files[name] {
			f.add(fmt.Sprintf("%svolumeMounts[%d].subPath", at, i), "4.4", "the whole volume is mounted")
		}
	}
}

// fileVolumes returns the volumes that the agent fills with files.
func fileVolumes(spec map[string]any) map[string]bool {
	out := map[string]bool{}
	volumes, _ := spec["volumes"].([]any)
	for _, item := range volumes {
		v, _ := item.(map[string]any)
		name, _ := v["name"].(string)
		for _, kind := range []string{"configMap", "secret", "projected"} {
			if _, ok := v[kind].(map[string]any); ok {
				out[name] = true
			}
		}
	}
	return out
}
