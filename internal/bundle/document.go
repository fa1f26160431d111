package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v2"
)

// maxDepth bounds how deep a document may be nested.
const maxDepth = 200

// Document returns a JSON or YAML document as indented JSON, without the values
// of what holds secrets by its place: see the package.
func Document(raw []byte) ([]byte, error) {
	value, err := parse(raw)
	if err != nil {
		return nil, err
	}
	out, err := json.MarshalIndent(cleaned("", value, 0), "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode document: %w", err)
	}
	return append(out, '\n'), nil
}

// parse decodes JSON, or else YAML. The errors hold nothing of the text.
func parse(raw []byte) (any, error) {
	var value any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&value); err == nil {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return value, nil
		}
	}
	if err := yaml.Unmarshal(raw, &value); err != nil {
		return nil, errors.New("it is neither JSON nor YAML")
	}
	return value, nil
}

// cleaned returns a copy of the value of a key without secrets.
func cleaned(key string, value any, depth int) any {
	if depth > maxDepth {
		return "[nested too deep]"
	}
	switch value := value.(type) {
	case map[any]any: // of YAML
		m := make(map[string]any, len(value))
		for k, v := range value {
			m[fmt.Sprint(k)] = v
		}
		return cleaned(key, m, depth)
	case map[string]any:
		return cleanedMap(key, value, depth)
	case []any:
		return cleanedList(key, value, depth)
	case string:
		return cleanedText(key, value, depth)
	case json.Number, float64, int, int64, uint64:
		if Sensitive(key) {
			return Redacted
		}
	}
	return value
}

func cleanedMap(key string, value map[string]any, depth int) any {
	out := make(map[string]any, len(value))
	_, hasEgress := value["egress"]
	_, hasIngress := value["ingress"]
	all := wholesale(key) && !hasEgress && !hasIngress // data paths are called data, too
	for k, v := range value {
		_, named := value["name"]
		switch {
		case all:
			out[k] = measured(v)
		case named && k == "value": // a variable of a container
			out[k] = measured(v)
		default:
			out[k] = cleaned(k, v, depth+1)
		}
	}
	return out
}

func cleanedList(key string, value []any, depth int) any {
	out := make([]any, 0, len(value))
	before := "" // the argument before
	for _, v := range value {
		text, isText := v.(string)
		switch {
		case isText && (optionBefore(before) || Sensitive(key)):
			v = measured(v)
		case isText && (strings.EqualFold(key, "env") || before == "-e" || before == "--env"): // as Podman has it
			v = unvalued(text)
		case isText && strings.HasPrefix(text, "--env="):
			v = "--env=" + unvalued(strings.TrimPrefix(text, "--env="))
		default:
			v = cleaned(key, v, depth+1)
		}
		out = append(out, v)
		before = text
	}
	return out
}

// unvalued is a variable without its value.
func unvalued(variable string) string {
	name, _, _ := strings.Cut(variable, "=")
	return name + "=" + Redacted
}

func cleanedText(key, value string, depth int) any {
	switch normal := normalised(key); {
	case value == "":
		return value
	case Sensitive(key) || normal == "data":
		return measured(value)
	case normal == "url":
		if address, query, found := strings.Cut(value, "?"); found && query != "" {
			return address + "?" + Redacted
		}
	case normal == "specification", normal == "configmaps": // documents in the document
		inner, err := parse([]byte(value))
		if err != nil {
			return fmt.Sprintf("[%d bytes, not readable]", len(value))
		}
		return cleaned("", inner, depth+1)
	}
	return value
}

// measured says of a secret how long it is, and whether there is one at all:
// that is what mistakes are found by.
func measured(value any) any {
	switch value := value.(type) {
	case nil:
		return nil
	case string:
		if value == "" {
			return ""
		}
		return fmt.Sprintf("%s (%d bytes)", Redacted, len(value))
	}
	return Redacted
}

// normalised is a key without what makes the same name look different.
func normalised(key string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return -1
	}, key)
}

// wholesale reports whether all that is below the key is secret, or may be.
func wholesale(key string) bool {
	switch normalised(key) {
	case "data", "stringdata", "binarydata", "secretenv":
		return true
	}
	return false
}

// Sensitive reports whether a value that goes by that name is a secret.
func Sensitive(key string) bool {
	name := normalised(key)
	if name == "auth" || name == "authfile" || name == "identitytoken" || name == "awsaccesskeyid" {
		return true
	}
	for _, end := range []string{"name", "ref", "file", "path", "policy", "mount", "count", "seconds"} {
		if strings.HasSuffix(name, end) { // it says where a secret is
			return false
		}
	}
	for _, word := range []string{
		"password", "passwd", "passphrase", "secret", "token", "apikey", "accesskey", "privatekey", "credential", "cookie", "authorization",
	} {
		if strings.Contains(name, word) {
			return true
		}
	}
	return false
}

// optionBefore reports whether an argument says that the next one is a secret.
func optionBefore(argument string) bool {
	return strings.HasPrefix(argument, "-") && !strings.Contains(argument, "=") && Sensitive(argument)
}

// settingLine is a line of TOML, of an environment file or the like.
var settingLine = regexp.MustCompile(`^(\s*#?\s*(?:export\s+)?"?([A-Za-z0-9_.-]+)"?\s*[=:]\s*)(\S.*)$`)

// Settings returns a text of settings, a line for each, without the values of
// those that are named like a secret.
func Settings(raw []byte) []byte {
	var out bytes.Buffer
	for line := range bytes.Lines(raw) {
		text := bytes.TrimRight(line, "\r\n")
		if m := settingLine.FindSubmatch(text); m != nil && Sensitive(string(m[2])) {
			out.Write(m[1])
			out.WriteString(Redacted)
		} else {
			out.Write(text)
		}
		out.WriteByte('\n')
	}
	return out.Bytes()
}
