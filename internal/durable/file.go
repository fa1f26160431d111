package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// TempPrefix begins the name of every temporary file made here, so that what a
// crash left behind is recognised.
const TempPrefix = ".flotta-tmp-"

// Step names a point inside Writer.WriteFile, in the order of the constants.
type Step string

// The steps of a replacement. Everything before StepRename leaves the old file
// in place; everything after it leaves the new one.
const (
	StepCreate  Step = "create"
	StepPerm    Step = "perm"
	StepWrite   Step = "write"
	StepSync    Step = "sync"
	StepClose   Step = "close"
	StepRename  Step = "rename"
	StepSyncDir Step = "syncdir"
	StepDone    Step = "done"
)

// Writer replaces files. The zero value is ready for use; the package functions
// use it.
type Writer struct {
	// Fault is the seam for tests of disks that fail and of crashes: it is
	// called before each step, and an error from it is the step's error. At
	// StepWrite half of the data is written first, as on a disk that fills up.
	Fault func(step Step, path string) error
}

// WriteFile replaces the content of path. The data is on the disk under its
// name when WriteFile returns nil. On an error the old file is intact and no
// temporary file is left, with one exception: when only the last step, the
// fsync of the folder, fails, the new content is in place but may be lost in a
// power cut; the caller writes again.
//
// The file gets exactly perm, whatever the umask is, before any data is in it,
// and belongs to the calling process. A symlink at path is replaced, not
// followed. Of concurrent writers the last one to finish wins.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	return Writer{}.WriteFile(path, data, perm)
}

// WriteFile is the package's WriteFile with the writer's faults.
func (w Writer) WriteFile(path string, data []byte, perm fs.FileMode) error {
	dir := filepath.Dir(path)
	temp, err := w.writeTemp(dir, path, data, perm)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := w.step(StepRename, path, func() error { return os.Rename(temp, path) }); err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, os.Remove(temp)))
	}
	if err := w.step(StepSyncDir, path, func() error { return SyncDir(dir) }); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return w.step(StepDone, path, func() error { return nil })
}

// writeTemp returns the name of a closed and synced temporary file in dir with
// data in it. On an error there is no such file.
func (w Writer) writeTemp(dir, path string, data []byte, perm fs.FileMode) (_ string, err error) {
	var f *os.File
	err = w.step(StepCreate, path, func() error {
		// CreateTemp opens with O_EXCL and mode 0600: nobody else can have put
		// a file or a link there.
		f, err = os.CreateTemp(dir, TempPrefix+"*")
		return err
	})
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			_ = f.Close() // the second Close of a closed file is harmless
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if err := w.step(StepPerm, path, func() error { return f.Chmod(perm) }); err != nil {
		return "", err
	}
	if err := w.write(f, path, data); err != nil {
		return "", err
	}
	if err := w.step(StepSync, path, f.Sync); err != nil {
		return "", err
	}
	if err := w.step(StepClose, path, f.Close); err != nil {
		return "", err
	}
	return f.Name(), nil
}

func (w Writer) write(f *os.File, path string, data []byte) error {
	if w.Fault != nil {
		if err := w.Fault(StepWrite, path); err != nil {
			_, werr := f.Write(data[:len(data)/2])
			return errors.Join(err, werr)
		}
	}
	n, err := f.Write(data)
	if err == nil && n < len(data) {
		err = io.ErrShortWrite
	}
	return err
}

func (w Writer) step(s Step, path string, do func() error) error {
	if w.Fault != nil {
		if err := w.Fault(s, path); err != nil {
			return err
		}
	}
	return do()
}

// SyncDir makes the names in dir durable: files created in, renamed in or
// removed from it.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}

// Sweep removes the temporary files that a crash left in dir; folders below it
// are not entered. It must not run while another goroutine or process writes in
// dir, because it cannot tell a leftover from a file being written: call it at
// start, under Lock. A dir that does not exist has nothing to sweep.
func Sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if !e.Type().IsRegular() || !strings.HasPrefix(e.Name(), TempPrefix) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	return nil
}
