package logs

import (
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// spoolsDir holds a folder for each target.
const spoolsDir = "spools"

// keepSpool is how long the spool of a target stays that nobody writes to.
const keepSpool = 7 * 24 * time.Hour

// folderOf returns the name of a target's folder. A name is whatever somebody
// called it, so only what cannot mislead is taken over, and a digest.
func folderOf(name string) string {
	sum := sha256.Sum256([]byte(name))
	plain := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '_'
	}, name)
	return plain[:min(len(plain), 40)] + "-" + hex.EncodeToString(sum[:6])
}

// sweep removes spools that were not written to for keepSpool, of targets that
// this configuration lacks.
func (e *Engine) sweep() {
	keep := map[string]bool{}
	for name := range e.cfg.Desired.Current().State().LogCollection {
		keep[folderOf(name)] = true
	}
	root := filepath.Join(e.cfg.Dir, spoolsDir)
	folders, err := os.ReadDir(root)
	if err != nil {
		e.cfg.Log.Error("list log spools", slog.Any("err", err))
		return
	}
	for _, f := range folders {
		if keep[f.Name()] || !f.IsDir() || time.Since(newest(filepath.Join(root, f.Name()))) < keepSpool {
			continue
		}
		if err := os.RemoveAll(filepath.Join(root, f.Name())); err != nil {
			e.cfg.Log.Error("remove log spool of a target that is gone", slog.Any("err", err))
		}
	}
}

// newest returns when something in the folder was written last; now, if that
// cannot be known.
func newest(dir string) time.Time {
	files, err := os.ReadDir(dir)
	if err != nil {
		return time.Now()
	}
	var last time.Time
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			return time.Now()
		}
		if info.ModTime().After(last) {
			last = info.ModTime()
		}
	}
	return last
}
