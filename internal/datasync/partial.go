package datasync

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"path"

	"go.etcd.io/bbolt"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
)

const (
	// partialBytes is the size from which on a download that was cut is continued.
	partialBytes = 8 << 20
	// maxPartials bounds how many downloads of a route are continued.
	maxPartials = 64
)

// partial is what a download that was cut left behind: the first bytes of the
// content. They are in a volume that somebody else may write to, and a power cut
// may have left zeros of them: they count only as far as their digest is right.
type partial struct {
	Offset int64
	SHA256 [32]byte
}

var bucketPartials = []byte("partials")

const formatPartial = 'p'

func (p partial) encode() []byte {
	b := []byte{formatPartial}
	b = binary.AppendVarint(b, p.Offset)
	b = append(b, p.SHA256[:]...)
	return binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

func decodePartial(b []byte) (partial, bool) {
	d := newDecoder(b, formatPartial)
	p := partial{Offset: d.varint()}
	copy(p.SHA256[:], d.bytes(len(p.SHA256)))
	return p, d.done() && p.Offset > 0
}

// partials returns the unfinished downloads of a route by the path of the
// temporary file.
func (ix *index) partials(id string) (map[string]partial, error) {
	out := map[string]partial{}
	err := ix.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketRoutes).Bucket([]byte(id))
		if b == nil || b.Bucket(bucketPartials) == nil {
			return nil
		}
		return b.Bucket(bucketPartials).ForEach(func(k, v []byte) error {
			if p, ok := decodePartial(v); ok {
				out[string(k)] = p
			}
			return nil
		})
	})
	return out, err
}

var errManyPartials = errors.New("too many unfinished downloads")

// putPartial records how far a download came; nil: it is forgotten.
func (ix *index) putPartial(id, temp string, p *partial) error {
	return ix.update(id, func(b *bbolt.Bucket) error {
		sub, err := b.CreateBucketIfNotExists(bucketPartials)
		switch {
		case err != nil:
			return err
		case p == nil:
			return sub.Delete([]byte(temp))
		case sub.Get([]byte(temp)) == nil && sub.Stats().KeyN >= maxPartials:
			return errManyPartials
		}
		return sub.Put([]byte(temp), p.encode())
	})
}

// partialPath names the temporary file of one version of an object.
func (r *ingressRun) partialPath(name string, o s3.Object) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%s\x00%d", r.id, o.Key, o.ETag, o.Size))
	return path.Join(path.Dir(name), tempPrefix+hex.EncodeToString(sum[:tempDigits/2]))
}

// dropUnclaimed removes the unfinished downloads of what the bucket does not hold
// any more, after a complete listing. One that is under way may end well: an
// object that changes all the time would else never arrive.
func (r *ingressRun) dropUnclaimed() {
	for temp := range r.partials {
		if !r.claimed[temp] && !r.inflow.writes(temp) {
			r.remove(temp)
			r.forgetPartial(temp)
		}
	}
}

func (r *ingressRun) forgetPartial(temp string) {
	if err := r.index.putPartial(r.id, temp, nil); err != nil {
		r.fail("index", err)
	}
}
