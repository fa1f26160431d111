package manifest

import (
	"maps"
	"slices"
	"strings"
)

// rewriteEnv resolves references and adds the device's id.
//
// What envFrom brings is written out variable by variable: Podman lets it win
// over env, where Kubernetes has it the other way round, and knows no prefix.
func (p *podSpec) rewriteEnv(c map[string]any) error {
	env, err := objects(c, "env")
	if err != nil {
		return err
	}
	named := map[string]bool{}
	list := make([]any, 0, len(env)+1)
	for i, variable := range env {
		keep, err := p.rewriteVariable(variable)
		if err != nil {
			return within(err, "env[%d]", i)
		}
		if name, _ := variable["name"].(string); keep {
			named[name] = true
			list = append(list, variable)
		}
	}
	written, kept, err := p.writeOut(c, named)
	if err != nil {
		return err
	}
	if delete(c, "envFrom"); len(kept) > 0 {
		c["envFrom"] = kept
	}
	list = append(written, list...)
	if p.options.DeviceID != "" && !named[deviceIDEnv] {
		list = append(list, map[string]any{"name": deviceIDEnv, "value": p.options.DeviceID})
	}
	if delete(c, "env"); len(list) > 0 {
		c["env"] = list
	}
	return nil
}

// writeOut returns the variables that envFrom brings beside those named, which
// it adds to, and the sources that are not known.
func (p *podSpec) writeOut(c map[string]any, named map[string]bool) (written, kept []any, err error) {
	sources, err := objects(c, "envFrom")
	if err != nil {
		return nil, nil, err
	}
	// The last source of a variable wins, so they are gone through from behind.
	groups := make([][]any, len(sources))
	for i, source := range slices.Backward(sources) {
		field, name, keys, err := p.envSource(source)
		if err != nil {
			return nil, nil, within(err, "envFrom[%d]", i)
		}
		if field == "" {
			kept = append([]any{source}, kept...)
			continue
		}
		prefix, _ := source["prefix"].(string)
		for _, key := range keys {
			variable := prefix + key
			if named[variable] || variable == "" || strings.ContainsAny(variable, "=\x00") {
				continue
			}
			named[variable] = true
			groups[i] = append(groups[i], map[string]any{
				"name":      variable,
				"valueFrom": map[string]any{field: map[string]any{"name": name, "key": key}},
			})
		}
	}
	return slices.Concat(groups...), kept, nil
}

// envSource returns what a source of variables offers: the kind of reference,
// the name that Podman knows it by, and its keys. The field is empty for a
// source that is not known.
func (p *podSpec) envSource(source map[string]any) (field, name string, keys []string, err error) {
	ref, err := object(source, "configMapRef")
	if err != nil {
		return "", "", nil, err
	}
	if ref != nil {
		name, _ = ref["name"].(string)
		found, sent := p.configMaps[name]
		if optional, _ := ref["optional"].(bool); !sent && !optional {
			return "", "", nil, invalidf("config map %.80q was not sent", name)
		}
		return "configMapKeyRef", name, slices.Sorted(maps.Keys(found.texts)), nil
	}
	ref, err = object(source, "secretRef")
	if err != nil || ref == nil {
		return "", "", nil, err
	}
	given, _ := ref["name"].(string)
	data, sent := p.vault.sent[given]
	if optional, _ := ref["optional"].(bool); !sent && optional {
		return "secretKeyRef", "", nil, nil
	}
	if !sent {
		return "", "", nil, invalidf("secret %.80q was not sent", given)
	}
	name, err = p.vault.take(given)
	return "secretKeyRef", name, slices.Sorted(maps.Keys(data)), err
}

// rewriteVariable resolves the reference of a variable, and reports whether the
// variable is set: it is not if it comes of an optional secret that was not
// sent, whose name might be that of a secret of somebody else's.
func (p *podSpec) rewriteVariable(variable map[string]any) (keep bool, err error) {
	name, _ := variable["name"].(string)
	if name == "" || strings.ContainsAny(name, "=\x00") {
		return false, invalidf("%.80q is no name of a variable", name)
	}
	switch variable["value"].(type) {
	case nil, string:
	default:
		return false, invalidf("the value of %.80q is not a text", name)
	}
	from, err := object(variable, "valueFrom")
	if err != nil || from == nil {
		return true, err
	}
	if ref, err := object(from, "configMapKeyRef"); err != nil {
		return false, err
	} else if ref != nil {
		return true, p.checkConfigMapKey(ref)
	}
	ref, err := object(from, "secretKeyRef")
	if err != nil || ref == nil {
		return true, err
	}
	return p.rewriteSecretKey(ref)
}

func (p *podSpec) checkConfigMapKey(ref map[string]any) error {
	if optional, _ := ref["optional"].(bool); optional {
		return nil
	}
	name, _ := ref["name"].(string)
	key, _ := ref["key"].(string)
	found, sent := p.configMaps[name]
	if !sent {
		return invalidf("config map %.80q was not sent", name)
	}
	if _, ok := found.texts[key]; !ok {
		return invalidf("config map %.80q has no key %.80q", name, key)
	}
	return nil
}

// rewriteSecretKey replaces the secret's name in a reference by that of the
// Podman secret, and reports whether there is one. A secret that was not sent is
// an error unless the reference is optional.
func (p *podSpec) rewriteSecretKey(ref map[string]any) (sent bool, err error) {
	name, _ := ref["name"].(string)
	key, _ := ref["key"].(string)
	optional, _ := ref["optional"].(bool)
	data, sent := p.vault.sent[name]
	_, has := data[key]
	switch {
	case sent && has:
	case optional:
		return false, nil
	case !sent:
		return false, invalidf("secret %.80q was not sent", name)
	default:
		return false, invalidf("secret %.80q has no key %.80q", name, key)
	}
	podmanName, err := p.vault.take(name)
	if err != nil {
		return false, err
	}
	ref["name"] = podmanName
	return true, nil
}
