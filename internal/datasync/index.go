package datasync

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
)

// The index is one bbolt file.
//
//	meta                 "format" = "1"
//	uploads              workload = time of its last upload, Unix milliseconds as a varint
//	routes/<route>/files path in the volume = record
//	routes/<route>/hints key in the bucket = size, ETag
//	routes/<route>       "seeded": the bucket was listed since the index is new
//
// <route> is workload, direction, endpoint, bucket, folder and prefix with NUL
// between them. A record or hint is a format byte, its fields, and a CRC-32.
const (
	indexFormat = "1"
	lockTimeout = 2 * time.Second
)

var (
	bucketMeta    = []byte("meta")
	bucketUploads = []byte("uploads")
	bucketRoutes  = []byte("routes")
	bucketFiles   = []byte("files")
	bucketHints   = []byte("hints")
	keyFormat     = []byte("format")
	keySeeded     = []byte("seeded")
)

// ErrIndexLocked says that another process works with the same index.
var ErrIndexLocked = errors.New("index is in use by another process")

// index is safe for concurrent use.
type index struct {
	db *bbolt.DB

	mu     sync.Mutex
	counts map[string]int // files a route has records of
}

// openIndex opens the index, or a new one when there is none or it is damaged;
// a damaged one is kept beside it for whoever wants to know why.
func openIndex(path string, log *slog.Logger) (*index, error) {
	ix, err := tryIndex(path)
	if err == nil || errors.Is(err, ErrIndexLocked) {
		return ix, err
	}
	if _, ok := errors.AsType[*damagedError](err); !ok {
		return nil, err
	}
	aside := path + ".corrupt"
	log.Warn("set aside damaged sync index", slog.String("path", aside), slog.Any("err", err))
	if err := os.Rename(path, aside); err != nil {
		return nil, fmt.Errorf("set aside index %s: %w", path, err)
	}
	return tryIndex(path)
}

// damagedError says that the file is there and is not a sound index.
type damagedError struct{ reason any }

func (e *damagedError) Error() string { return fmt.Sprintf("damaged index: %v", e.reason) }

// tryIndex opens the index and reads all of it once: bbolt itself checks no more
// than the two meta pages, and panics later on what is wrong in others.
func tryIndex(path string) (ix *index, err error) {
	db, err := openBolt(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, db.Close())
		}
	}()
	ix = &index{db: db}
	if ix.counts, err = verify(db); err != nil {
		return nil, err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketMeta, bucketUploads, bucketRoutes} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return tx.Bucket(bucketMeta).Put(keyFormat, []byte(indexFormat))
	})
	if err != nil {
		return nil, fmt.Errorf("prepare index %s: %w", path, err)
	}
	return ix, nil
}

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

// recoverDamage makes an error of a panic over damaged pages. It is deferred,
// and takes the former setting of SetPanicOnFault, which it restores: a page
// beyond the end of a truncated file is a fault, not a panic, without it.
func recoverDamage(before bool, err *error) {
	debug.SetPanicOnFault(before)
	if reason := recover(); reason != nil {
		*err = &damagedError{reason: reason}
	}
}

// verify reads every key and value, and counts the files of each route.
func verify(db *bbolt.DB) (counts map[string]int, err error) {
	defer recoverDamage(debug.SetPanicOnFault(true), &err)
	counts = map[string]int{}
	err = db.View(func(tx *bbolt.Tx) error {
		if meta := tx.Bucket(bucketMeta); meta != nil {
			if format := meta.Get(keyFormat); string(format) != indexFormat {
				return &damagedError{reason: fmt.Sprintf("unknown format %q", format)}
			}
		}
		routes := tx.Bucket(bucketRoutes)
		if routes == nil {
			return nil
		}
		return routes.ForEachBucket(func(name []byte) error {
			n, err := verifyRoute(routes.Bucket(name))
			counts[string(name)] = n
			return err
		})
	})
	return counts, err
}

func verifyRoute(b *bbolt.Bucket) (int, error) {
	n := 0
	for _, name := range [][]byte{bucketFiles, bucketHints} {
		sub := b.Bucket(name)
		if sub == nil {
			continue
		}
		var before []byte
		err := sub.ForEach(func(k, v []byte) error {
			if before != nil && bytes.Compare(before, k) >= 0 {
				return &damagedError{reason: "keys out of order"}
			}
			before = append(before[:0], k...)
			_ = crc32.ChecksumIEEE(v) // touches every byte of the value
			if bytes.Equal(name, bucketFiles) {
				n++
			}
			return nil
		})
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func (ix *index) close() error { return ix.db.Close() }

// routeID names a route in the index: what was transferred to one bucket says
// nothing about another.
func routeID(workload string, d direction, store string, r route) string {
	return strings.Join([]string{workload, string(d), store, r.local, r.prefix}, "\x00")
}

// count returns how many files of the route have a record.
func (ix *index) count(id string) int {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	return ix.counts[id]
}

// indexView reads one route's part of the index within a transaction.
type indexView struct{ files, hints *bbolt.Bucket }

// record returns what was recorded for the path; a damaged record is none.
func (v indexView) record(path string) (record, bool) {
	if v.files == nil {
		return record{}, false
	}
	return decodeRecord(v.files.Get([]byte(path)))
}

// hint returns what the bucket held under key when the route was seeded.
func (v indexView) hint(key string) (hint, bool) {
	if v.hints == nil {
		return hint{}, false
	}
	return decodeHint(v.hints.Get([]byte(key)))
}

// view calls read with the route's part of the index. What read keeps it has to
// copy; records and hints are copies.
func (ix *index) view(id string, read func(indexView) error) error {
	return ix.db.View(func(tx *bbolt.Tx) error {
		var v indexView
		if b := tx.Bucket(bucketRoutes).Bucket([]byte(id)); b != nil {
			v.files, v.hints = b.Bucket(bucketFiles), b.Bucket(bucketHints)
		}
		return read(v)
	})
}

// update changes the route's part of the index in one transaction, which is on
// disk when it returns nil.
func (ix *index) update(id string, change func(b *bbolt.Bucket) error) error {
	err := ix.db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.Bucket(bucketRoutes).CreateBucketIfNotExists([]byte(id))
		if err != nil {
			return err
		}
		return change(b)
	})
	if err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	return nil
}

// put records files of the route, all or none; uploaded, unless it is zero, is
// the time of the last upload among them.
func (ix *index) put(id string, records map[string]record, uploaded time.Time) error {
	added := 0
	err := ix.update(id, func(b *bbolt.Bucket) error {
		added = 0
		files, err := b.CreateBucketIfNotExists(bucketFiles)
		if err != nil {
			return err
		}
		for path, r := range records {
			if files.Get([]byte(path)) == nil {
				added++
			}
			if err := files.Put([]byte(path), r.encode()); err != nil {
				return err
			}
		}
		if uploaded.IsZero() {
			return nil
		}
		workload, _, _ := strings.Cut(id, "\x00")
		v := binary.AppendVarint(nil, uploaded.UnixMilli())
		return b.Tx().Bucket(bucketUploads).Put([]byte(workload), v)
	})
	if err == nil {
		ix.add(id, added)
	}
	return err
}

// forget removes the records of paths.
func (ix *index) forget(id string, paths []string) error {
	removed := 0
	err := ix.update(id, func(b *bbolt.Bucket) error {
		removed = 0
		files := b.Bucket(bucketFiles)
		for _, path := range paths {
			if files == nil || files.Get([]byte(path)) == nil {
				continue
			}
			removed++
			if err := files.Delete([]byte(path)); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		ix.add(id, -removed)
	}
	return err
}

func (ix *index) add(id string, n int) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	ix.counts[id] += n
}

// paths returns up to limit recorded paths after the given one, in order.
func (ix *index) paths(id, after string, limit int) ([]string, error) {
	var out []string
	err := ix.view(id, func(v indexView) error {
		if v.files == nil {
			return nil
		}
		c := v.files.Cursor()
		k, _ := c.Seek([]byte(after))
		if k != nil && after != "" && string(k) == after {
			k, _ = c.Next()
		}
		for ; k != nil && len(out) < limit; k, _ = c.Next() {
			out = append(out, string(k))
		}
		return nil
	})
	return out, err
}

// seeded reports whether the bucket was listed since the route is in the index.
func (ix *index) seeded(id string) bool {
	done := false
	_ = ix.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketRoutes).Bucket([]byte(id))
		done = b != nil && b.Get(keySeeded) != nil
		return nil
	})
	return done
}

// putHints stores a page of what the bucket holds.
func (ix *index) putHints(id string, hints map[string]hint) error {
	return ix.update(id, func(b *bbolt.Bucket) error {
		sub, err := b.CreateBucketIfNotExists(bucketHints)
		if err != nil {
			return err
		}
		for key, h := range hints {
			if err := sub.Put([]byte(key), h.encode()); err != nil {
				return err
			}
		}
		return nil
	})
}

// setSeeded records that all hints of the route are there.
func (ix *index) setSeeded(id string) error {
	return ix.update(id, func(b *bbolt.Bucket) error { return b.Put(keySeeded, []byte{1}) })
}

// dropHints removes the hints of a route that needs them no more.
func (ix *index) dropHints(id string) error {
	have := false
	err := ix.view(id, func(v indexView) error {
		have = v.hints != nil
		return nil
	})
	if err != nil || !have {
		return err
	}
	return ix.update(id, func(b *bbolt.Bucket) error { return b.DeleteBucket(bucketHints) })
}

// lastUploads returns when each workload last uploaded a file.
func (ix *index) lastUploads() (map[string]time.Time, error) {
	out := map[string]time.Time{}
	err := ix.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketUploads).ForEach(func(k, v []byte) error {
			if ms, n := binary.Varint(v); n > 0 {
				out[string(k)] = time.UnixMilli(ms)
			}
			return nil
		})
	})
	return out, err
}
