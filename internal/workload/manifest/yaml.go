package manifest

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	// maxDepth is far beyond any Kubernetes object; parsers give up at some
	// depth of their own.
	maxDepth = 64
	// maxKey stays below the 1,024 characters that YAML allows a simple key.
	maxKey = 512
)

// appendYAML writes one document: block style, keys sorted, strings plain when
// no YAML parser can take them for anything else, and quoted when one could.
func appendYAML(b []byte, v any) ([]byte, error) {
	b, err := appendNode(b, v, 0, false)
	if err != nil {
		return nil, err
	}
	return b, nil
}

// appendNode writes v where the cursor is at the start of a line, or, when
// inline, behind a "key:" or a "-".
func appendNode(b []byte, v any, depth int, inline bool) ([]byte, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("nested deeper than %d levels", maxDepth)
	}
	switch v := v.(type) {
	case map[string]any:
		if len(v) > 0 {
			return appendMap(b, v, depth, inline)
		}
		return appendScalar(b, "{}", inline), nil
	case []any:
		if len(v) > 0 {
			return appendList(b, v, depth, inline)
		}
		return appendScalar(b, "[]", inline), nil
	case string:
		return appendScalar(b, scalar(v), inline), nil
	case json.Number:
		return appendScalar(b, v.String(), inline), nil
	case bool:
		return appendScalar(b, strconv.FormatBool(v), inline), nil
	case nil:
		return appendScalar(b, "null", inline), nil
	default:
		return nil, fmt.Errorf("value of type %T", v)
	}
}

func appendScalar(b []byte, text string, inline bool) []byte {
	if inline {
		b = append(b, ' ')
	}
	b = append(b, text...)
	return append(b, '\n')
}

func appendMap(b []byte, m map[string]any, depth int, inline bool) ([]byte, error) {
	if inline {
		b = append(b, '\n')
	}
	for i, key := range slices.Sorted(maps.Keys(m)) {
		if len(key) > maxKey {
			return nil, fmt.Errorf("a key longer than %d bytes", maxKey)
		}
		// The first key of a map that is a list's item stands behind the dash.
		if i > 0 || inline || depth == 0 {
			b = indent(b, depth)
		}
		b = append(b, scalar(key)...)
		b = append(b, ':')
		var err error
		if b, err = appendNode(b, m[key], depth+1, true); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func appendList(b []byte, list []any, depth int, inline bool) ([]byte, error) {
	if inline {
		b = append(b, '\n')
	}
	for i, item := range list {
		if i > 0 || inline || depth == 0 {
			b = indent(b, depth)
		}
		b = append(b, "- "...)
		var err error
		if b, err = appendNode(b, item, depth+1, false); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func indent(b []byte, depth int) []byte {
	for range depth {
		b = append(b, "  "...)
	}
	return b
}

// scalar returns text as a YAML scalar that every parser reads back as that
// string.
func scalar(text string) string {
	if plain(text) {
		return text
	}
	return quote(text)
}

// plain reports whether text needs no quotes: it starts with a letter or a
// slash, so it is no number and no date, holds nothing with a meaning, and is
// none of the words that some version of YAML takes for a boolean or null.
func plain(text string) bool {
	if text == "" || len(text) > 512 || text[len(text)-1] == ':' {
		return false
	}
	if !isLetter(text[0]) && text[0] != '/' {
		return false
	}
	for i := range len(text) {
		if c := text[i]; !isLetter(c) && (c < '0' || c > '9') && !strings.ContainsRune("/._-:@", rune(c)) {
			return false
		}
	}
	switch strings.ToLower(text) {
	case "y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf":
		return false
	}
	return true
}

func isLetter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }

// quote returns text in double quotes, with everything that a YAML reader may
// refuse or fold escaped.
func quote(text string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range text {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < 0x20, r >= 0x7f && r < 0xa0, r == 0x2028, r == 0x2029, r == 0xfeff, r == 0xfffe, r == 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		case r == utf8.RuneError:
			b.WriteRune(utf8.RuneError) // also what a stray byte becomes
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
