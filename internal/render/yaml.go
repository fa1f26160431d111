package render

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// maxDepth bounds the nesting of what is rendered. A pod spec needs about
// fifteen levels; YAML indents each, so that its size grows with the square.
const maxDepth = 64

// Why a value has no YAML.
var (
	errTooDeep  = fmt.Errorf("more than %d levels of nesting", maxDepth)
	errMergeKey = errors.New(`the key "<<" means something else in YAML`)
)

// yamlOf returns the YAML of what v is as JSON, with the keys of every object in
// order: equal values give equal bytes.
func yamlOf(v any) (string, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("encode: %w", err)
	}
	// Decoded and encoded once more, so that escapes that JSON has and YAML
	// has not (pairs of surrogates, the slash) are gone.
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var plain any
	if err := decoder.Decode(&plain); err != nil {
		return "", fmt.Errorf("decode: %w", err)
	}
	if err := writable(plain, maxDepth); err != nil {
		return "", err
	}
	if raw, err = json.Marshal(plain); err != nil {
		return "", fmt.Errorf("encode: %w", err)
	}
	text, err := yaml.JSONToYAML(escapeForYAML(raw))
	if err != nil {
		return "", fmt.Errorf("encode yaml: %w", err)
	}
	return string(text), nil
}

// writable says why v, of at most depth levels, cannot be written as YAML.
func writable(v any, depth int) error {
	if depth == 0 {
		return errTooDeep
	}
	switch v := v.(type) {
	case map[string]any:
		for key, member := range v {
			if key == "<<" { // the encoder does not quote it
				return errMergeKey
			}
			if err := writable(member, depth-1); err != nil {
				return err
			}
		}
	case []any:
		for _, element := range v {
			if err := writable(element, depth-1); err != nil {
				return err
			}
		}
	}
	return nil
}

// escapeForYAML escapes the characters that JSON text may hold and YAML text may
// not. They can only be inside of strings, where both know the escape.
func escapeForYAML(raw []byte) []byte {
	if !bytes.ContainsFunc(raw, forbiddenInYAML) {
		return raw
	}
	var out bytes.Buffer
	for len(raw) > 0 {
		r, size := utf8.DecodeRune(raw)
		if forbiddenInYAML(r) {
			fmt.Fprintf(&out, `\u%04x`, r)
		} else {
			out.Write(raw[:size])
		}
		raw = raw[size:]
	}
	return out.Bytes()
}

func forbiddenInYAML(r rune) bool {
	return r >= 0x7f && r <= 0x9f || r == 0xfeff || r == 0xfffe || r == 0xffff
}

// configMapYAML renders what the device needs of a ConfigMap: no metadata that
// changes by itself.
func configMapYAML(name string, object *corev1.ConfigMap) (string, error) {
	document := map[string]any{
		"apiVersion": "v1",
		"kind":       "ConfigMap",
		"metadata":   map[string]any{"name": name},
	}
	if len(object.Data) > 0 {
		document["data"] = object.Data
	}
	if len(object.BinaryData) > 0 {
		document["binaryData"] = object.BinaryData
	}
	return yamlOf(document)
}

// sortedValues returns the values in the order of their keys.
func sortedValues(set map[string]string) []string {
	var list []string
	for _, key := range slices.Sorted(maps.Keys(set)) {
		list = append(list, set[key])
	}
	return list
}
