package desired

import (
	"strings"
)

// maxNameSize is the longest workload name: it is a pod name and a host name.
// Longer names that are only printed are cut to it too.
const maxNameSize = 63

// maxObjectNameSize is the longest name of a ConfigMap or Secret.
const maxObjectNameSize = 253

// validName reports whether name is a DNS-1123 subdomain of at most size
// characters: labels of lower-case letters, digits and inner hyphens, joined by
// dots. Nothing else gets into paths, unit names and pod names.
func validName(name string, size int) bool {
	if name == "" || len(name) > size {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > maxNameSize || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			if c := label[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
				return false
			}
		}
	}
	return true
}

// validKey reports whether key may be a key of a ConfigMap or Secret: it becomes
// a file name or a variable.
func validKey(key string) bool {
	if key == "" || len(key) > maxObjectNameSize || strings.HasPrefix(key, "..") || key == "." {
		return false
	}
	for i := range len(key) {
		c := key[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}

// printable returns text for logs and reports: printable ASCII, at most size
// bytes. What it changes or cuts is never a valid name afterwards, so that a
// printed name is never that of another workload.
func printable(text string, size int) string {
	const cut = "..."
	long := len(text) > size
	if long {
		text = text[:size-len(cut)]
	}
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, text)
	if long {
		text += cut
	}
	return text
}
