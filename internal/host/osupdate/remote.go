package osupdate

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/project-flotta/flotta-agent/internal/durable"
)

const (
	// maxRemoteFile is far more than a file of remotes has.
	maxRemoteFile = 1 << 20
	remotesDir    = "etc/ostree/remotes.d"
	repoConfig    = "ostree/repo/config"
)

// remoteForm is what a name of a remote may be. It becomes the name of a file.
var remoteForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$`)

// remote is one remote of the host's ostree repository.
type remote struct {
	name string
	path string // of the file that it is in, or that it would be in
	text []byte // of that file; nil: there is none
}

// findRemote returns the remote of that name of the host whose files are below
// root.
func findRemote(root, name string) (remote, error) {
	if !remoteForm.MatchString(name) {
		return remote{}, fmt.Errorf("remote %.80q: not a name of a remote", name)
	}
	r := remote{name: name, path: filepath.Join(root, remotesDir, name+".conf")}
	paths, err := filepath.Glob(filepath.Join(root, remotesDir, "*.conf"))
	if err != nil {
		return remote{}, fmt.Errorf("look for remote %s: %w", name, err)
	}
	var found []string
	for _, path := range paths {
		text, err := readRegular(path)
		switch {
		case errors.Is(err, fs.ErrNotExist): // a link to nowhere
		case err != nil:
			return remote{}, fmt.Errorf("look for remote %s: %w", name, err)
		case hasRemote(text, name):
			r.path, r.text = path, text
			found = append(found, path)
		case path == r.path: // its name says that it is ours, and so it is written to
			r.text = text
		}
	}
	text, err := readRegular(filepath.Join(root, repoConfig))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return remote{}, fmt.Errorf("look for remote %s: %w", name, err)
	}
	if hasRemote(text, name) {
		return remote{}, fmt.Errorf("remote %s is in /%s, which belongs to ostree: move it to /%s/%s.conf", name, repoConfig, remotesDir, name)
	}
	if len(found) > 1 {
		return remote{}, fmt.Errorf("remote %s is in several files: leave it in one of %s", name, strings.Join(found, ", "))
	}
	return r, nil
}

// section returns the lines of the remote, without its head, that set something
// and not one of the keys left out.
func (r remote) section(without ...string) []string {
	var lines []string
	eachLine(r.text, func(line []byte, group string) {
		key, _, set := cutKey(line)
		if group == r.head() && set && !slices.Contains(without, key) {
			lines = append(lines, strings.TrimSpace(string(line)))
		}
	})
	return lines
}

// head returns what is between the brackets.
func (r remote) head() string { return `remote "` + r.name + `"` }

// url returns where the remote fetches from; empty: nowhere.
func (r remote) url() string {
	last := ""
	eachLine(r.text, func(line []byte, group string) {
		if key, value, set := cutKey(line); set && group == r.head() && key == "url" {
			last = value
		}
	})
	return last
}

// set makes the remote fetch from url. Nothing else in the file changes, not
// even a comment. It reports whether there was something to change.
func (r remote) set(url string) (changed bool, err error) {
	if r.url() == url {
		return false, nil
	}
	if r.sets("metalink") {
		return false, fmt.Errorf("remote %s in %s has a metalink, which ostree heeds instead of its url: remove one of both", r.name, r.path)
	}
	perm := fs.FileMode(0o644)
	switch info, err := os.Lstat(r.path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return false, fmt.Errorf("set url of remote %s: %w", r.name, err)
	case !info.Mode().IsRegular(): // a link is somebody's way of sharing the file, which replacing it would end
		return false, fmt.Errorf("set url of remote %s: %s is a link: make it a file, or set the url where it leads", r.name, r.path)
	default:
		perm = info.Mode().Perm()
	}
	if err := os.MkdirAll(filepath.Dir(r.path), 0o755); err != nil {
		return false, fmt.Errorf("set url of remote %s: %w", r.name, err)
	}
	if err := durable.WriteFile(r.path, r.edited(url), perm); err != nil {
		return false, fmt.Errorf("set url of remote %s: %w", r.name, err)
	}
	return true, nil
}

// edited returns the file with that url.
func (r remote) edited(url string) []byte {
	var out bytes.Buffer
	has, written := r.sets("url"), false
	eachLine(r.text, func(line []byte, group string) {
		key, _, set := cutKey(line)
		if group == r.head() && set && key == "url" { // of several the last one counts: all become the same
			fmt.Fprintf(&out, "url=%s\n", url)
			return
		}
		out.Write(line)
		if len(line) > 0 && line[len(line)-1] != '\n' {
			out.WriteByte('\n')
		}
		if !has && !written && isHead(line) && group == r.head() {
			fmt.Fprintf(&out, "url=%s\n", url)
			written = true
		}
	})
	if !has && !written {
		// ostree verifies signatures unless it is told not to, and this is not
		// the one to tell it.
		fmt.Fprintf(&out, "[%s]\nurl=%s\n", r.head(), url)
	}
	return out.Bytes()
}

// sets reports whether the remote has that key.
func (r remote) sets(wanted string) bool {
	found := false
	eachLine(r.text, func(line []byte, group string) {
		key, _, set := cutKey(line)
		found = found || set && group == r.head() && key == wanted
	})
	return found
}

// hasRemote reports whether the key file has the remote in it.
func hasRemote(text []byte, name string) bool {
	found := false
	eachLine(text, func(line []byte, group string) {
		found = found || isHead(line) && group == `remote "`+name+`"`
	})
	return found
}

// eachLine calls f with every line of a key file, its end included, and the
// group that it is in; the head of a group is in it.
func eachLine(text []byte, f func(line []byte, group string)) {
	group := ""
	for line := range bytes.Lines(text) {
		if isHead(line) {
			line := bytes.TrimSpace(line)
			group = string(line[1 : len(line)-1])
		}
		f(line, group)
	}
}

func isHead(line []byte) bool {
	line = bytes.TrimSpace(line)
	return len(line) >= 2 && line[0] == '[' && line[len(line)-1] == ']'
}

// cutKey returns key and value of a line; false: it sets nothing.
func cutKey(line []byte) (key, value string, set bool) {
	text := strings.TrimSpace(string(line))
	if text == "" || text[0] == '#' || isHead(line) {
		return "", "", false
	}
	key, value, set = strings.Cut(text, "=")
	return strings.TrimSpace(key), strings.TrimSpace(value), set
}

// readRegular reads a small file that is not a folder, a pipe or a device.
func readRegular(path string) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // nothing was written
	text, err := io.ReadAll(io.LimitReader(f, maxRemoteFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", path, err)
	case len(text) > maxRemoteFile:
		return nil, fmt.Errorf("%s has more than %d bytes", path, maxRemoteFile)
	}
	return text, nil
}
