package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"time"
)

// account is who programs run as: nobody's user, and not root. The platform may
// choose another one.
const account = "65532"

// file is one file or, with a name that ends in a slash, one folder of a layer.
type file struct {
	name string // without a leading slash
	mode int64
	data []byte
}

// layer is a compressed archive and what it is known by.
type layer struct {
	data   []byte
	diffID string // digest before compression
}

func newLayer(files []file, at time.Time) (layer, error) {
	var compressed bytes.Buffer
	zip := gzip.NewWriter(&compressed)
	sum := sha256.New()
	if err := archive(io.MultiWriter(zip, sum), files, at); err != nil {
		return layer{}, err
	}
	if err := zip.Close(); err != nil {
		return layer{}, err
	}
	return layer{data: compressed.Bytes(), diffID: "sha256:" + hex.EncodeToString(sum.Sum(nil))}, nil
}

// archive writes files as they are listed, all of root.
func archive(w io.Writer, files []file, at time.Time) error {
	out := tar.NewWriter(w)
	for _, f := range files {
		header := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.data)), ModTime: at, Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}
		if f.name[len(f.name)-1] == '/' {
			header.Typeflag = tar.TypeDir
		}
		if err := out.WriteHeader(header); err != nil {
			return err
		}
		if _, err := out.Write(f.data); err != nil {
			return err
		}
	}
	return out.Close()
}

// base is what every image has: libraries look up who they run as.
func base() []file {
	const nobody = "nonroot:x:" + account + ":"
	return []file{
		{name: "etc/", mode: 0o755},
		{name: "etc/group", mode: 0o644, data: []byte("root:x:0:\n" + nobody + "\n")},
		{name: "etc/passwd", mode: 0o644, data: []byte("root:x:0:0:root:/:/sbin/nologin\n" + nobody + account + ":nonroot:/:/sbin/nologin\n")},
	}
}
