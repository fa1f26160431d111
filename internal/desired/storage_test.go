package desired

import (
	"strings"
	"testing"
)

func TestStorageHost(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text, host string
		plain      bool
	}{
		{"store.example.com", "store.example.com", false},
		{"https://store.example.com", "store.example.com", false},
		{"HTTPS://Store", "Store", false},
		{"http://store", "store", true},
		{"192.0.2.1", "192.0.2.1", false},
		{"2001:db8::1", "2001:db8::1", false},
		{"http://[2001:db8::1]", "2001:db8::1", true},
		{"[::1]", "::1", false},
	} {
		host, plain, err := storageHost(c.text)
		if host != c.host || plain != c.plain || err != nil {
			t.Errorf("%q: %q, http %v, err %v", c.text, host, plain, err)
		}
	}
	for text, why := range map[string]string{
		"":                         "not a host",
		"http://":                  "not a host",
		"ftp://h":                  "a scheme other",
		"h/bucket":                 "a path",
		"https://h/":               "a path",
		"h:443":                    "not a host",
		"https://h:443":            "not a host",
		"[h]":                      "not a host",
		"[::1":                     "not a host",
		"a::b::c":                  "not a host",
		"user@h":                   "not a host",
		"h?x":                      "not a host",
		"h\x00":                    "not a host",
		"h h":                      "not a host",
		"https://http://h":         "a path",
		strings.Repeat("long", 99): "not a host",
	} {
		if _, _, err := storageHost(text); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzStorageHost(f *testing.F) {
	for _, seed := range []string{"h", "http://h", "https://[::1]", "a/b", "[", "::"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		host, _, err := storageHost(text)
		if err == nil && (host == "" || strings.ContainsAny(host, "/[]@?# \x00")) {
			t.Errorf("%q has the host %q", text, host)
		}
	})
}
