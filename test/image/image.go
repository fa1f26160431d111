package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed" // the program's source.
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// source is the program; it is part of the key of what is cached.
//
//go:embed app/main.go
var source []byte

// Spec says what an image is to be.
type Spec struct {
	// Ref is the name with its tag, such as localhost/flotta-test:v1.
	Ref string
	// Version is the value of the variable VERSION in the container; the tag of
	// Ref when it is empty.
	Version string
	// Args are the program's default arguments; none means serve.
	Args []string
}

// Archive returns the path of an archive for `podman load` that holds the
// image. It is built when it is not in the cache yet, and must not be changed.
func Archive(ctx context.Context, spec Spec) (string, error) {
	repository, tag, ok := strings.Cut(filepath.Base(spec.Ref), ":")
	if !ok || repository == "" || tag == "" {
		return "", fmt.Errorf("image reference %q has no tag", spec.Ref)
	}
	if spec.Version == "" {
		spec.Version = tag
	}
	dir, err := cacheDir()
	if err != nil {
		return "", err
	}
	program, err := build(ctx, dir)
	if err != nil {
		return "", err
	}
	key, err := json.Marshal(spec)
	if err != nil {
		return "", fmt.Errorf("encode image spec: %w", err)
	}
	path := filepath.Join(dir, "image-"+digest(key, []byte(program))[:16]+".tar")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	data, err := os.ReadFile(program)
	if err != nil {
		return "", fmt.Errorf("read program: %w", err)
	}
	archive, err := pack(spec, data)
	if err != nil {
		return "", fmt.Errorf("pack image %s: %w", spec.Ref, err)
	}
	return path, replace(path, archive, 0o644)
}

// Program returns the path of the built program itself.
func Program(ctx context.Context) (string, error) {
	dir, err := cacheDir()
	if err != nil {
		return "", err
	}
	return build(ctx, dir)
}

func cacheDir() (string, error) {
	dir := os.Getenv("FLOTTA_CACHE")
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("find cache folder: %w", err)
		}
		dir = filepath.Join(user, "flotta-agent")
	}
	dir = filepath.Join(dir, "image")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make cache folder: %w", err)
	}
	return dir, nil
}

// build compiles the program, unless one of the same source, compiler and
// architecture is in dir.
func build(ctx context.Context, dir string) (string, error) {
	path := filepath.Join(dir, "app-"+digest(source, []byte(runtime.Version()+runtime.GOARCH))[:16])
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	tmp, err := os.MkdirTemp(dir, "build-")
	if err != nil {
		return "", fmt.Errorf("make build folder: %w", err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	if err := os.WriteFile(filepath.Join(tmp, "main.go"), source, 0o644); err != nil {
		return "", fmt.Errorf("write source: %w", err)
	}
	out := filepath.Join(tmp, "app")
	// A named file is compiled outside of any module, whatever folder this is.
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w -buildid=", "-o", out, filepath.Join(tmp, "main.go"))
	cmd.Dir = tmp
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GO111MODULE=off", "GOFLAGS=")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build test program: %w\n%s", err, text)
	}
	if err := os.Rename(out, path); err != nil {
		return "", fmt.Errorf("keep test program: %w", err)
	}
	return path, nil
}

// replace writes path in one step, because test binaries run side by side.
func replace(path string, data []byte, mode fs.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".tmp-")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Chmod(mode), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// pack lays the image out as `docker save` does: one layer, its configuration
// and a manifest.
func pack(spec Spec, program []byte) ([]byte, error) {
	layer, err := tarball(
		entry{name: "app", mode: 0o755, data: program},
		entry{name: "export/", mode: 0o777},
		entry{name: "tmp/", mode: 0o1777},
	)
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"created":      "2020-01-01T00:00:00Z",
		"config": map[string]any{
			"Entrypoint": []string{"/app"},
			"Cmd":        spec.Args,
			"Env":        []string{"PATH=/", "VERSION=" + spec.Version},
			"WorkingDir": "/",
		},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + digest(layer)}},
	})
	if err != nil {
		return nil, fmt.Errorf("encode configuration: %w", err)
	}
	manifest, err := json.Marshal([]map[string]any{{
		"Config":   digest(config) + ".json",
		"RepoTags": []string{spec.Ref},
		"Layers":   []string{"layer.tar"},
	}})
	if err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	return tarball(
		entry{name: digest(config) + ".json", mode: 0o644, data: config},
		entry{name: "layer.tar", mode: 0o644, data: layer},
		entry{name: "manifest.json", mode: 0o644, data: manifest},
	)
}

type entry struct {
	name string // a folder when it ends with a slash
	mode int64
	data []byte
}

func tarball(entries ...entry) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range entries {
		kind := byte(tar.TypeReg)
		if strings.HasSuffix(e.name, "/") {
			kind = tar.TypeDir
		}
		header := &tar.Header{
			Typeflag: kind, Name: e.name, Mode: e.mode,
			Size: int64(len(e.data)), ModTime: time.Unix(0, 0),
		}
		if err := w.WriteHeader(header); err != nil {
			return nil, fmt.Errorf("write header of %s: %w", e.name, err)
		}
		if _, err := w.Write(e.data); err != nil {
			return nil, fmt.Errorf("write %s: %w", e.name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("close archive: %w", err)
	}
	return out.Bytes(), nil
}

func digest(parts ...[]byte) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write(p)
	}
	return hex.EncodeToString(h.Sum(nil))
}
