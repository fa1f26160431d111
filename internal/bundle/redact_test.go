package bundle

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/project-flotta/flotta-agent/internal/secret"
)

func secrets(texts ...string) []secret.Value {
	var out []secret.Value
	for _, t := range texts {
		out = append(out, secret.New(t))
	}
	return out
}

// written is a secret in the ways that programs write it, each by a name.
func written(text string) map[string]string {
	quoted, _ := json.Marshal(text)
	again, _ := json.Marshal(string(quoted))
	std := base64.StdEncoding.EncodeToString
	out := map[string]string{
		"plain":              text,
		"base64":             std([]byte(text)),
		"base64 of echo":     std([]byte(text + "\n")),
		"base64 in a pair":   std([]byte("user:" + text)),
		"base64 in a line":   std([]byte("password=" + text + "\nmore=1\n")),
		"base64 in a text":   std([]byte("ab" + text + "cd")),
		"base64 of base64":   std([]byte(std([]byte(text)))),
		"base64 without end": base64.RawStdEncoding.EncodeToString([]byte(text)),
		"base64 for URLs":    base64.URLEncoding.EncodeToString([]byte("x" + text)),
		"JSON":               string(quoted),
		"JSON in JSON":       string(again),
		"query":              url.QueryEscape(text),
		"path":               url.PathEscape(text),
		"query, lower":       strings.ToLower(url.QueryEscape(strings.ToLower(text))),
		"hex":                hex.EncodeToString([]byte(text)),
		"HEX":                fmt.Sprintf("%X", text),
		"URL":                "https://me:" + url.QueryEscape(text) + "@h/",
	}
	if strings.ToLower(text) != text {
		delete(out, "query, lower")
	}
	return out
}

// A secret goes in whatever way it is written.
func TestEveryWayToWriteIt(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"s3cr3t-canary", "canary/with+all=kinds&of <marks>\"'\\", "kürzlich-größer", "Canary%2Fpath", "tab\tand space", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
	} {
		r := NewRedactor(secrets(text))
		for name, form := range written(text) {
			for _, frame := range []string{"%s", "before %s after", "\n%s\n", "aa%sbb"} {
				if strings.HasPrefix(frame, "aa") && strings.HasPrefix(name, "base64") {
					continue // that is another encoding then
				}
				in := fmt.Sprintf(frame, form)
				out, err := r.Bytes([]byte(in))
				if err != nil {
					t.Errorf("%s of %q: %v", name, text, err)
				}
				// What is left of a pair at its edges says nothing.
				if !strings.Contains(string(out), Redacted) || strings.Contains(string(out), strings.Trim(form, `"`)) {
					t.Errorf("%s of %q is left: %q", name, text, out)
				}
			}
		}
	}
}

// Each line of a secret of several lines is one: it may be wrapped or cut. What
// frames a key is none.
func TestLinesOfASecret(t *testing.T) {
	t.Parallel()
	key := "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\nAQEFAASCBKcwggSjAgEAAoIB\nshort\n-----END KEY-----\n"
	r := NewRedactor(secrets(key))
	out, err := r.Bytes([]byte("line AQEFAASCBKcwggSjAgEAAoIB and short and -----BEGIN KEY-----"))
	if err != nil || string(out) != "line "+Redacted+" and short and -----BEGIN KEY-----" {
		t.Errorf("%q, %v", out, err)
	}
}

// What looks like a secret goes although nobody knows it.
func TestLooks(t *testing.T) {
	t.Parallel()
	r := NewRedactor(nil)
	for in, want := range map[string]string{
		"a -----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY----- b": "a -----BEGIN EC PRIVATE KEY-----" + Redacted + "-----END EC PRIVATE KEY----- b",
		`"-----BEGIN PRIVATE KEY-----\nMHcCAQEE`:                                     `"-----BEGIN PRIVATE KEY-----` + Redacted,
		"-----BEGIN CERTIFICATE-----\nMHcCAQEE\n-----END CERTIFICATE-----":           "-----BEGIN CERTIFICATE-----\nMHcCAQEE\n-----END CERTIFICATE-----",
		"see https://user:pass@host/path and http://token@h":                         "see https://" + Redacted + "@host/path and http://" + Redacted + "@h",
		"mail to me@example.com, https://example.com/@x":                             "mail to me@example.com, https://example.com/@x",
		"Authorization: Bearer abc.def":                                              "Authorization: Bearer " + Redacted,
		`{"authorization": "Basic dXNlcjpw"}`:                                        `{"authorization": "Basic ` + Redacted + `"}`,
		"GET /b/o?X-Amz-Signature=abcdef&x=1":                                        "GET /b/o?X-Amz-Signature=" + Redacted + "&x=1",
		"SignedHeaders=host, Signature=0123456789abcdef0123":                         "SignedHeaders=host, Signature=" + Redacted,
		"exec --password=abc --db-token xyz --verbose":                               "exec --password=" + Redacted + " --db-token " + Redacted + " --verbose",
		"nothing to see: password policy, secret name":                               "nothing to see: password policy, secret name",
	} {
		if out, err := r.Bytes([]byte(in)); err != nil || string(out) != want {
			t.Errorf("%q\nis  %q, %v\nnot %q", in, out, err, want)
		}
	}
}

// What cannot be removed is not taken along: here the placeholder itself holds
// the secret.
func TestWhatCannotBeRemoved(t *testing.T) {
	t.Parallel()
	r := NewRedactor(secrets("redact"))
	if out, err := r.Bytes([]byte("we redact it")); err == nil || out != nil {
		t.Errorf("%q, %v", out, err)
	}
	if out, err := r.Bytes([]byte("nothing here")); err != nil || string(out) != "nothing here" {
		t.Errorf("%q, %v", out, err)
	}
	none := NewRedactor(secrets("", "a", "abc", Redacted))
	if out, err := none.Bytes([]byte("abc " + Redacted)); err != nil || string(out) != "abc "+Redacted {
		t.Errorf("%q, %v", out, err)
	}
}

var base64Run = regexp.MustCompile(`[A-Za-z0-9+/_-]{6,}`)

// decodes reports whether a text in base64, at whatever offset, holds the secret:
// not the way by which it is searched for.
func decodes(text, secret string) bool {
	for _, run := range base64Run.FindAllString(text, -1) {
		run = strings.NewReplacer("-", "+", "_", "/").Replace(run)
		for offset := range min(4, len(run)) {
			part := run[offset:]
			for cut := range 4 {
				if len(part)-cut > 4 {
					plain, err := base64.RawStdEncoding.DecodeString(part[:len(part)-cut])
					if err == nil && strings.Contains(string(plain), secret) {
						return true
					}
				}
			}
		}
	}
	return false
}

// FuzzRedactor: whatever the secret and the text around it are, nothing panics and
// no secret is left, in no way to write it.
func FuzzRedactor(f *testing.F) {
	f.Add("s3cr3t-canary", "before ", " after", 0)
	f.Add("[redacted]x", "[redacted]", "x", 3)
	f.Add("aXaXa", "aX", "aXa", 5)
	f.Add("p\xffss\x00wörd", "https://u:", "@h", 7)
	f.Add("-----BEGIN PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----", "", 1)
	f.Fuzz(func(t *testing.T, text, before, after string, which int) {
		if len(text) > 2000 || len(before)+len(after) > 20000 {
			return
		}
		r := NewRedactor(secrets(text))
		in := before + text + after
		forms := []string{
			text, base64.StdEncoding.EncodeToString([]byte(in)), base64.RawURLEncoding.EncodeToString([]byte(in)),
			hex.EncodeToString([]byte(in)), url.QueryEscape(in), url.PathEscape(in), strconv.Quote(in), in,
		}
		for i := range forms {
			in := before + forms[(i+which&7)%len(forms)] + after
			out, err := r.Bytes([]byte(in))
			if err != nil {
				if out != nil {
					t.Fatalf("an error and %q", out)
				}
				continue
			}
			if len(text) < minSecret || text == Redacted {
				continue
			}
			if strings.Contains(string(out), text) {
				t.Fatalf("%q is left in %q", text, out)
			}
			if len(text) > minSecret && decodes(string(out), text) {
				t.Fatalf("%q can be decoded from %q", text, out)
			}
			if strings.Contains(string(out), hex.EncodeToString([]byte(text))) {
				t.Fatalf("%q is left as hex in %q", text, out)
			}
		}
	})
}

func BenchmarkRedactor(b *testing.B) {
	var list []secret.Value
	for i := range 200 {
		list = append(list, secret.New(fmt.Sprintf("secret-number-%d-of-many", i*7919)))
	}
	r := NewRedactor(list)
	text := []byte(strings.Repeat("2026-03-04T05:06:07Z edge-7 flotta-agent[412]: level=INFO msg=\"workload applied\" workload=web digest=0123456789\n", 10000))
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, err := r.Bytes(text); err != nil {
			b.Fatal(err)
		}
	}
}
