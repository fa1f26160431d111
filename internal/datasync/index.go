package datasync

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
)

// The index is one bbolt file.
//
//	meta                 "format" = "1"
//	uploads              workload = time of its last upload, Unix milliseconds as a varint
//	routes/<route>/files path in the volume = record
//	routes/<route>/hints key in the bucket = size, ETag
//	routes/<route>       "seeded": the bucket was listed since the index is new
//	routes/<route>/begun, orphans
//	                     uploads in parts, see journal.go
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
	bucketBegun   = []byte("begun")
	bucketOrphans = []byte("orphans")
	keyFormat     = []byte("format")
	keySeeded     = []byte("seeded")
)

// ErrIndexLocked says that another process works with the same index.
var ErrIndexLocked = errors.New("index is in use by another process")

// index is safe for concurrent use.
type index struct {
	db *bolt

	mu     sync.Mutex
	counts map[string]int // files a route has records of

	uses atomic.Int64 // see resident.go
}

// openIndex opens the index, or a new one when there is none or it is damaged.
func openIndex(path string, log *slog.Logger) (*index, error) {
	ix, err := tryIndex(path)
	if isDamage(err) {
		if err := setAside(path, err, log); err != nil {
			return nil, err
		}
		ix, err = tryIndex(path)
	}
	if err != nil {
		return nil, err
	}
	ix.db.log = log
	return ix, nil
}

// tryIndex opens the index and reads all of it once: bbolt itself checks no more
// than the two meta pages. A million records are read in half a second.
func tryIndex(path string) (ix *index, err error) {
	db, err := openBolt(path)
	if err != nil {
		return nil, err
	}
	ix = &index{}
	if ix.counts, err = verify(db); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if err = prepare(db); isDamage(err) {
		return nil, err // and not closed, see bolt.replace
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	ix.db = &bolt{path: path, log: slog.New(slog.DiscardHandler), db: db, fresh: func() {
		ix.mu.Lock()
		defer ix.mu.Unlock()
		clear(ix.counts)
	}}
	return ix, nil
}

// verify reads every key and value, and counts the files of each route.
func verify(db *bbolt.DB) (counts map[string]int, err error) {
	defer recoverDamage(debug.SetPanicOnFault(true), &err)
	counts = map[string]int{}
	err = db.View(func(tx *bbolt.Tx) error {
		if err := checkSize(tx); err != nil {
			return err
		}
		if meta := tx.Bucket(bucketMeta); meta != nil {
			if format := meta.Get(keyFormat); string(format) != indexFormat {
				return &damagedError{reason: fmt.Sprintf("unknown format %q", format)}
			}
		}
		defer unload(tx)
		return tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
			n := 0
			if !bytes.Equal(name, bucketRoutes) {
				return verifyBucket(b, 0, &n)
			}
			return b.ForEachBucket(func(route []byte) error {
				sub, total := b.Bucket(route), 0
				if files := sub.Bucket(bucketFiles); files != nil {
					if err := verifyBucket(files, 0, &n); err != nil {
						return err
					}
				}
				counts[string(route)], n = n, 0
				return verifyBucket(sub, 1, &total)
			})
		})
	})
	return counts, err
}

// verifyBucket reads a bucket and those in it, and counts the keys of the first.
func verifyBucket(b *bbolt.Bucket, depth int, n *int) error {
	const deepest = 4
	if depth > deepest {
		return &damagedError{reason: "buckets too deep"}
	}
	var before []byte
	return b.ForEach(func(k, v []byte) error {
		if before != nil && bytes.Compare(before, k) >= 0 {
			return &damagedError{reason: "keys out of order"}
		}
		before = append(before[:0], k...)
		if *n++; *n%unloadEvery == 0 {
			unload(b.Tx())
		}
		if v == nil {
			// The caller reads the files of a route, to count them.
			if sub, below := b.Bucket(k), 0; sub != nil && !bytes.Equal(k, bucketFiles) {
				return verifyBucket(sub, depth+1, &below)
			}
			return nil
		}
		_ = crc32.ChecksumIEEE(v) // touches every byte of the value
		return nil
	})
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
		defer ix.used(tx)
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
	ix.wrote()
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
		journal := b.Bucket(bucketBegun) // what is recorded is not under way
		for path, r := range records {
			if files.Get([]byte(path)) == nil {
				added++
			}
			if err := files.Put([]byte(path), r.encode()); err != nil {
				return err
			}
			if journal == nil {
				continue
			}
			if err := journal.Delete([]byte(path)); err != nil {
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
