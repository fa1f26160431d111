package datasync

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// inParts is the ETag of content that was sent in parts of that size.
func inParts(content []byte, size int) string {
	var sums []byte
	n := 0
	for ; len(content) > 0; n++ {
		sum := md5.Sum(content[:min(size, len(content))])
		sums, content = append(sums, sum[:]...), content[min(size, len(content)):]
	}
	sum := md5.Sum(sums)
	return fmt.Sprintf("%s-%d", hex.EncodeToString(sum[:]), n)
}

func TestContentIsKnownByItsETag(t *testing.T) {
	t.Parallel()
	content := make([]byte, 16<<20+17)
	for i := range content {
		content[i] = byte(rand.Uint32())
	}
	whole := md5.Sum(content)
	small := md5.Sum(content[:100])
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	for name, tc := range map[string]struct {
		size int64
		etag string
		want bool
	}{
		"whole":                     {int64(len(content)), hex.EncodeToString(whole[:]), true},
		"small":                     {100, hex.EncodeToString(small[:]), true},
		"empty":                     {0, "d41d8cd98f00b204e9800998ecf8427e", true},
		"parts of 5 MiB":            {int64(len(content)), inParts(content, 5<<20), true},
		"parts of 8 MiB":            {int64(len(content)), inParts(content, 8<<20), true},
		"parts of 16 MiB":           {int64(len(content)), inParts(content, 16<<20), true},
		"one part":                  {100, inParts(content[:100], 5<<20), true},
		"parts, exactly":            {10 << 20, inParts(content[:10<<20], 5<<20), true},
		"parts of an odd size":      {int64(len(content)), inParts(content, 7<<20-1), false},
		"other content in parts":    {int64(len(content)) - 1, inParts(content, 5<<20), false},
		"other content":             {99, hex.EncodeToString(small[:]), false},
		"no digest":                 {100, "opaque", false},
		"parts beyond any number":   {100, hex.EncodeToString(small[:]) + "-99999999999999999999", false},
		"no parts":                  {100, hex.EncodeToString(small[:]) + "-0", false},
		"something behind a dash":   {100, hex.EncodeToString(small[:]) + "-x", false},
		"nothing is asked for":      {100, "", false},
		"fewer bytes than a digest": {100, "abcd-2", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := readContent(t.Context(), f, tc.size, tc.etag)
			if err != nil {
				t.Fatal(err)
			}
			got := false
			for _, e := range c.etags {
				got = got || e == tc.etag
			}
			if got != tc.want || len(c.etags) > maxGuesses {
				t.Errorf("known: %v, want %v; it would be %q", got, tc.want, c.etags)
			}
		})
	}
}

// TestLargePartsOfTheUploader: AWS' uploader makes larger parts of a file that would have
// too many.
func TestLargePartsOfTheUploader(t *testing.T) {
	t.Parallel()
	const size = 123_457 * mebi
	piece := int64(size/manyParts + 1)
	got := partSizes(fmt.Sprintf("%032x-%d", 1, (size+piece-1)/piece), size)
	if diff := cmp.Diff([]int64{piece}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestETagsDoNotDependOnWrites hashes the same content in other pieces.
func TestETagsDoNotDependOnWrites(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("abcdefg"), 1000)
	for _, step := range []int{1, 7, 64, 4096, 7000} {
		h := newETagHash(64)
		for at := 0; at < len(content); at += step {
			_, _ = h.Write(content[at:min(at+step, len(content))])
		}
		if got, want := h.etag(), inParts(content, 64); got != want {
			t.Errorf("in steps of %d: %s, want %s", step, got, want)
		}
	}
}
