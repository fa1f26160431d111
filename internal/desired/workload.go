package desired

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/project-flotta/flotta-agent/internal/secret"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// decodeWorkload returns w decoded, with the reason in Invalid when it cannot be
// applied, and the problems that do not stop it.
func decodeWorkload(w protocol.Workload) (Workload, []string) {
	d := Workload{
		Name:        printable(w.Name, maxNameSize),
		Namespace:   w.Namespace,
		Labels:      w.Labels,
		Annotations: w.Annotations,
		Metrics:     w.Metrics,
		LogTarget:   w.LogCollection,
	}
	var problems []string
	if w.Data != nil {
		d.Ingress, d.Egress = w.Data.Ingress, w.Data.Egress
		problems = append(problems, pathProblems("ingress", w.Data.Ingress)...)
		problems = append(problems, pathProblems("egress", w.Data.Egress)...)
		if d.QuotaBytes = w.Data.QuotaBytes; d.QuotaBytes < 0 {
			d.QuotaBytes = 0
			problems = append(problems, "quota_bytes is negative")
		}
	}
	if err := fillWorkload(&d, w); err != nil {
		d.Invalid = err.Error()
	}
	return d, problems
}

func fillWorkload(d *Workload, w protocol.Workload) (err error) {
	if !validName(w.Name, maxNameSize) {
		return errors.New("name is not a DNS-1123 subdomain of at most 63 characters")
	}
	if d.PodSpec, _, err = yamlObject(w.Specification); err != nil {
		return fmt.Errorf("specification: %w", err)
	}
	if d.ConfigMaps, err = decodeConfigMaps(w.ConfigMaps); err != nil {
		return err
	}
	if w.ImageRegistries != nil && w.ImageRegistries.AuthFile != "" {
		if d.AuthFile, err = decodeAuthFile(w.ImageRegistries.AuthFile); err != nil {
			return err
		}
	}
	return nil
}

// decodeConfigMaps returns the ConfigMaps sorted by name: flotta v0.2 sends
// them in a new random order at each poll, and a workload must not be restarted
// for that.
func decodeConfigMaps(texts []string) ([][]byte, error) {
	type named struct {
		name string
		data []byte
	}
	var maps []named
	for i, text := range texts {
		data, object, err := yamlObject(text)
		if err != nil {
			return nil, fmt.Errorf("config map %d: %w", i+1, err)
		}
		if kind, _ := object["kind"].(string); kind != "ConfigMap" {
			return nil, fmt.Errorf("config map %d: kind is not ConfigMap", i+1)
		}
		meta, _ := object["metadata"].(map[string]any)
		name, _ := meta["name"].(string)
		if !validName(name, maxObjectNameSize) {
			return nil, fmt.Errorf("config map %d: name is not a DNS-1123 subdomain", i+1)
		}
		maps = append(maps, named{name, data})
	}
	slices.SortStableFunc(maps, func(a, b named) int { return strings.Compare(a.name, b.name) })
	var sorted [][]byte
	for i, m := range maps {
		if i > 0 && maps[i-1].name == m.name {
			return nil, fmt.Errorf("config map %q is there twice", printable(m.name, maxNameSize))
		}
		sorted = append(sorted, m.data)
	}
	return sorted, nil
}

func decodeAuthFile(text string) (secret.Value, error) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &object); err != nil || object == nil {
		return secret.Value{}, errors.New("registry credentials are not a JSON object")
	}
	return secret.New(text), nil
}

// pathProblems names the data paths that point out of their root. The paths are
// kept: whoever opens them confines them, and reports what it refuses.
func pathProblems(direction string, paths []protocol.DataPath) []string {
	var problems []string
	for i, p := range paths {
		for _, side := range []struct{ name, path string }{{"source", p.Source}, {"target", p.Target}} {
			var why string
			switch {
			case strings.HasPrefix(side.path, "/"):
				why = "is absolute"
			case slices.Contains(strings.Split(side.path, "/"), ".."):
				why = "contains .."
			case strings.ContainsRune(side.path, 0):
				why = "contains a zero byte"
			default:
				continue
			}
			problems = append(problems, fmt.Sprintf("%s path %d: %s %s", direction, i+1, side.name, why))
		}
	}
	return problems
}

// decodeSecret returns s decoded; data is a JSON object of base64 texts.
func decodeSecret(s protocol.Secret) (Secret, error) {
	if !validName(s.Name, maxObjectNameSize) {
		return Secret{}, errors.New("name is not a DNS-1123 subdomain")
	}
	d := Secret{Name: s.Name, Data: map[string]secret.Value{}}
	if strings.TrimSpace(s.Data) == "" {
		return d, nil
	}
	var values map[string]*string
	if err := json.Unmarshal([]byte(s.Data), &values); err != nil || values == nil {
		return Secret{}, errors.New("data is not a JSON object of texts")
	}
	for key, value := range values {
		if !validKey(key) {
			return Secret{}, errors.New("a key has other characters than letters, digits, dash, underscore and dot")
		}
		if value == nil {
			return Secret{}, errors.New("a value is null")
		}
		plain, err := base64.StdEncoding.DecodeString(*value)
		if err != nil {
			return Secret{}, errors.New("a value is not base64")
		}
		d.Data[key] = secret.New(string(plain))
	}
	return d, nil
}
