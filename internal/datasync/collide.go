package datasync

import (
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"unicode"
)

// errSpelling says that a file system which knows several spellings of a name has
// a file of another spelling in an object's place.
var errSpelling = errors.New("the file system takes it for another name that differs in case or in its Unicode form")

// spellings are the names seen in one listing of a route on such a file system:
// of several that would be one file the first is kept. It holds eight bytes for
// each; nil: all spellings are different files.
type spellings struct {
	seed maphash.Seed
	seen map[uint64]struct{}
}

func newSpellings() *spellings {
	return &spellings{seed: maphash.MakeSeed(), seen: map[uint64]struct{}{}}
}

// add reports whether the path is the first of its kind.
func (s *spellings) add(name string) error {
	if s == nil {
		return nil
	}
	sum := maphash.String(s.seed, foldCase(name))
	if _, ok := s.seen[sum]; ok {
		return errSpelling
	}
	s.seen[sum] = struct{}{}
	return nil
}

// foldCase maps all spellings in upper and lower case to one.
func foldCase(s string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
			least = min(least, next)
		}
		return least
	}, s)
}

// folding reports whether the volume's file system knows several spellings of a
// name. It is tried once for a group.
func (c *cycle) folding(v volume) bool {
	if c.inflow.fold == nil {
		fold := c.engine.space.folds
		if fold == nil {
			fold = volume.folds
		}
		folds := fold(v)
		c.inflow.fold = &folds
	}
	return *c.inflow.fold
}

// folds tries other spellings of a temporary file's name: of case, and, in a
// folder of that name, of a character that has two Unicode forms. What can't be
// tried is taken for no.
func (v volume) folds() bool {
	const composed, decomposed = "\u00e9", "e\u0301"
	dir := tempPrefix + strings.Repeat("a", tempDigits)
	_ = v.root.Remove(dir + "/" + composed) // of a run that was killed here
	_ = v.root.Remove(dir)
	if err := v.root.Mkdir(dir, 0o700); err != nil {
		return false
	}
	defer v.root.Remove(dir) //nolint:errcheck // an empty folder.
	if _, err := v.root.Lstat(strings.ToUpper(dir)); err == nil {
		return true
	}
	name := dir + "/" + composed
	f, err := v.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return false
	}
	_ = f.Close()
	defer v.root.Remove(name) //nolint:errcheck // an empty file.
	_, err = v.root.Lstat(dir + "/" + decomposed)
	return err == nil
}

// exactName refuses a name that is there, but only in another spelling.
func exactName(dir *os.File, name string) error {
	if e, err := lstatAt(dir, ".", name); err != nil || e.Kind == kindAbsent {
		return err
	}
	if _, err := dir.Seek(0, io.SeekStart); err != nil {
		return err
	}
	for {
		names, err := dir.Readdirnames(walkBatch)
		if slices.Contains(names, name) {
			return nil
		}
		if errors.Is(err, io.EOF) {
			return errSpelling
		}
		if err != nil {
			return fmt.Errorf("list folder: %w", err)
		}
	}
}

// spelled refuses an object in whose place there is a file of another spelling.
func (r *ingressRun) spelled(op ingressOp) ingressOp {
	f, err := r.volume.openDir(path.Dir(op.Path))
	if err == nil {
		err = exactName(f, path.Base(op.Path))
		_ = f.Close()
	}
	if errors.Is(err, errSpelling) {
		op.Kind, op.Why = opRefuse, err
	}
	return op
}
