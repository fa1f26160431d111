package render

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// bundle is the secrets that the workloads of a device need, by name and key:
// only what one of them refers to.
type bundle map[string]map[string][]byte

// add copies what ref refers to. Keys that data has not are left out.
func (b bundle) add(ref reference, data map[string][]byte) {
	if b[ref.name] == nil {
		b[ref.name] = map[string][]byte{}
	}
	if ref.keys == nil {
		maps.Copy(b[ref.name], data)
		return
	}
	for _, key := range ref.keys {
		if value, ok := data[key]; ok {
			b[ref.name][key] = value
		}
	}
}

// merge adds what other has.
func (b bundle) merge(other bundle) {
	for name, data := range other {
		b.add(reference{name: name}, data)
	}
}

// wire returns the secrets in the order of their names.
func (b bundle) wire() []protocol.Secret {
	var list []protocol.Secret
	for _, name := range slices.Sorted(maps.Keys(b)) {
		list = append(list, protocol.Secret{Name: name, Data: encodeSecret(b[name])})
	}
	return list
}

// encodeSecret returns the JSON text of an object of key to base64 value, in the
// order of the keys.
func encodeSecret(data map[string][]byte) string {
	encoded := make(map[string]string, len(data))
	for key, value := range data {
		encoded[key] = base64.StdEncoding.EncodeToString(value)
	}
	text, _ := json.Marshal(encoded) // a map of strings has no error
	return string(text)
}

// decodeSecret is the reverse of encodeSecret.
func decodeSecret(text string) (map[string][]byte, error) {
	// encoding/json reads a string into bytes as base64.
	var data map[string][]byte
	if err := json.Unmarshal([]byte(text), &data); err != nil {
		return nil, err
	}
	return data, nil
}
