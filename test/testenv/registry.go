package testenv

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Media types of what a registry serves.
const (
	ociManifest = "application/vnd.oci.image.manifest.v1+json"
	ociConfig   = "application/vnd.oci.image.config.v1+json"
	ociLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// RegistryConfig describes a registry of images.
type RegistryConfig struct {
	// Address is where it listens; 127.0.0.1:0 when empty.
	Address string
	// User and Password are asked for when User is not empty.
	User, Password string
}

// RegistryImage is an image to be served.
type RegistryImage struct {
	Program []byte   // becomes /app, the entry point, in the last layer
	Args    []string // its arguments
	Version string   // value of the variable VERSION
	Fillers [][]byte // each becomes a layer of one file, below the program's
}

// Registry serves images over plain HTTP as registries do, counts what was asked
// of it, and hangs or breaks where a test tells it to. Methods may be called from
// any goroutine.
type Registry struct {
	cfg    RegistryConfig
	server *http.Server
	addr   *net.TCPAddr
	done   chan struct{}

	mu       sync.Mutex
	tags     map[string]string // name:tag to digest
	blobs    map[string][]byte // manifests too
	faults   map[string]*fault // by digest
	requests []RegistryRequest
	down     bool
}

// RegistryRequest is a request that the registry answered.
type RegistryRequest struct {
	Method, Path string
	Range        string // header of a request for a part
	Status       int
	Bytes        int64 // of the body that were sent
}

// fault is what befalls the next reader of a blob.
type fault struct {
	after int64         // bytes
	hold  chan struct{} // closed when the stall is over; nil: the connection is cut
	times int           // how often; negative: always
}

// StartRegistry starts a registry without images. It stops when ctx ends, or
// with Stop.
func StartRegistry(ctx context.Context, cfg RegistryConfig) (*Registry, error) {
	if cfg.Address == "" {
		cfg.Address = "127.0.0.1:0"
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("start registry: %w", err)
	}
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return nil, fmt.Errorf("start registry: address %s has no port", l.Addr())
	}
	g := &Registry{
		cfg: cfg, addr: addr, done: make(chan struct{}),
		tags: map[string]string{}, blobs: map[string][]byte{}, faults: map[string]*fault{},
	}
	g.server = &http.Server{Handler: g, ReadHeaderTimeout: time.Minute}
	go func() {
		defer close(g.done)
		_ = g.server.Serve(l)
	}()
	context.AfterFunc(ctx, func() { _ = g.server.Close() })
	return g, nil
}

// Stop ends the registry with all its connections.
func (g *Registry) Stop() {
	_ = g.server.Close()
	<-g.done
}

// Port is where it listens.
func (g *Registry) Port() int { return g.addr.Port }

// Addr is where it listens, with the port.
func (g *Registry) Addr() string { return g.addr.String() }

// Push puts an image under name:tag and returns the digests of its manifest and,
// in the order in which they lie upon each other, of its layers. What was there
// under that tag stays to be had by its digest.
func (g *Registry) Push(reference string, img RegistryImage) (digest string, layers []string, err error) {
	var diffs, descriptors []any
	add := func(files map[string][]byte) error {
		plain, packed, err := layer(files)
		if err != nil {
			return fmt.Errorf("pack layer of %s: %w", reference, err)
		}
		diffs = append(diffs, digestOf(plain))
		layers = append(layers, g.put(packed))
		descriptors = append(descriptors, descriptor(ociLayer, packed))
		return nil
	}
	for i, data := range img.Fillers {
		if err := add(map[string][]byte{"filler" + strconv.Itoa(i): data}); err != nil {
			return "", nil, err
		}
	}
	if err := add(map[string][]byte{"app": img.Program}); err != nil {
		return "", nil, err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "created": "2020-01-01T00:00:00Z",
		"config": map[string]any{
			"Entrypoint": []string{"/app"}, "Cmd": img.Args, "WorkingDir": "/",
			"Env": []string{"PATH=/", "VERSION=" + img.Version},
		},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffs},
	})
	if err != nil {
		return "", nil, fmt.Errorf("encode configuration of %s: %w", reference, err)
	}
	g.put(config)
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": ociManifest, "config": descriptor(ociConfig, config), "layers": descriptors,
	})
	if err != nil {
		return "", nil, fmt.Errorf("encode manifest of %s: %w", reference, err)
	}
	digest = g.put(manifest)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tags[reference] = digest
	return digest, layers, nil
}

func (g *Registry) put(data []byte) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	d := digestOf(data)
	g.blobs[d] = data
	return d
}

// Stall makes every reader of a blob wait after so many bytes, until the returned
// function is called.
func (g *Registry) Stall(digest string, after int64) (resume func()) {
	f := &fault{after: after, hold: make(chan struct{}), times: -1}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.faults[digest] = f
	return sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.faults[digest] == f {
			delete(g.faults, digest)
		}
		close(f.hold)
	})
}

// Cut breaks the connections of the next times readers of a blob after so many
// bytes of their answers; a negative number means all.
func (g *Registry) Cut(digest string, after int64, times int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if times == 0 {
		delete(g.faults, digest)
		return
	}
	g.faults[digest] = &fault{after: after, times: times}
}

// SetDown makes every request be answered with 503, or no longer.
func (g *Registry) SetDown(down bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.down = down
}

// Requests returns what was asked so far.
func (g *Registry) Requests() []RegistryRequest {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]RegistryRequest(nil), g.requests...)
}

// Sent returns how many requests for the content of a blob there were, and how
// many bytes of it were sent in all.
func (g *Registry) Sent(digest string) (requests int, size int64) {
	for _, r := range g.Requests() {
		if r.Method == http.MethodGet && strings.HasSuffix(r.Path, digest) && r.Status < 300 {
			requests++
			size += r.Bytes
		}
	}
	return requests, size
}

// ServeHTTP answers one request.
func (g *Registry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	out := &counted{ResponseWriter: w, status: http.StatusOK}
	cut := g.answer(out, r)
	g.mu.Lock()
	g.requests = append(g.requests, RegistryRequest{
		Method: r.Method, Path: r.URL.Path, Range: r.Header.Get("Range"), Status: out.status, Bytes: out.size,
	})
	g.mu.Unlock()
	if cut {
		panic(http.ErrAbortHandler) // which resets the connection
	}
}

// answer reports whether the connection is to be cut.
func (g *Registry) answer(w *counted, r *http.Request) (cut bool) {
	g.mu.Lock()
	down := g.down
	g.mu.Unlock()
	if down {
		w.WriteHeader(http.StatusServiceUnavailable)
		return false
	}
	if g.cfg.User != "" {
		if user, password, _ := r.BasicAuth(); user != g.cfg.User || password != g.cfg.Password {
			w.Header().Set("WWW-Authenticate", `Basic realm="images"`)
			w.WriteHeader(http.StatusUnauthorized)
			return false
		}
	}
	path, isAPI := strings.CutPrefix(r.URL.Path, "/v2/")
	switch {
	case !isAPI || (r.Method != http.MethodGet && r.Method != http.MethodHead):
		w.WriteHeader(http.StatusNotFound)
	case path == "":
	default:
		return g.content(w, r, path)
	}
	return false
}

// content answers a request for a manifest or a blob.
func (g *Registry) content(w *counted, r *http.Request, path string) (cut bool) {
	name, key, isManifest := strings.Cut(path, "/manifests/")
	if !isManifest {
		_, key, _ = strings.Cut(path, "/blobs/")
	}
	g.mu.Lock()
	if d, tagged := g.tags[name+":"+key]; isManifest && tagged {
		key = d
	}
	data, there := g.blobs[key]
	var bad *fault
	if f := g.faults[key]; f != nil && r.Method == http.MethodGet && f.times != 0 {
		f.times--
		bad = f
	}
	g.mu.Unlock()
	if !there {
		w.WriteHeader(http.StatusNotFound)
		return false
	}
	w.Header().Set("Docker-Content-Digest", key)
	w.Header().Set("Content-Type", "application/octet-stream")
	if isManifest {
		w.Header().Set("Content-Type", ociManifest)
	}
	w.Header().Set("ETag", strconv.Quote(key))
	if bad == nil {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
		return false
	}
	faulty := &faulty{counted: w, fault: bad, request: r}
	http.ServeContent(faulty, r, "", time.Time{}, bytes.NewReader(data))
	return faulty.cut
}

// counted knows what was answered.
type counted struct {
	http.ResponseWriter
	status int
	size   int64
}

func (c *counted) WriteHeader(status int) {
	c.status = status
	c.ResponseWriter.WriteHeader(status)
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.size += int64(n)
	return n, err
}

// faulty stops, or waits, after a number of bytes.
type faulty struct {
	*counted
	fault   *fault
	request *http.Request
	waited  bool
	cut     bool
}

func (f *faulty) Write(p []byte) (int, error) {
	room := f.fault.after - f.size
	if f.waited || int64(len(p)) <= room {
		return f.counted.Write(p)
	}
	n, err := f.counted.Write(p[:max(room, 0)])
	if err != nil {
		return n, err
	}
	_ = http.NewResponseController(f.ResponseWriter).Flush()
	if f.fault.hold == nil {
		f.cut = true
		return n, io.ErrShortWrite
	}
	select {
	case <-f.fault.hold:
	case <-f.request.Context().Done():
		return n, f.request.Context().Err()
	}
	f.waited = true
	rest, err := f.counted.Write(p[n:])
	return n + rest, err
}

// layer packs files into a layer, as it is hashed and as it is sent.
func layer(files map[string][]byte) (plain, packed []byte, err error) {
	var raw, zipped bytes.Buffer
	w := tar.NewWriter(&raw)
	for name, data := range files {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(data)), ModTime: time.Unix(0, 0)}
		if err := w.WriteHeader(header); err != nil {
			return nil, nil, err
		}
		if _, err := w.Write(data); err != nil {
			return nil, nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, nil, err
	}
	// The fastest, because nobody measures it.
	z, err := gzip.NewWriterLevel(&zipped, gzip.BestSpeed)
	if err != nil {
		return nil, nil, err
	}
	if _, err := z.Write(raw.Bytes()); err != nil {
		return nil, nil, err
	}
	if err := z.Close(); err != nil {
		return nil, nil, err
	}
	return raw.Bytes(), zipped.Bytes(), nil
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func descriptor(mediaType string, data []byte) map[string]any {
	return map[string]any{"mediaType": mediaType, "digest": digestOf(data), "size": len(data)}
}
