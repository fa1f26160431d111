package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// build writes an image of two programs and returns the archive.
func build(t *testing.T, args ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	for _, arch := range []string{"amd64", "arm64"} {
		if err := os.WriteFile(filepath.Join(dir, arch), []byte("program for "+arch), 0o700); err != nil {
			t.Fatal(err)
		}
		// When a program was built is not to be seen in the image.
		if err := os.Chtimes(filepath.Join(dir, arch), time.Now(), time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(dir, "out.tar")
	err := run(append([]string{
		"-name", "quay.io/project-flotta/thing", "-tag", "1.2", "-path", "/thing", "-title", "A thing", "-out", out, "-created", "1700000000",
		"-program", "arm64=" + filepath.Join(dir, "arm64"), "-program", "amd64=" + filepath.Join(dir, "amd64"),
	}, args...))
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestReproducible(t *testing.T) {
	t.Parallel()
	if !bytes.Equal(build(t), build(t)) {
		t.Error("two archives of the same programs differ")
	}
	if bytes.Equal(build(t), build(t, "-created", "1")) {
		t.Error("-created has no effect")
	}
}

func untar(t *testing.T, r io.Reader) (files map[string][]byte, modes map[string]int64) {
	t.Helper()
	files, modes = map[string][]byte{}, map[string]int64{}
	in := tar.NewReader(r)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return files, modes
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.ModTime.Unix() != 1700000000 {
			t.Errorf("%s: owner %d %d %q, time %s", h.Name, h.Uid, h.Gid, h.Uname, h.ModTime)
		}
		if files[h.Name], err = io.ReadAll(in); err != nil {
			t.Fatal(err)
		}
		modes[h.Name] = h.Mode
	}
}

// The archive is a layout whose digests are right, with one image for each
// architecture, which holds its program and who runs it.
func TestLayout(t *testing.T) {
	t.Parallel()
	files, _ := untar(t, bytes.NewReader(build(t)))
	for name, data := range files {
		if digest, ok := strings.CutPrefix(name, "blobs/sha256/"); ok && digest != "" {
			if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != digest {
				t.Errorf("%s has the digest %x", name, sum)
			}
		}
	}
	blob := func(d descriptor, into any) []byte {
		data := files["blobs/sha256/"+strings.TrimPrefix(d.Digest, "sha256:")]
		if len(data) != d.Size || len(data) == 0 {
			t.Fatalf("blob %s has %d bytes, want %d", d.Digest, len(data), d.Size)
		}
		if into == nil {
			return data
		}
		if err := json.Unmarshal(data, into); err != nil {
			t.Fatal(err)
		}
		return data
	}
	var entry, all index
	if err := json.Unmarshal(files["index.json"], &entry); err != nil {
		t.Fatal(err)
	}
	if len(entry.Manifests) != 1 || entry.Manifests[0].Annotations["io.containerd.image.name"] != "quay.io/project-flotta/thing:1.2" {
		t.Fatalf("index.json: %s", files["index.json"])
	}
	blob(entry.Manifests[0], &all)
	var archs []string
	for _, d := range all.Manifests {
		archs = append(archs, d.Platform.Architecture)
		var m manifest
		blob(d, &m)
		var c config
		blob(m.Config, &c)
		if c.Config.User != "65532:65532" || !cmp.Equal(c.Config.Entrypoint, []string{"/thing"}) || c.Architecture != d.Platform.Architecture {
			t.Errorf("config %+v", c)
		}
		layer, modes := unzip(t, blob(m.Layers[1], nil), c.RootFS.DiffIDs[1])
		if string(layer["thing"]) != "program for "+d.Platform.Architecture || modes["thing"] != 0o755 {
			t.Errorf("%s: program %q, mode %o", d.Platform.Architecture, layer["thing"], modes["thing"])
		}
		account, _ := unzip(t, blob(m.Layers[0], nil), c.RootFS.DiffIDs[0])
		if !strings.Contains(string(account["etc/passwd"]), "nonroot:x:65532:65532:") {
			t.Errorf("passwd is %q", account["etc/passwd"])
		}
	}
	if !cmp.Equal(archs, []string{"amd64", "arm64"}) {
		t.Errorf("architectures %v", archs)
	}
}

func unzip(t *testing.T, data []byte, diffID string) (map[string][]byte, map[string]int64) {
	t.Helper()
	zip, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.New()
	plain, err := io.ReadAll(io.TeeReader(zip, sum))
	if err != nil {
		t.Fatal(err)
	}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); got != diffID {
		t.Errorf("layer has the digest %s, want %s", got, diffID)
	}
	return untar(t, bytes.NewReader(plain))
}

func TestArguments(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "out")
	for _, args := range [][]string{
		{},
		{"-name", "a", "-path", "relative", "-out", out, "-program", "amd64=/dev/null"},
		{"-name", "a", "-path", "/a", "-out", out},
		{"-name", "a", "-path", "/a", "-out", out, "-program", "amd64"},
		{"-name", "a", "-path", "/a", "-out", out, "-program", "amd64=/does/not/exist"},
	} {
		if err := run(args); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("an archive was written")
	}
}
