package workload

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
)

// newFiles is the name of a folder of files that is being made.
const newFiles = ".files"

// makeFiles makes the folder of files that the plan's pod mounts, if it is
// missing. It belongs to uid and gid, who are the root of the containers; the
// folder around it lets nobody else in. The name says what it holds, and the
// folder gets it last: one that is there is complete.
func (s store) makeFiles(plan manifest.Plan, uid, gid int) error {
	set := plan.Files
	if set.Folder == "" {
		return nil
	}
	if err := s.makeFolder(s.root); err != nil {
		return err
	}
	if err := s.makeFolder(s.path(plan.Name)); err != nil {
		return err
	}
	dir := manifest.FilesFolder(s.root, plan.Name, set)
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	temporary := s.path(plan.Name, newFiles)
	if err := os.RemoveAll(temporary); err != nil {
		return err
	}
	if err := writeFiles(temporary, set, uid, gid); err != nil {
		return fmt.Errorf("make files: %w", err)
	}
	if err := os.Rename(temporary, dir); err != nil {
		return err
	}
	return durable.SyncDir(s.path(plan.Name))
}

// writeFiles writes a set into a folder that it makes.
func writeFiles(root string, set manifest.FileSet, uid, gid int) error {
	made := map[string]bool{}
	var folders []string
	folder := func(path string) error {
		for _, dir := range ancestors(path) {
			if made[dir] {
				continue
			}
			if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
				return err
			}
			made[dir] = true
			folders = append(folders, filepath.Join(root, dir))
		}
		return nil
	}
	for _, volume := range set.Volumes {
		if err := folder(volume); err != nil {
			return err
		}
	}
	for _, file := range set.Files {
		if err := folder(filepath.Dir(file.Path)); err != nil {
			return err
		}
		if err := writeFile(filepath.Join(root, file.Path), file, uid, gid); err != nil {
			return err
		}
	}
	for _, dir := range slices.Backward(folders) {
		err := errors.Join(os.Chown(dir, uid, gid), os.Chmod(dir, 0o755), durable.SyncDir(dir)) // nobody else gets as far as here
		if err != nil {
			return err
		}
	}
	return nil
}

// ancestors returns the folders on the way to path, and path itself, from the
// one around all.
func ancestors(path string) []string {
	out := []string{"."}
	for i, c := range path {
		if c == filepath.Separator {
			out = append(out, path[:i])
		}
	}
	if path != "." {
		out = append(out, path)
	}
	return out
}

func writeFile(path string, file manifest.File, uid, gid int) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(file.Data.Reveal())
	return errors.Join(err, f.Chown(uid, gid), f.Chmod(file.Mode), f.Sync(), f.Close())
}

// sweepFiles removes the folders of files that no manifest of the workload
// mounts, and what a crash left of one. The caller owns the workload.
func (s store) sweepFiles(name string) error {
	entries, err := os.ReadDir(s.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var manifests strings.Builder
	for _, file := range []string{manifestFile, nextFile, previousFile} {
		data, err := os.ReadFile(s.path(name, file))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		manifests.Write(data)
	}
	for _, e := range entries {
		if e.Name() != newFiles && !manifest.IsFilesFolder(e.Name()) || strings.Contains(manifests.String(), e.Name()+"/") {
			continue
		}
		if err := os.RemoveAll(s.path(name, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
