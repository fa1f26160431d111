package device

import (
	"os"
	"path/filepath"
	"testing"
)

// TestRecordOfTheNextDevice: a slot that was freed may be taken again at once, by
// another test or by another process.
func TestRecordOfTheNextDevice(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := reaper{record: filepath.Join(dir, "7")}
	claim := func() {
		t.Helper()
		draft := filepath.Join(dir, "draft")
		if err := os.Mkdir(draft, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(draft, r.record); err != nil {
			t.Fatal(err)
		}
	}
	claim()
	var err error
	if r.folder, err = os.Stat(r.record); err != nil {
		t.Fatal(err)
	}
	if !r.left() {
		t.Error("a record that is still there is not seen")
	}
	// As a claim does, the next one is complete before the name is free.
	if err := os.Rename(r.record, filepath.Join(dir, "old")); err != nil {
		t.Fatal(err)
	}
	if r.left() {
		t.Error("a record that is gone is seen")
	}
	claim()
	if r.left() {
		t.Error("the record of the next device is taken for that of the last one")
	}
}
