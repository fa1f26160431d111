package file

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
)

// keeper keeps a copy of the last good version of every manifest, so that a file
// that is broken when the server starts still counts as it did before. A copy is
// the SHA-256 of the text, a newline, and the text; it is written without fsync,
// because one that a power cut tore is recognised and merely missing.
type keeper struct {
	dir string
	log *slog.Logger
}

func (k keeper) path(rel string) string {
	sum := sha256.Sum256([]byte(rel))
	return filepath.Join(k.dir, hex.EncodeToString(sum[:16]))
}

// recall returns the objects of the last good version of a file.
func (k keeper) recall(rel string) []object {
	data, err := os.ReadFile(k.path(rel))
	if err != nil {
		return nil
	}
	head, text, ok := bytes.Cut(data, []byte("\n"))
	sum := sha256.Sum256(text)
	if !ok || string(head) != hex.EncodeToString(sum[:]) {
		return nil
	}
	objects, _ := decodeManifest(rel, text)
	return objects
}

// remember stores text as the last good version of a file.
func (k keeper) remember(rel string, text []byte) {
	path := k.path(rel)
	sum := sha256.Sum256(text)
	data := append([]byte(hex.EncodeToString(sum[:])+"\n"), text...)
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return
	}
	temp := path + ".new"
	err := os.WriteFile(temp, data, 0o600)
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		k.log.Warn("last good version of a manifest not kept", "path", rel, "err", err)
	}
}

// forget removes the copy of a file.
func (k keeper) forget(rel string) {
	if err := os.Remove(k.path(rel)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		k.log.Warn("copy of a removed manifest not removed", "path", rel, "err", err)
	}
}

// prune removes the copies of files that are no more.
func (k keeper) prune(files map[string]*manifest) {
	wanted := make(map[string]bool, len(files))
	for rel := range files {
		wanted[k.path(rel)] = true
	}
	entries, err := os.ReadDir(k.dir)
	if err != nil {
		k.log.Warn("copies of manifests not listed", "err", err)
	}
	for _, entry := range entries {
		if path := filepath.Join(k.dir, entry.Name()); !wanted[path] {
			_ = os.Remove(path) // tried again at the next start
		}
	}
}
