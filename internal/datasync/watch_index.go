package datasync

import (
	"bytes"
	"strings"
)

// sweepStep is how many records are looked at in one transaction.
const sweepStep = 1024

// forgetOthers forgets the records that contradict what was found: of a path
// where no file is, and below one where no folder is.
func (r *egressRun) forgetOthers(looked []entry) error {
	if len(looked) == 0 {
		return nil
	}
	for {
		var gone []string
		err := r.index.view(r.id, func(v indexView) error {
			gone = v.contradicting(looked, sweepStep)
			return nil
		})
		if err != nil || len(gone) == 0 {
			return err
		}
		if err := r.index.forget(r.id, gone); err != nil {
			return err
		}
	}
}

// contradicting returns up to limit paths of such records.
func (v indexView) contradicting(looked []entry, limit int) (paths []string) {
	if v.files == nil {
		return nil
	}
	c := v.files.Cursor()
	for _, e := range looked {
		if e.Kind == kindAbsent || e.Kind == kindDir {
			if k, _ := c.Seek([]byte(e.Path)); string(k) == e.Path {
				paths = append(paths, e.Path)
			}
		}
		if e.Kind == kindDir {
			continue
		}
		below := []byte(e.Path + "/")
		for k, _ := c.Seek(below); bytes.HasPrefix(k, below) && len(paths) < limit; k, _ = c.Next() {
			paths = append(paths, string(k))
		}
		if len(paths) >= limit {
			break
		}
	}
	return paths
}

// forgetGone forgets the files below a folder that are gone, when there are more
// records than files were seen.
func (r *egressRun) forgetGone(prefix string, seen int) error {
	n := 0
	err := r.index.view(r.id, func(v indexView) error {
		if v.files == nil {
			return nil
		}
		c := v.files.Cursor()
		for k, _ := c.Seek([]byte(prefix)); bytes.HasPrefix(k, []byte(prefix)) && n <= seen; k, _ = c.Next() {
			n++
		}
		return nil
	})
	if err != nil || n <= seen {
		return err
	}
	for after := prefix; ; {
		paths, err := r.index.paths(r.id, after, sweepStep)
		if err != nil {
			return err
		}
		var gone []string
		ended := len(paths) == 0
		for _, name := range paths {
			if !strings.HasPrefix(name, prefix) {
				ended = true
				break
			}
			if e, err := r.volume.lstat(name); err == nil && e.Kind == kindAbsent {
				gone = append(gone, name)
			}
			after = name
		}
		if len(gone) > 0 {
			if err := r.index.forget(r.id, gone); err != nil {
				return err
			}
		}
		if ended {
			return nil
		}
	}
}
