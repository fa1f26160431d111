package manifest

import "strings"

// maxName is the longest label of DNS. A workload's name is a pod's host name,
// a label's value, a folder and a part of a unit's name.
const maxName = 63

// CheckName returns why name cannot name a workload, or "". Valid are the
// subdomains of DNS-1123 with up to 63 characters, none of which has a meaning
// to a file system, to systemd or to Podman.
func CheckName(name string) string {
	if len(name) > maxName {
		return "is longer than 63 characters"
	}
	if name == "" {
		return "is empty"
	}
	if !dnsSubdomain(name) {
		return notSubdomain
	}
	return ""
}

const notSubdomain = "is not of lower-case letters, digits, hyphens and dots, each part between letters or digits"

func dnsSubdomain(s string) bool {
	for part := range strings.SplitSeq(s, ".") {
		if !dnsLabel(part) {
			return false
		}
	}
	return true
}

func dnsLabel(s string) bool {
	if s == "" || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c != '-' && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}
