package apply

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"
)

// DefaultAllowed are the folders below which something may be mounted unless
// Config.Allowed names others. What is /mnt and /srv to everybody is below /var
// where the system's root is an image.
func DefaultAllowed() []string {
	return []string{"/mnt", "/media", "/srv", "/data", "/opt/data", "/var/mnt", "/var/srv"}
}

// protectedTrees are the system's: nothing is mounted at, above or below them,
// whatever the settings allow.
func protectedTrees() []string {
	return []string{
		"/bin", "/boot", "/dev", "/efi", "/etc", "/home", "/lib", "/lib32", "/lib64", "/libx32", "/ostree", "/proc",
		"/root", "/run", "/sbin", "/sys", "/sysroot", "/tmp", "/usr",
		"/var/cache", "/var/home", "/var/lib/containers", "/var/lib/dbus", "/var/lib/systemd", "/var/lock", "/var/log", "/var/roothome",
		"/var/run", "/var/spool", "/var/tmp",
	}
}

// tooWide are folders that may not be allowed as a whole, because programs keep
// below them what must not be hidden by a mount.
func tooWide() []string { return []string{"/", "/var", "/var/lib", "/var/local", "/usr/local"} }

// maxPath is far below PATH_MAX, and what is longer makes no name of a unit.
const maxPath = 200

// CheckAllowed reports the first folder of a list that nothing can be allowed
// below, and why.
func CheckAllowed(dirs []string) error {
	for _, dir := range dirs {
		if err := checkPath(dir); err != nil {
			return fmt.Errorf("allowed folder %.80q: %w", dir, err)
		}
		if slices.Contains(tooWide(), dir) {
			return fmt.Errorf("allowed folder %s: programs keep their own files there; name a folder below it", dir)
		}
		for _, tree := range protectedTrees() {
			if within(dir, tree) {
				return fmt.Errorf("allowed folder %s: nothing may be mounted at or below %s", dir, tree)
			}
		}
	}
	return nil
}

// checkPath accepts absolute paths that mean the same to a unit file, to the
// kernel's table of mounts and to a person who reads them.
func checkPath(path string) error {
	switch {
	case path == "":
		return errors.New("it is empty")
	case !strings.HasPrefix(path, "/"):
		return errors.New("it is not an absolute path")
	case len(path) > maxPath:
		return fmt.Errorf("it has more than %d bytes", maxPath)
	case !utf8.ValidString(path):
		return errors.New("it is not UTF-8")
	case path != filepath.Clean(path):
		return errors.New("it holds . or .. or an empty part")
	}
	for part := range strings.SplitSeq(path, "/") {
		if strings.TrimSpace(part) != part {
			return errors.New("a part of it begins or ends with a blank")
		}
	}
	if i := strings.IndexFunc(path, func(r rune) bool { return !inPath(r) }); i >= 0 {
		r, _ := utf8.DecodeRuneInString(path[i:])
		return fmt.Errorf("it holds %q; letters, digits, blanks and any of /._-+@:=,~ may be in it", r)
	}
	return nil
}

func inPath(r rune) bool {
	return unicode.IsLetter(r) || unicode.IsDigit(r) || unicode.IsMark(r) || strings.ContainsRune("/._-+@:=,~ ", r)
}

// within reports whether path is dir or below it.
func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// rules say where something may be mounted. They hold what the folders are
// called and where their links lead.
type rules struct{ allowed, protected []string }

func newRules(allowed, protected []string) rules {
	return rules{withReal(allowed), withReal(protected)}
}

// withReal returns the paths and what they are without symbolic links.
func withReal(paths []string) []string {
	out := make([]string, 0, len(paths))
	for _, path := range paths {
		path = filepath.Clean(path)
		out = append(out, path)
		if seen, err := filepath.EvalSymlinks(path); err == nil && !slices.Contains(out, seen) {
			out = append(out, seen)
		}
	}
	return out
}

// check says what is wrong with mounting something at dir.
func (r rules) check(dir string) error {
	for _, tree := range r.protected {
		switch {
		case within(dir, tree):
			return fmt.Errorf("nothing may be mounted at or below %s", tree)
		case within(tree, dir):
			return fmt.Errorf("it would hide %s", tree)
		}
	}
	if r.base(dir) == "" {
		return fmt.Errorf("it is not below any of the allowed folders (%s)", strings.Join(r.allowed, ", "))
	}
	return nil
}

// base returns the allowed folder that dir is below; empty: there is none.
func (r rules) base(dir string) string {
	for _, allowed := range r.allowed {
		if dir != allowed && within(dir, allowed) {
			return allowed
		}
	}
	return ""
}

// resolve returns dir without symbolic links: systemd wants mount points that
// way, and a link must not lead to where nothing may be mounted. What is mounted
// already is not looked into, because its device may be gone.
func (r rules) resolve(dir string, mounted func(dir string) bool) (string, error) {
	if err := r.check(dir); err != nil {
		return "", err
	}
	seen, err := follow(dir, mounted)
	if err != nil {
		return "", err
	}
	if seen != dir {
		if err := checkPath(seen); err != nil {
			return "", fmt.Errorf("it leads to %.80q: %w", seen, err)
		}
		if err := r.check(seen); err != nil {
			return "", fmt.Errorf("it leads to %s: %w", seen, err)
		}
	}
	return seen, r.guarded(seen)
}

// maxLinks is as many as the kernel follows.
const maxLinks = 40

// follow returns path without symbolic links. Parts that do not exist stay as
// they are.
func follow(path string, mounted func(dir string) bool) (string, error) {
	seen, rest := "/", strings.Split(strings.Trim(path, "/"), "/")
	for links := 0; len(rest) > 0; {
		next := filepath.Join(seen, rest[0])
		rest = rest[1:]
		if mounted(next) {
			seen = next
			continue
		}
		info, err := os.Lstat(next)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return filepath.Join(append([]string{next}, rest...)...), nil
		case err != nil:
			return "", fmt.Errorf("look at %s: %w", next, err)
		case info.IsDir():
			seen = next
		case info.Mode().Type() == fs.ModeSymlink:
			if links++; links > maxLinks {
				return "", fmt.Errorf("%s: too many symbolic links", next)
			}
			to, err := os.Readlink(next)
			if err != nil {
				return "", fmt.Errorf("look at %s: %w", next, err)
			}
			if filepath.IsAbs(to) {
				seen = "/"
			}
			rest = append(strings.Split(strings.Trim(to, "/"), "/"), rest...)
		default:
			return "", fmt.Errorf("%s is not a folder", next)
		}
	}
	return seen, nil
}

// guarded says who else than root could put a link in the way of dir, between
// this look and the mount.
func (r rules) guarded(dir string) error {
	base := r.base(dir)
	for parent := filepath.Dir(dir); within(parent, base); parent = filepath.Dir(parent) {
		info, err := os.Lstat(parent)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("look at %s: %w", parent, err)
		}
		owner, ok := info.Sys().(*syscall.Stat_t)
		switch {
		case ok && owner.Uid != 0 && int64(owner.Uid) != int64(os.Geteuid()):
			return fmt.Errorf("%s belongs to user %d, who could put a link in the way; it has to belong to root", parent, owner.Uid)
		case info.Mode().Perm()&0o022 != 0:
			return fmt.Errorf("%s may be written by others (mode %04o), who could put a link in the way; take that away with chmod go-w", parent, info.Mode().Perm())
		}
	}
	return nil
}
