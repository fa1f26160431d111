package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Media types of the OCI image specification.
const (
	mediaIndex    = "application/vnd.oci.image.index.v1+json"
	mediaManifest = "application/vnd.oci.image.manifest.v1+json"
	mediaConfig   = "application/vnd.oci.image.config.v1+json"
	mediaLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// image is what to write.
type image struct {
	name, tag, path, title, source string
	created                        time.Time
	programs                       []program // by architecture
}

// program is a static Linux program for one architecture.
type program struct{ arch, file string }

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type index struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	Manifests     []descriptor      `json:"manifests"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

type manifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	Config        descriptor        `json:"config"`
	Layers        []descriptor      `json:"layers"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

type config struct {
	Created time.Time `json:"created"`
	platform
	Config struct {
		User       string            `json:"User"`
		Entrypoint []string          `json:"Entrypoint"`
		WorkingDir string            `json:"WorkingDir"`
		Labels     map[string]string `json:"Labels"`
	} `json:"config"`
	RootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
	History []history `json:"history"`
}

type history struct {
	Created   time.Time `json:"created"`
	CreatedBy string    `json:"created_by"`
}

// blobs are contents by digest.
type blobs map[string][]byte

func (b blobs) add(mediaType string, data []byte) descriptor {
	sum := sha256.Sum256(data)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	b[digest] = data
	return descriptor{MediaType: mediaType, Digest: digest, Size: len(data)}
}

func (b blobs) addJSON(mediaType string, value any) (descriptor, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return descriptor{}, err
	}
	return b.add(mediaType, data), nil
}

func (img image) annotations() map[string]string {
	const prefix = "org.opencontainers.image."
	return map[string]string{
		prefix + "created":  img.created.Format(time.RFC3339),
		prefix + "licenses": "Apache-2.0",
		prefix + "source":   img.source,
		prefix + "title":    img.title,
		prefix + "version":  img.tag,
	}
}

// write writes the archive in one step and returns the digest of the image.
func (img image) write(out string) (string, error) {
	store := blobs{}
	all := index{SchemaVersion: 2, MediaType: mediaIndex, Annotations: img.annotations()}
	for _, p := range img.programs {
		d, err := img.add(store, p)
		if err != nil {
			return "", fmt.Errorf("architecture %s: %w", p.arch, err)
		}
		all.Manifests = append(all.Manifests, d)
	}
	top, err := store.addJSON(mediaIndex, all)
	if err != nil {
		return "", err
	}
	// The tag, as the specification has it, and the whole name for containerd.
	top.Annotations = map[string]string{
		"org.opencontainers.image.ref.name": img.tag,
		"io.containerd.image.name":          img.name + ":" + img.tag,
	}
	entry, err := json.Marshal(index{SchemaVersion: 2, MediaType: mediaIndex, Manifests: []descriptor{top}})
	if err != nil {
		return "", err
	}
	files := []file{
		{name: "oci-layout", mode: 0o644, data: []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		{name: "index.json", mode: 0o644, data: entry},
		{name: "blobs/", mode: 0o755},
		{name: "blobs/sha256/", mode: 0o755},
	}
	for _, digest := range slices.Sorted(maps.Keys(store)) {
		files = append(files, file{name: "blobs/sha256/" + strings.TrimPrefix(digest, "sha256:"), mode: 0o644, data: store[digest]})
	}
	var whole bytes.Buffer
	if err := archive(&whole, files, img.created); err != nil {
		return "", err
	}
	return top.Digest, replace(out, whole.Bytes())
}

// add adds the image of one architecture.
func (img image) add(store blobs, p program) (descriptor, error) {
	code, err := os.ReadFile(p.file)
	if err != nil {
		return descriptor{}, err
	}
	c := config{Created: img.created, platform: platform{Architecture: p.arch, OS: "linux"}}
	c.Config.User = account + ":" + account
	c.Config.Entrypoint = []string{img.path}
	c.Config.WorkingDir = "/"
	c.Config.Labels = img.annotations()
	c.RootFS.Type = "layers"
	m := manifest{SchemaVersion: 2, MediaType: mediaManifest, Annotations: img.annotations()}
	for _, part := range []struct {
		what  string
		files []file
	}{
		{"account", base()},
		{"program", []file{{name: strings.TrimPrefix(img.path, "/"), mode: 0o755, data: code}}},
	} {
		l, err := newLayer(part.files, img.created)
		if err != nil {
			return descriptor{}, err
		}
		m.Layers = append(m.Layers, store.add(mediaLayer, l.data))
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, l.diffID)
		c.History = append(c.History, history{Created: img.created, CreatedBy: part.what})
	}
	if m.Config, err = store.addJSON(mediaConfig, c); err != nil {
		return descriptor{}, err
	}
	d, err := store.addJSON(mediaManifest, m)
	d.Platform = &c.platform
	return d, err
}

// replace writes a file so that there is never half of it.
func replace(path string, data []byte) error {
	temp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(temp.Name()) }()
	if err := temp.Chmod(0o644); err != nil {
		return err
	}
	if _, err := temp.Write(data); err != nil {
		_ = temp.Close()
		return err
	}
	if err := temp.Close(); err != nil {
		return err
	}
	return os.Rename(temp.Name(), path)
}
