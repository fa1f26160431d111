package desired

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	yaml "go.yaml.in/yaml/v2"
)

// Bounds of one YAML text. Kubernetes stores no object above 1.5 MiB, and YAML
// may need some more room for indentation. Aliases let a small text stand for a
// document of any size, hence the bounds of what comes out.
const (
	maxYAMLBytes  = 3 << 20
	maxJSONBytes  = 2 * maxYAMLBytes
	maxYAMLDepth  = 200
	maxReasonSize = 200
)

// yamlObject returns the canonical JSON of the one YAML document in text, which
// must be an object, and its decoded form: keys in order, integers exact, no
// duplicate keys. The error holds no values, at most keys.
func yamlObject(text string) (canonical []byte, object map[string]any, err error) {
	if len(text) > maxYAMLBytes {
		return nil, nil, fmt.Errorf("%d bytes of YAML, at most %d are read", len(text), maxYAMLBytes)
	}
	v, err := decodeYAML(text)
	if err != nil {
		return nil, nil, err
	}
	w := yamlWalk{left: maxJSONBytes}
	v, err = w.value(v, 0)
	if err != nil {
		return nil, nil, err
	}
	object, ok := v.(map[string]any)
	if !ok {
		return nil, nil, errors.New("not an object")
	}
	canonical, err = json.Marshal(object)
	if err != nil {
		return nil, nil, errors.New("a number that JSON does not have")
	}
	return canonical, object, nil
}

func decodeYAML(text string) (v any, err error) {
	// A decoder of foreign bytes that is not ours: what it trips over must not
	// take the agent down, again at each poll.
	defer func() {
		if r := recover(); r != nil {
			v, err = nil, errors.New("unreadable YAML")
		}
	}()
	d := yaml.NewDecoder(strings.NewReader(text))
	d.SetStrict(true) // duplicate keys
	if err := d.Decode(&v); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("empty YAML")
		}
		return nil, errors.New(yamlReason(err))
	}
	var more any
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one YAML document")
	}
	return v, nil
}

// yamlReason is the text of a decoder's error without the values that it quotes:
// a scalar that does not fit its tag, and the name of an alias, which may be the
// start of an unquoted password.
func yamlReason(err error) string {
	text := err.Error()
	if strings.Contains(text, "unknown anchor") {
		return "yaml: unknown anchor"
	}
	text, _, _ = strings.Cut(text, "`")
	return printable(strings.Join(strings.Fields(text), " "), maxReasonSize)
}

// yamlWalk turns what the YAML decoder returns into what encoding/json has.
// left is the size that may still come out.
type yamlWalk struct{ left int }

func (w *yamlWalk) spend(n int) error {
	if w.left -= n; w.left < 0 {
		return errors.New("YAML stands for too large a document")
	}
	return nil
}

func (w *yamlWalk) value(v any, depth int) (any, error) {
	if depth > maxYAMLDepth {
		return nil, errors.New("YAML is nested too deeply")
	}
	if err := w.spend(2); err != nil {
		return nil, err
	}
	switch v := v.(type) {
	case map[any]any:
		return w.object(v, depth)
	case []any:
		list := make([]any, 0, len(v))
		for _, e := range v {
			item, err := w.value(e, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, item)
		}
		return list, nil
	case string:
		if !utf8.ValidString(v) {
			return nil, errors.New("a text that is not UTF-8")
		}
		return v, w.spend(len(v))
	case nil, bool, int, int64, uint64, float64:
		return v, w.spend(8)
	default:
		return nil, fmt.Errorf("a %T, which JSON does not have", v)
	}
}

func (w *yamlWalk) object(m map[any]any, depth int) (any, error) {
	object := make(map[string]any, len(m))
	for k, e := range m {
		key, err := yamlKey(k)
		if err != nil {
			return nil, err
		}
		if _, twice := object[key]; twice { // 1 and "1"
			return nil, fmt.Errorf("key %q is there twice", printable(key, maxNameSize))
		}
		if err := w.spend(len(key) + 2); err != nil {
			return nil, err
		}
		if object[key], err = w.value(e, depth+1); err != nil {
			return nil, err
		}
	}
	return object, nil
}

// yamlKey names an object's key as Kubernetes' own YAML reader does.
func yamlKey(k any) (string, error) {
	switch k := k.(type) {
	case string:
		if !utf8.ValidString(k) {
			return "", errors.New("a key that is not UTF-8")
		}
		return k, nil
	case int:
		return strconv.Itoa(k), nil
	case int64:
		return strconv.FormatInt(k, 10), nil
	case uint64:
		return strconv.FormatUint(k, 10), nil
	case bool:
		return strconv.FormatBool(k), nil
	default:
		return "", fmt.Errorf("a key of type %T", k)
	}
}
