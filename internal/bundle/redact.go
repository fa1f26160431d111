package bundle

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/project-flotta/flotta-agent/internal/secret"
)

// Redacted stands where a secret was.
const Redacted = "[redacted]"

const (
	// minSecret is the shortest secret that is searched for by its value: a
	// shorter one is in every text by chance. It is removed by its place alone.
	minSecret = 4
	// minLine is the shortest line of a secret of several lines that is one of
	// its own: such a text may be cut, wrapped or indented.
	minLine = 12
	// minPart is the shortest piece of an encoded secret that gives it away.
	minPart = 4
)

// errLeft says that a secret could not be removed.
var errLeft = errors.New("a secret could not be removed from it")

// Redactor removes secrets. It may be used from several goroutines.
type Redactor struct {
	values *strings.Replacer
	looks  []look
}

// look is what secrets look like.
type look struct {
	// triggers are in lower case. A line without one of them has no such secret:
	// to look for them is a hundred times as fast.
	triggers []string
	spans    bool // more than a line
	pattern  *regexp.Regexp
	with     string
}

func looks() []look {
	return []look{
		{
			[]string{"private key-----"},
			true,
			regexp.MustCompile(`(-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----)(?s:.*?)(-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)`), "${1}" + Redacted + "${2}",
		},
		{
			[]string{"://"},
			false,
			regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*://)[^\s/?#"'@\\]+@`), "${1}" + Redacted + "@",
		},
		{
			[]string{"authorization"},
			false,
			regexp.MustCompile(`(?i)(authorization["']?\s*[:=]\s*["']?(?:basic|bearer|digest|aws4-hmac-sha256)\s+)[^\s"']+`), "${1}" + Redacted,
		},
		{
			[]string{"x-amz-", "token=", "password=", "secret="},
			false,
			regexp.MustCompile(`(?i)([?&](?:x-amz-signature|x-amz-credential|x-amz-security-token|token|password|secret|access_token)=)[^\s&"']+`), "${1}" + Redacted,
		},
		{
			[]string{"pass", "token", "secret", "api-key", "apikey"},
			false,
			regexp.MustCompile(`(?i)(--?[a-z0-9-]*(?:password|passwd|passphrase|token|secret|api-?key)[= ]+)[^\s"']+`), "${1}" + Redacted,
		},
		{[]string{"signature="}, false, regexp.MustCompile(`(?i)(signature=)[0-9a-f]{16,}`), "${1}" + Redacted},
	}
}

// triggered reports whether there may be such a secret. Lower is in lower case.
func (l look) triggered(lower []byte) bool {
	return slices.ContainsFunc(l.triggers, func(t string) bool { return bytes.Contains(lower, []byte(t)) })
}

// replace returns the text without such secrets.
func (l look) replace(text []byte) []byte {
	if l.spans {
		return l.pattern.ReplaceAll(text, []byte(l.with))
	}
	out := make([]byte, 0, len(text))
	for line := range bytes.Lines(text) {
		if l.triggered(bytes.ToLower(line)) {
			line = l.pattern.ReplaceAll(line, []byte(l.with))
		}
		out = append(out, line...)
	}
	return out
}

// NewRedactor returns one that knows these secrets. Those shorter than four bytes
// are not searched for.
func NewRedactor(secrets []secret.Value) *Redactor {
	found := map[string]bool{}
	for _, s := range secrets {
		for _, part := range parts(s.Reveal()) {
			for _, form := range forms(part) {
				found[form] = true
			}
		}
	}
	r := &Redactor{looks: looks()}
	delete(found, Redacted) // is nobody's secret
	encoded := slices.SortedFunc(maps.Keys(found), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a, b)) // the longest first
	})
	var pairs []string
	for _, form := range encoded {
		pairs = append(pairs, form, Redacted)
	}
	r.values = strings.NewReplacer(pairs...)
	return r
}

// parts returns the secret, and those of its lines that say something.
func parts(text string) []string {
	trimmed := strings.TrimSpace(text)
	out := []string{text}
	if trimmed != text {
		out = append(out, trimmed)
	}
	if strings.Contains(trimmed, "\n") {
		for line := range strings.Lines(trimmed) {
			// The frame of a PEM text is no secret.
			if line = strings.TrimSpace(line); len(line) >= minLine && !strings.HasPrefix(line, "-----") {
				out = append(out, line)
			}
		}
	}
	return slices.DeleteFunc(out, func(s string) bool { return len(s) < minSecret })
}

// forms returns how a secret may be written.
func forms(text string) []string {
	out := []string{text}
	for _, plain := range []string{text, text + "\n"} { // echo adds a line end
		for _, e := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
			out = append(out, base64At(e, plain)...)
		}
	}
	out = append(out, escapes(text)...)
	for _, inner := range escapes(text) { // JSON in JSON, as labels and logs have it
		out = append(out, escapes(inner)...)
	}
	// A secret of Kubernetes is base64 in JSON that is base64 on its way.
	twice := base64.StdEncoding.EncodeToString([]byte(text))
	out = append(out, base64At(base64.StdEncoding, twice)...)
	query, path := url.QueryEscape(text), url.PathEscape(text)
	out = append(out, query, path, lowerEscapes(query), lowerEscapes(path), allPercent(text), strings.ToLower(allPercent(text)))
	hexed := hex.EncodeToString([]byte(text))
	out = append(out, hexed, strings.ToUpper(hexed))
	return slices.DeleteFunc(out, func(s string) bool { return len(s) < minPart })
}

// base64At returns what the text looks like within a longer text, at each of the
// three offsets it can have there: without the characters that other bytes have
// a part in.
func base64At(e *base64.Encoding, text string) []string {
	out := []string{e.EncodeToString([]byte(text))} // also when it is too short for what follows
	for offset := range 3 {
		padded := e.EncodeToString([]byte(strings.Repeat("\x00", offset) + text))
		skip := (offset*8 + 5) / 6
		whole := (offset + len(text)) * 8 / 6
		if whole-skip >= max(minPart, 6) {
			out = append(out, padded[skip:whole])
		}
	}
	return out
}

// escapes returns the text as JSON has it, with and without what is escaped for
// the sake of browsers, and as Go and Python quote it.
func escapes(text string) []string {
	var out []string
	for _, html := range []bool{true, false} {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(html)
		if e.Encode(text) == nil {
			out = append(out, strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(b.String()), `"`), `"`))
		}
	}
	return append(out, strings.ReplaceAll(text, "/", `\/`), strings.ReplaceAll(text, "'", `''`))
}

// lowerEscapes writes %2F as %2f.
func lowerEscapes(text string) string {
	out := []byte(text)
	for i := 0; i+2 < len(out); i++ {
		if out[i] == '%' {
			copy(out[i+1:i+3], bytes.ToLower(out[i+1:i+3]))
		}
	}
	return string(out)
}

// allPercent escapes each byte.
func allPercent(text string) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(text) {
		b.WriteString("%" + string(digits[text[i]>>4]) + string(digits[text[i]&15]))
	}
	return b.String()
}

// Bytes returns the text without secrets. When one is still in it after that, the
// error says so, and there is no text.
func (r *Redactor) Bytes(text []byte) ([]byte, error) {
	lower := bytes.ToLower(text)
	for _, l := range r.looks {
		if l.triggered(lower) {
			text = l.replace(text)
		}
	}
	out := r.values.Replace(string(text))
	if r.Holds(out) {
		return nil, errLeft
	}
	return []byte(out), nil
}

// Holds reports whether a secret that is searched for is in the text: there is
// something to replace then.
func (r *Redactor) Holds(text string) bool { return r.values.Replace(text) != text }
