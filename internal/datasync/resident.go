package datasync

import (
	"fmt"
	"os"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// unloadEvery is how many records may be read before the memory they occupy is
// given back: about 4 MiB of them.
const unloadEvery = 16384

// unloadUses is how many transactions may be made before: each reads a batch of
// a few hundred records at most.
const unloadUses = 32

// unload gives back the memory of what was read of the index, which is mapped:
// a million records are a quarter of a gigabyte, of which a device needs a few
// pages at a time. What is read again comes from the page cache, or from disk.
//
// The mapping stays where it is as long as the transaction is open, and only
// clean pages of the file are in it, so that nothing can be lost. Of a file that
// was cut off the transaction claims more than is mapped, and what lies behind
// the mapping is anybody's, the heap's for one.
func unload(tx *bbolt.Tx) {
	info, err := os.Stat(tx.DB().Path())
	if err != nil {
		return
	}
	size := max(0, min(tx.Size(), info.Size()))
	// A mapping that can't be unloaded is no failure.
	_, _, _ = unix.Syscall(unix.SYS_MADVISE, tx.DB().Info().Data, uintptr(size), unix.MADV_DONTNEED)
}

// checkSize finds a file that was cut off before anything reads behind its end.
func checkSize(tx *bbolt.Tx) error {
	info, err := os.Stat(tx.DB().Path())
	if err != nil {
		return err
	}
	if tx.Size() <= 0 || info.Size() < tx.Size() {
		return &damagedError{reason: fmt.Sprintf("cut off: %d of %d bytes", info.Size(), tx.Size())}
	}
	return nil
}

// used counts a transaction that read, and gives back what it and those before
// it have read once these are many.
func (ix *index) used(tx *bbolt.Tx) {
	if ix.uses.Add(1)%unloadUses == 0 {
		unload(tx)
	}
}

// wrote is used for a transaction that has written.
func (ix *index) wrote() {
	if ix.uses.Add(1)%unloadUses == 0 {
		ix.unload()
	}
}

// unload gives back what was read.
func (ix *index) unload() {
	_ = ix.db.View(func(tx *bbolt.Tx) error {
		unload(tx)
		return nil
	})
}
