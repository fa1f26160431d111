package datasync

import (
	"bytes"
	"context"
	"encoding/binary"
	"hash/crc32"
	"os"
	"time"

	"go.etcd.io/bbolt"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
)

// The journal remembers uploads in parts, so that after a restart only the parts
// travel that are missing. It is a part of the index:
//
//	routes/<route>/begun path in the volume = upload
//	orphans              endpoint and bucket, key and upload ID, with NUL between
//
// An entry is written once, before the first part travels, and goes with the
// write of the file's record. It is used only while the file has the same
// fingerprint and digest, so parts of two contents never meet. Orphans are
// uploads of routes that the index forgot.

// journaledFrom is the least size of which an upload may be in parts.
const journaledFrom = 5 << 20

// begun is an upload in parts of one file.
type begun struct {
	fingerprint

	SHA256 [32]byte
	Key    string
	Parts  s3.Parts
	When   int64 // when it began, Unix seconds
}

const (
	formatBegun = 3
	// maxIDBytes bounds keys, which S3 does at 1,024, and upload IDs, which
	// some stores make long.
	maxIDBytes = 4096
)

func (u begun) encode() []byte {
	b := []byte{formatBegun}
	b = binary.AppendVarint(b, u.Size)
	b = binary.AppendVarint(b, u.MTime)
	b = binary.AppendVarint(b, u.CTime)
	b = binary.AppendUvarint(b, u.Inode)
	b = append(b, u.SHA256[:]...)
	for _, text := range []string{u.Key, u.Parts.ID} {
		b = binary.AppendUvarint(b, uint64(len(text)))
		b = append(b, text...)
	}
	b = binary.AppendVarint(b, u.Parts.PartBytes)
	plain := uint64(0)
	if u.Parts.Plain {
		plain = 1
	}
	b = binary.AppendUvarint(b, plain)
	b = binary.AppendVarint(b, u.When)
	return binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

// decodeBegun returns false for what is no entry; nil is none.
func decodeBegun(b []byte) (begun, bool) {
	d := newDecoder(b, formatBegun)
	var u begun
	u.Size = d.varint()
	u.MTime = d.varint()
	u.CTime = d.varint()
	u.Inode = d.uvarint()
	copy(u.SHA256[:], d.bytes(len(u.SHA256)))
	for _, text := range []*string{&u.Key, &u.Parts.ID} {
		n := d.uvarint()
		if n > maxIDBytes {
			return begun{}, false
		}
		*text = string(d.bytes(int(n)))
	}
	u.Parts.PartBytes = d.varint()
	u.Parts.Plain = d.uvarint() == 1
	u.When = d.varint()
	return u, d.done() && u.Parts.ID != ""
}

// begunOf returns the upload that was begun of a file.
func (ix *index) begunOf(id, path string) (u begun, ok bool) {
	_ = ix.db.View(func(tx *bbolt.Tx) error {
		if b := tx.Bucket(bucketRoutes).Bucket([]byte(id)); b != nil {
			if b = b.Bucket(bucketBegun); b != nil {
				u, ok = decodeBegun(b.Get([]byte(path)))
			}
		}
		return nil
	})
	return u, ok
}

// putBegun remembers an upload.
func (ix *index) putBegun(id, path string, u begun) error {
	if len(u.Key) > maxIDBytes || len(u.Parts.ID) > maxIDBytes {
		return nil // it will not go on, which costs no more than time
	}
	return ix.update(id, func(b *bbolt.Bucket) error {
		sub, err := b.CreateBucketIfNotExists(bucketBegun)
		if err != nil {
			return err
		}
		return sub.Put([]byte(path), u.encode())
	})
}

// dropBegun forgets an upload of a file, if it still is the one that is meant.
func (ix *index) dropBegun(id, path, upload string) error {
	return ix.update(id, func(b *bbolt.Bucket) error {
		sub := b.Bucket(bucketBegun)
		if sub == nil {
			return nil
		}
		v := sub.Get([]byte(path))
		if u, ok := decodeBegun(v); v == nil || ok && u.Parts.ID != upload {
			return nil
		}
		return sub.Delete([]byte(path))
	})
}

// begunIn returns the remembered uploads to one bucket, by route and path.
func (ix *index) begunIn(store string) (map[string]map[string]begun, error) {
	all := map[string]map[string]begun{}
	err := ix.db.View(func(tx *bbolt.Tx) error {
		routes := tx.Bucket(bucketRoutes)
		return routes.ForEachBucket(func(id []byte) error {
			sub := routes.Bucket(id).Bucket(bucketBegun)
			if sub == nil || storeOf(id) != store {
				return nil
			}
			of := map[string]begun{}
			all[string(id)] = of
			return sub.ForEach(func(path, v []byte) error {
				if u, ok := decodeBegun(v); ok {
					of[string(path)] = u
				}
				return nil
			})
		})
	})
	return all, err
}

// storeOf returns the endpoint and bucket in the name of a route.
func storeOf(id []byte) string {
	const field = 2 // behind workload and direction
	if fields := bytes.Split(id, []byte{0}); len(fields) > field {
		return string(fields[field])
	}
	return ""
}

// orphan keeps what is needed to abort the uploads of a route that is about to
// be forgotten.
func orphan(tx *bbolt.Tx, id []byte) error {
	b := tx.Bucket(bucketRoutes).Bucket(id)
	if b == nil || b.Bucket(bucketBegun) == nil {
		return nil
	}
	orphans, err := tx.CreateBucketIfNotExists(bucketOrphans)
	if err != nil {
		return err
	}
	return b.Bucket(bucketBegun).ForEach(func(_, v []byte) error {
		u, ok := decodeBegun(v)
		if !ok {
			return nil
		}
		return orphans.Put(orphanKey(storeOf(id), u.Key, u.Parts.ID), []byte{1})
	})
}

func orphanKey(store, key, upload string) []byte {
	return bytes.Join([][]byte{[]byte(store), []byte(key), []byte(upload)}, []byte{0})
}

// orphans returns key and ID of the forgotten uploads to one bucket.
func (ix *index) orphans(store string) (out [][2]string, err error) {
	err = ix.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketOrphans)
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, _ []byte) error {
			const fields = 3
			if f := bytes.Split(k, []byte{0}); len(f) == fields && string(f[0]) == store {
				out = append(out, [2]string{string(f[1]), string(f[2])})
			}
			return nil
		})
	})
	return out, err
}

func (ix *index) dropOrphan(store, key, upload string) error {
	return ix.db.Update(func(tx *bbolt.Tx) error {
		if b := tx.Bucket(bucketOrphans); b != nil {
			return b.Delete(orphanKey(store, key, upload))
		}
		return nil
	})
}

// put stores the file, and goes on with an earlier upload of the same content.
func (r *egressRun) put(ctx context.Context, f *os.File, e entry, u s3.Upload) (string, error) {
	known, ok := r.index.begunOf(r.id, e.Path)
	if ok && (known.fingerprint != e.fingerprint || !bytes.Equal(known.SHA256[:], u.SHA256) || known.Key != u.Key) {
		r.abandon(ctx, e.Path, known)
		ok = false
	}
	if u.Size < journaledFrom || len(u.SHA256) == 0 {
		return r.store.Put(ctx, u) // what is not known to be one content is not put together later
	}
	entry := begun{fingerprint: e.fingerprint, Key: u.Key, When: time.Now().Unix()}
	copy(entry.SHA256[:], u.SHA256)
	if ok {
		entry = known
	}
	u.Resume = &s3.Resume{Parts: entry.Parts, Begun: func(p s3.Parts) error {
		if entry.Parts.ID != "" {
			_ = r.store.Abort(ctx, u.Key, entry.Parts.ID) // most often the store forgot it
		}
		entry.Parts = p
		return r.index.putBegun(r.id, e.Path, entry)
	}}
	etag, err := r.store.Put(ctx, u)
	if err != nil && ctx.Err() == nil && entry.Parts.ID != "" && !unchanged(f, e) {
		r.abandon(ctx, e.Path, entry)
	}
	return etag, err
}

// abandon aborts an upload that will not go on. When the store is out of reach
// its parts stay there until they are old.
func (r *egressRun) abandon(ctx context.Context, path string, u begun) {
	if err := r.store.Abort(ctx, u.Key, u.Parts.ID); err != nil && ctx.Err() != nil {
		return
	}
	if err := r.index.dropBegun(r.id, path, u.Parts.ID); err != nil {
		r.fail("index", err)
	}
}
