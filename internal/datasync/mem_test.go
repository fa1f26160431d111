package datasync

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
)

// memStore is a bucket in memory. It passes the contract that the real store
// passes, and can be told to fail.
type memStore struct {
	// fault, when set, is asked before each request and fails it.
	fault func(op, key string) error
	// arrived, when set, is called while a Put has read its body and not yet
	// stored it.
	arrived func(key string)
	// page is the size of a page of a listing.
	page int

	mu       sync.Mutex
	objects  map[string]memObject
	requests []string // operation and key
	uploads  map[string]*memUpload
	began    int
}

type memObject struct {
	s3.Object

	data []byte
}

func newMemStore() *memStore { return &memStore{objects: map[string]memObject{}, page: 3} }

func (m *memStore) begin(ctx context.Context, op, key string) error {
	m.mu.Lock()
	m.requests = append(m.requests, op+" "+key)
	fault := m.fault
	m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if fault != nil {
		return fault(op, key)
	}
	return nil
}

// taken returns the requests since the last call.
func (m *memStore) taken() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.requests
	m.requests = nil
	return r
}

func (m *memStore) setFault(fault func(op, key string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = fault
}

func (m *memStore) List(ctx context.Context, prefix string, page func([]s3.Object) error) error {
	m.mu.Lock()
	var all []s3.Object
	for key, o := range m.objects {
		if strings.HasPrefix(key, prefix) {
			all = append(all, s3.Object{Key: key, Size: o.Size, ETag: o.ETag, LastModified: o.LastModified})
		}
	}
	m.mu.Unlock()
	slices.SortFunc(all, func(a, b s3.Object) int { return strings.Compare(a.Key, b.Key) })
	for first := true; first || len(all) > 0; first = false {
		if err := m.begin(ctx, "List", prefix); err != nil {
			return err
		}
		n := min(m.page, len(all))
		if err := page(all[:n]); err != nil {
			return err
		}
		all = all[n:]
	}
	return nil
}

func (m *memStore) Head(ctx context.Context, key string) (s3.Object, error) {
	if err := m.begin(ctx, "Head", key); err != nil {
		return s3.Object{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.objects[key]
	if !ok {
		return s3.Object{}, fmt.Errorf("head %q: %w", key, s3.ErrNotFound)
	}
	return o.Object, nil
}

func (m *memStore) Get(ctx context.Context, key string) (s3.Object, io.ReadCloser, error) {
	if err := m.begin(ctx, "Get", key); err != nil {
		return s3.Object{}, nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.objects[key]
	if !ok {
		return s3.Object{}, nil, fmt.Errorf("get %q: %w", key, s3.ErrNotFound)
	}
	return o.Object, io.NopCloser(bytes.NewReader(o.data)), nil
}

func (m *memStore) GetFrom(ctx context.Context, o s3.Object, from int64) (io.ReadCloser, error) {
	if err := m.begin(ctx, "GetFrom", o.Key); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now, ok := m.objects[o.Key]
	switch {
	case !ok:
		return nil, fmt.Errorf("get %q: %w", o.Key, s3.ErrNotFound)
	case now.ETag != o.ETag || from < 0 || from >= now.Size:
		return nil, fmt.Errorf("get %q: %w", o.Key, s3.ErrChanged)
	}
	return io.NopCloser(bytes.NewReader(now.data[from:])), nil
}

func (m *memStore) Put(ctx context.Context, u s3.Upload) (string, error) {
	if err := m.begin(ctx, "Put", u.Key); err != nil {
		return "", err
	}
	var data []byte
	var err error
	if u.Size > memPartBytes {
		data, err = m.putParts(ctx, u)
	} else {
		data, err = io.ReadAll(io.NewSectionReader(u.Body, 0, u.Size))
	}
	if err != nil {
		return "", err
	}
	if m.arrived != nil {
		m.arrived(u.Key)
	}
	sha := sha256.Sum256(data)
	if len(u.SHA256) > 0 && !bytes.Equal(sha[:], u.SHA256) {
		return "", fmt.Errorf("put %q: %w", u.Key, s3.ErrDigest)
	}
	m.set(u.Key, data, u)
	sum := md5.Sum(data)
	return hex.EncodeToString(sum[:]), nil
}

// set stores data under key, as somebody else's client does.
func (m *memStore) set(key string, data []byte, u s3.Upload) {
	sum := md5.Sum(data)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.objects[key] = memObject{data: slices.Clone(data), Object: s3.Object{
		Key: key, Size: int64(len(data)), ETag: hex.EncodeToString(sum[:]),
		LastModified: time.Now().UTC().Truncate(time.Second),
		SHA256:       u.SHA256, MTime: u.MTime, Mode: u.Mode,
	}}
}

// replace stores o as it is, true or not.
func (m *memStore) replace(o memObject) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.objects[o.Key] = o
}

func (m *memStore) remove(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, key)
}

// contents returns what is stored.
func (m *memStore) contents() map[string]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string]string{}
	for key, o := range m.objects {
		out[key] = string(o.data)
	}
	return out
}

func (m *memStore) Close() {}
