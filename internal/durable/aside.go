package durable

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// keepAside is how many damaged copies of one file are kept: enough to look at,
// too few to fill a disk.
const keepAside = 3

// SetAside renames a damaged file (or folder) to <path>.corrupt-<unix seconds>,
// with a running number behind it when there are several in one second, and
// returns that name. Of all the copies set aside from path only the newest few
// are kept. When only the tidying up fails, the error comes with the name.
func SetAside(path string) (string, error) {
	dir := filepath.Dir(path)
	copies, err := asideOf(path)
	if err != nil {
		return "", fmt.Errorf("set aside: %w", err)
	}
	name := filepath.Base(path) + ".corrupt-" + strconv.FormatInt(time.Now().Unix(), 10)
	if len(copies) > 0 {
		name = after(copies[len(copies)-1], name)
	}
	aside := filepath.Join(dir, name)
	if err := os.Rename(path, aside); err != nil {
		return "", fmt.Errorf("set aside: %w", err)
	}
	var errs []error
	for _, old := range copies[:max(0, len(copies)+1-keepAside)] {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, old)))
	}
	errs = append(errs, SyncDir(dir))
	if err := errors.Join(errs...); err != nil {
		return aside, fmt.Errorf("set aside %s: %w", path, err)
	}
	return aside, nil
}

// after returns name, or, when newest is of the same second, name with the
// number that sorts behind newest.
func after(newest, name string) string {
	rest, same := strings.CutPrefix(newest, name)
	if !same {
		return name
	}
	n, _ := strconv.Atoi(strings.TrimPrefix(rest, "-"))
	return fmt.Sprintf("%s-%03d", name, n+1)
}

// asideOf returns the names of the copies of path, the oldest first.
func asideOf(path string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), filepath.Base(path)+".corrupt-") {
			names = append(names, e.Name())
		}
	}
	// Unix seconds have ten digits until the year 2286: they sort as text.
	slices.Sort(names)
	return names, nil
}
