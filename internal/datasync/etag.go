package datasync

import (
	"crypto/md5" //nolint:gosec // the ETag of an object is one; it protects nothing.
	"encoding/hex"
	"hash"
	"strconv"
	"strings"
)

const (
	mebi = 1 << 20
	// maxGuesses bounds how often the content is hashed to find out in which parts it
	// was sent.
	maxGuesses = 4
	// manyParts is the number of parts that AWS' uploader for Go makes at most, and
	// whole the only one of an object that was not sent in parts.
	manyParts = 10_000
	whole     = 0
)

// partSizes returns the sizes of the parts in which an object of that size and ETag may
// have been sent by other programs; whole: not in parts. Objects that carry no digest
// of ours, such as those of flotta v0.2, are recognised by it and not sent again.
func partSizes(etag string, size int64) []int64 {
	sum, parts, inParts := strings.Cut(etag, "-")
	if raw, err := hex.DecodeString(sum); err != nil || len(raw) != md5.Size {
		return nil
	}
	if !inParts {
		return []int64{whole}
	}
	n, err := strconv.ParseInt(parts, 10, 32)
	if err != nil || n < 1 || n > manyParts {
		return nil
	}
	var out []int64
	// Most likely first: that uploader's own size, or what it takes for a large file;
	// then those of the AWS command line, of minio, and the powers of two of others.
	for _, piece := range []int64{
		5 * mebi, size/manyParts + 1, 8 * mebi, 16 * mebi, 15 * mebi, 10 * mebi, 32 * mebi, 50 * mebi, 64 * mebi, 100 * mebi, 128 * mebi, 256 * mebi, 512 * mebi, 1024 * mebi,
	} {
		if piece >= 5*mebi && (size+piece-1)/piece == n && len(out) < maxGuesses {
			out = append(out, piece)
		}
	}
	return out
}

// etagHash computes the ETag that stores give: the MD5 of the content, or that of the
// MD5s of its parts, with their number.
type etagHash struct {
	piece  int64
	filled int64 // bytes in part
	parts  int
	part   hash.Hash
	all    hash.Hash
}

func newETagHash(piece int64) *etagHash {
	return &etagHash{piece: piece, part: md5.New(), all: md5.New()} //nolint:gosec // as above.
}

// Write never fails.
func (h *etagHash) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		take := int64(len(p))
		if h.piece != whole {
			take = min(take, h.piece-h.filled)
		}
		h.part.Write(p[:take])
		p, h.filled = p[take:], h.filled+take
		if h.filled == h.piece {
			h.close()
		}
	}
	return n, nil
}

// close ends a part.
func (h *etagHash) close() {
	h.all.Write(h.part.Sum(nil))
	h.part.Reset()
	h.parts, h.filled = h.parts+1, 0
}

// etag ends the content.
func (h *etagHash) etag() string {
	if h.piece == whole {
		return hex.EncodeToString(h.part.Sum(nil))
	}
	if h.filled > 0 {
		h.close()
	}
	return hex.EncodeToString(h.all.Sum(nil)) + "-" + strconv.Itoa(h.parts)
}
