package apply

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/project-flotta/flotta-agent/internal/host/mounts"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// maxMounts is more disks than a device has.
const maxMounts = 64

// maxShown bounds what is shown of a value that makes no sense.
const maxShown = 80

// target is one configured mount.
type target struct {
	mount // empty as far as it makes no sense

	dir     string // as it is configured, which may lead through symbolic links to where
	unit    string // empty: its folder makes no sense
	shown   Mount  // what is said of it
	refused error  // why it is not mounted; nil: it may be
}

// plan says what the configured mounts come to, those with a folder first and by
// folder, so that what lies below another one comes after it.
func (r *Reconciler) plan(list []protocol.Mount, table []mounts.Mount) []target {
	rest := max(0, len(list)-maxMounts)
	var out []target
	rules := r.kernel.rules(r.cfg)
	for i, m := range list[:len(list)-rest] {
		t := r.check(m, table, rules)
		for _, other := range out {
			if t.refused == nil && (t.where == other.where || other.refused == nil && t.device == other.device) {
				t.refused = fmt.Errorf("%s is in the configuration before, at %s; each device and each folder can be there once",
					other.device, other.where)
			}
		}
		if t.where == "" {
			t.shown.Directory = cmp.Or(t.shown.Directory, fmt.Sprintf("(entry %d)", i+1))
		}
		out = append(out, t)
	}
	slices.SortStableFunc(out, func(a, b target) int { return cmp.Compare(a.where, b.where) })
	if rest > 0 {
		err := fmt.Errorf("the configuration has %d mounts, and only the first %d are looked at", len(list), maxMounts)
		out = append(out, target{shown: Mount{Directory: "(the rest)"}, refused: err})
	}
	return out
}

// check says what one configured mount comes to.
func (r *Reconciler) check(m protocol.Mount, table []mounts.Mount, rules rules) target {
	t := target{shown: Mount{
		Device: printable(m.Device), Directory: printable(m.Directory), Type: printable(m.Type), Options: printable(m.Options),
	}}
	dir := m.Directory
	if dir != "/" {
		dir = strings.TrimSuffix(dir, "/")
	}
	err := checkPath(dir)
	if err == nil {
		err = checkUnitName(dir)
	}
	if err != nil {
		t.refused = fmt.Errorf("directory: %w", err)
		return t
	}
	mounted := func(dir string) bool { _, n := at(table, dir); return n > 0 }
	seen, err := rules.resolve(dir, mounted)
	if err == nil {
		err = checkUnitName(seen)
	}
	if err != nil {
		// What is mounted there from earlier times stays.
		t.dir, t.where = dir, dir
		if seen, err := follow(dir, mounted); err == nil {
			t.where = seen
		}
		t.unit = unitName(t.where)
		t.refused = fmt.Errorf("directory: %w", err)
		return t
	}
	t.dir, t.where, t.unit = dir, seen, unitName(seen)
	t.device, t.kind = m.Device, m.Type
	options, wrong := checkOptions(m.Options)
	t.options = options
	t.refused = errors.Join(prefixed("device", checkDevice(m.Device)), prefixed("type", r.kernel.filesystem(m.Type)), prefixed("options", wrong))
	if t.refused == nil {
		_, t.refused = t.text(r.cfg)
	}
	return t
}

func prefixed(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// text returns the unit of the target.
func (t target) text(cfg Config) ([]byte, error) {
	return render(t.mount, cfg.Before, cfg.DeviceTimeout)
}

// parentOf returns the target that the mount lies below; nil: there is none.
func parentOf(all []target, where string) *target {
	var parent *target
	for i, t := range all {
		if t.unit != "" && t.where != where && within(where, t.where) && (parent == nil || within(t.where, parent.where)) {
			parent = &all[i]
		}
	}
	return parent
}

// printable makes a value of somebody else's fit for a log and a person.
func printable(text string) string {
	var b strings.Builder
	for _, r := range text {
		if b.Len() >= maxShown {
			b.WriteString("…")
			break
		}
		if !unicode.IsPrint(r) {
			r = unicode.ReplacementChar
		}
		b.WriteRune(r)
	}
	return b.String()
}

// unitPath returns the file of a unit.
func unitPath(dir, unit string) string { return filepath.Join(dir, unit) }
