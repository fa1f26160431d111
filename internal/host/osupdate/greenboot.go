package osupdate

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/project-flotta/flotta-agent/internal/durable"
)

const (
	redPrefix  = "red-"
	expectName = "expect"
	// maxNotes is how many notes are read; the script keeps the newest 10.
	maxNotes     = 32
	maxNoteBytes = 4 << 10
)

// note is what greenboot's red script left behind of a boot.
type note struct {
	boot       string // the kernel's id of that boot
	deployment string // that was booted, as Deployment.Key; empty: not known
}

// notes is the folder that the scripts of greenboot and the agent share. It is
// below /var, which all deployments have in common.
type notes struct{ dir string }

// red returns the boots that greenboot found red.
func (n notes) red() ([]note, error) {
	names, err := n.names()
	if err != nil {
		return nil, err
	}
	var out []note
	for _, name := range names[:min(len(names), maxNotes)] {
		raw, err := readNote(filepath.Join(n.dir, name))
		if err != nil {
			return nil, err
		}
		if found, ok := parseNote(raw); ok {
			out = append(out, found)
		}
	}
	return out, nil
}

func (n notes) names() ([]string, error) {
	entries, err := os.ReadDir(n.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read notes of greenboot: %w", err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), redPrefix) && e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func readNote(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read note of greenboot: %w", err)
	}
	defer f.Close() //nolint:errcheck // nothing was written
	raw := make([]byte, maxNoteBytes)
	n, err := f.Read(raw)
	if n == 0 && err != nil {
		return nil, nil //nolint:nilerr // an empty note: the power went while it was written
	}
	return raw[:n], nil
}

// parseNote reads lines of the form key=value; false: it names no boot.
func parseNote(raw []byte) (note, bool) {
	var out note
	for line := range strings.Lines(strings.ToValidUTF8(string(raw), "")) {
		switch key, value, _ := strings.Cut(strings.TrimSpace(line), "="); key {
		case "boot":
			out.boot = clip(value, 100)
		case "deployment":
			out.deployment = clip(value, 200)
		}
	}
	return out, out.boot != ""
}

// expect tells greenboot's check what to ask for once that deployment is booted:
// that the device is healthy, or only that its agent runs.
func (n notes) expect(key string, healthy bool) error {
	word := "live"
	if healthy {
		word = "healthy"
	}
	text := fmt.Sprintf("deployment=%s\nexpect=%s\n", key, word)
	path := filepath.Join(n.dir, expectName)
	if have, err := readNote(path); err == nil && string(have) == text {
		return nil
	}
	if err := os.MkdirAll(n.dir, 0o755); err != nil {
		return fmt.Errorf("tell greenboot what to expect: %w", err)
	}
	if err := durable.WriteFile(path, []byte(text), 0o644); err != nil {
		return fmt.Errorf("tell greenboot what to expect: %w", err)
	}
	return nil
}

// forget removes what was expected, and the notes of all boots but the current
// one.
func (n notes) forget(boot string) error {
	names, err := n.names()
	if err != nil {
		return err
	}
	errs := []error{os.Remove(filepath.Join(n.dir, expectName))}
	for _, name := range slices.DeleteFunc(names, func(name string) bool { return name == redPrefix+boot }) {
		errs = append(errs, os.Remove(filepath.Join(n.dir, name)))
	}
	for i, err := range errs {
		if errors.Is(err, fs.ErrNotExist) {
			errs[i] = nil
		}
	}
	return errors.Join(errs...)
}

// redBoot reports whether greenboot found that boot red, or any boot of
// the deployment of that key; empty: neither.
func redBoot(red []note, boot, key string) bool {
	return slices.ContainsFunc(red, func(n note) bool {
		return boot != "" && n.boot == boot || key != "" && n.deployment == key
	})
}
