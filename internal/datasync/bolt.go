package datasync

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// bolt is the file of the index. It makes errors of the panics that bbolt
// answers damaged pages with, and replaces a file that turned out to be damaged
// by an empty one.
//
// The list of free pages stays in the file, although it would be faster without:
// bbolt finds free pages anew in a goroutine of its own, where nobody can catch
// its panics.
type bolt struct {
	path  string
	log   *slog.Logger
	fresh func() // called when an empty file took the place of a damaged one

	mu sync.RWMutex // held for writing while the file is replaced
	db *bbolt.DB
}

// openBolt opens the file. An error other than of the system and ErrIndexLocked
// is a *damagedError.
func openBolt(path string) (db *bbolt.DB, err error) {
	defer recoverDamage(debug.SetPanicOnFault(true), &err)
	db, err = bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: lockTimeout, FreelistType: bbolt.FreelistMapType,
	})
	switch {
	case err == nil:
		return db, nil
	case errors.Is(err, bbolterrors.ErrTimeout):
		return nil, fmt.Errorf("open %s: %w", path, ErrIndexLocked)
	}
	if _, ok := errors.AsType[*os.PathError](err); ok {
		return nil, fmt.Errorf("open index: %w", err)
	}
	return nil, &damagedError{reason: err}
}

// damagedError says that the file is there and is not a sound index.
type damagedError struct{ reason any }

func (e *damagedError) Error() string { return fmt.Sprintf("damaged index: %v", e.reason) }

func isDamage(err error) bool {
	_, ok := errors.AsType[*damagedError](err)
	return ok
}

// recoverDamage makes an error of a panic over damaged pages. It is deferred,
// and takes the former setting of SetPanicOnFault, which it restores: a page
// beyond the end of a truncated file is a fault, not a panic, without it.
func recoverDamage(before bool, err *error) {
	debug.SetPanicOnFault(before)
	if reason := recover(); reason != nil {
		*err = &damagedError{reason: reason}
	}
}

// View runs read in a transaction of its own. It must not be called within
// another one.
func (b *bolt) View(read func(*bbolt.Tx) error) error {
	return b.run(func(db *bbolt.DB) error { return db.View(read) })
}

// Update runs change in a transaction that is on disk when it returns nil.
func (b *bolt) Update(change func(*bbolt.Tx) error) error {
	return b.run(func(db *bbolt.DB) error { return db.Update(change) })
}

func (b *bolt) run(do func(*bbolt.DB) error) error {
	db, err := b.guarded(do)
	if isDamage(err) {
		b.replace(db, err)
	}
	return err
}

func (b *bolt) guarded(do func(*bbolt.DB) error) (db *bbolt.DB, err error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	defer recoverDamage(debug.SetPanicOnFault(true), &err)
	db = b.db // before anything panics
	return db, beyond(do(db))
}

// replace sets the file aside and goes on with an empty one. The damaged one is
// not closed, because a panic may have left its locks held.
func (b *bolt) replace(damaged *bbolt.DB, reason error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.db != damaged {
		return
	}
	if err := setAside(b.path, reason, b.log); err != nil && !errors.Is(err, os.ErrNotExist) {
		b.log.Error("replace damaged sync index", slog.Any("err", err))
		return
	}
	db, err := openBolt(b.path)
	if err == nil {
		err = prepare(db)
	}
	if err != nil {
		b.log.Error("replace damaged sync index", slog.Any("err", err))
		return
	}
	b.db = db
	b.fresh()
}

// setAside keeps a damaged file for whoever wants to know why.
func setAside(path string, reason error, log *slog.Logger) error {
	aside := path + ".corrupt"
	if err := os.Rename(path, aside); err != nil {
		return fmt.Errorf("set aside index %s: %w", path, err)
	}
	log.Warn("set aside damaged sync index", slog.String("path", aside), slog.Any("err", reason))
	return nil
}

// prepare makes the buckets that every index has.
func prepare(db *bbolt.DB) (err error) {
	defer recoverDamage(debug.SetPanicOnFault(true), &err)
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketMeta, bucketUploads, bucketRoutes} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return tx.Bucket(bucketMeta).Put(keyFormat, []byte(indexFormat))
	})
	if err = beyond(err); err != nil && !isDamage(err) {
		return fmt.Errorf("prepare index: %w", err)
	}
	return err
}

// beyond makes damage of a write to where no file can reach: bbolt believes its
// list of free pages unseen.
func beyond(err error) error {
	var where *os.PathError
	if errors.Is(err, unix.EFBIG) || errors.Is(err, unix.EINVAL) || errors.As(err, &where) && where.Op == "writeat" {
		return &damagedError{reason: err}
	}
	return err
}

// Stats returns what bbolt counted.
func (b *bolt) Stats() bbolt.Stats {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.db.Stats()
}

// Close releases the file.
func (b *bolt) Close() (err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer recoverDamage(debug.SetPanicOnFault(true), &err)
	return b.db.Close()
}
