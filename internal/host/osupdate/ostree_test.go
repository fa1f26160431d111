//go:build !integration

package osupdate

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"
)

// realOstree says that ostree is the distribution's, and not a stand-in.
const realOstree = false

// stride leaves steps out at which an update could be interrupted: thousands of
// programs are started for all of them.
const stride = 3

// repository returns the path of a new repository.
func repository(t *testing.T) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "repo")
}

// commit makes a commit with text in it, of which the repository has but the
// name.
func commit(t *testing.T, repo, text string) string {
	t.Helper()
	sum := sha256.Sum256([]byte(text))
	id := hex.EncodeToString(sum[:])
	dir := filepath.Join(repo, "objects", id[:2])
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, id[2:]+".commit"), text)
	return id
}
