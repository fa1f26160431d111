package datasync

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"unicode/utf8"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

const (
	maxKeyBytes  = 1024 // of S3
	maxNameBytes = 255  // of every common Linux file system
	maxNodeName  = 63   // of a workload

	// tempPrefix and sixteen hexadecimal digits are the name of a download
	// that is not finished.
	tempPrefix = ".flotta-"
	tempDigits = 16

	// asideSuffix marks what a workload had written where an object came down.
	asideSuffix = ".flotta-local"
)

// route is one data path that was checked: a folder in a workload's volume and a
// key prefix in the bucket.
type route struct {
	local  string // clean and relative to the volume; "." is the volume
	prefix string // without slashes at its ends; "" is the bucket
}

// egressRoute checks a data path of the wire whose source is on the device.
func egressRoute(p protocol.DataPath) (route, error) { return newRoute(p.Source, p.Target) }

// ingressRoute checks a data path of the wire whose source is in the bucket.
func ingressRoute(p protocol.DataPath) (route, error) { return newRoute(p.Target, p.Source) }

func newRoute(local, prefix string) (route, error) {
	l, err := cleanPath(local)
	if err != nil {
		return route{}, fmt.Errorf("path on the device %q: %w", local, err)
	}
	p, err := cleanPath(prefix)
	if err != nil {
		return route{}, fmt.Errorf("path in the bucket %q: %w", prefix, err)
	}
	if p == "." {
		p = ""
	}
	return route{local: l, prefix: p}, nil
}

var (
	errAbsolute  = errors.New("is absolute")
	errParent    = errors.New("contains \"..\"")
	errDot       = errors.New("contains \".\" as a name")
	errEmptyName = errors.New("contains an empty name")
	errText      = errors.New("is not text that S3 can hold")
	errTooLong   = errors.New("is too long")
	errReserved  = errors.New("is a name reserved for unfinished downloads")
)

// cleanPath checks a configured path. It forgives doubled and trailing slashes
// and ".", which people write, and nothing that could leave its root.
func cleanPath(p string) (string, error) {
	switch {
	case strings.HasPrefix(p, "/"):
		return "", errAbsolute
	case !validText(p):
		return "", errText
	case len(p) > maxKeyBytes:
		return "", errTooLong
	}
	for name := range strings.SplitSeq(p, "/") {
		if name == ".." {
			return "", errParent
		}
		if len(name) > maxNameBytes {
			return "", errTooLong
		}
	}
	return path.Clean(p), nil
}

// objectKey returns the key of the file rel in a route with the given prefix.
// What it returns, relPath maps back to rel.
func objectKey(prefix, rel string) (string, error) {
	key := rel
	if prefix != "" {
		key = prefix + "/" + rel
	}
	if err := checkRel(rel); err != nil {
		return "", err
	}
	if len(key) > maxKeyBytes {
		return "", errTooLong
	}
	return key, nil
}

// relPath returns the path below a route's folder that belongs to an object's
// key, or why there is none. Keys are foreign input.
func relPath(prefix, key string) (string, error) {
	rel := key
	if prefix != "" {
		var ok bool
		if rel, ok = strings.CutPrefix(key, prefix+"/"); !ok {
			return "", errors.New("is not below the prefix that was listed")
		}
	}
	if len(key) > maxKeyBytes {
		return "", errTooLong
	}
	return rel, checkRel(rel)
}

// checkRel accepts the relative paths that mean the same file to S3 and to the
// file system.
func checkRel(rel string) error {
	if strings.HasPrefix(rel, "/") {
		return errAbsolute
	}
	if !validText(rel) {
		return errText
	}
	for name := range strings.SplitSeq(rel, "/") {
		switch {
		case name == "":
			return errEmptyName
		case name == ".":
			return errDot
		case name == "..":
			return errParent
		case len(name) > maxNameBytes:
			return errTooLong
		case isTemp(name):
			return errReserved
		}
	}
	return nil
}

// validText accepts what an S3 listing can name: UTF-8 of the characters that
// XML 1.0 knows. NUL is not one of them.
func validText(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if r < 0x20 && r != '\t' && r != '\n' && r != '\r' || r == 0xfffe || r == 0xffff {
			return false
		}
	}
	return true
}

// isTemp reports whether name is that of an unfinished download of ours.
func isTemp(name string) bool {
	digits, ok := strings.CutPrefix(name, tempPrefix)
	return ok && len(digits) == tempDigits && strings.Trim(digits, "0123456789abcdef") == ""
}

// cutText returns at most n bytes of s, and no part of a character.
func cutText(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// below returns the path of rel in the folder local.
func below(local, rel string) string { return path.Join(local, rel) }

// within returns the path of name relative to the folder local; both are clean
// and name is local or below it.
func within(local, name string) string {
	switch local {
	case ".":
		return name
	case name:
		return path.Base(name) // the route is a single file
	}
	return strings.TrimPrefix(name, local+"/")
}

// overlap reports whether one of two clean paths is the other, or holds it.
func overlap(a, b string) bool {
	return a == b || a == "." || b == "." || a == "" || b == "" ||
		strings.HasPrefix(a, b+"/") || strings.HasPrefix(b, a+"/")
}

// validWorkloadName accepts what may be the name of a volume's folder.
func validWorkloadName(name string) bool {
	if name == "" || len(name) > maxNodeName {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" ||
			label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
	}
	return true
}
