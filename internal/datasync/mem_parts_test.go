package datasync

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
)

// memUpload is an upload in parts that nobody finished.
type memUpload struct {
	s3.Begun

	parts map[int64][]byte // by number, from 0
}

// putParts takes the parts of an upload one by one, and leaves what it has when
// it fails. A fault of "Part" is asked for each part that travels.
func (m *memStore) putParts(ctx context.Context, u s3.Upload) ([]byte, error) {
	parts, err := m.partsOf(u)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	up := m.uploads[parts.ID]
	m.mu.Unlock()
	var data []byte
	for i := int64(0); i*parts.PartBytes < u.Size; i++ {
		want := make([]byte, min(parts.PartBytes, u.Size-i*parts.PartBytes))
		if _, err := u.Body.ReadAt(want, i*parts.PartBytes); err != nil && err != io.EOF {
			if u.Resume == nil {
				_ = m.Abort(context.WithoutCancel(ctx), u.Key, parts.ID)
			}
			return nil, err
		}
		data = append(data, want...)
		m.mu.Lock()
		had := string(up.parts[i]) == string(want)
		m.mu.Unlock()
		if had {
			continue
		}
		if err := m.begin(ctx, "Part", u.Key); err != nil {
			if u.Resume == nil {
				_ = m.Abort(context.WithoutCancel(ctx), u.Key, parts.ID)
			}
			return nil, err
		}
		m.mu.Lock()
		up.parts[i] = want
		m.mu.Unlock()
	}
	m.mu.Lock()
	delete(m.uploads, parts.ID)
	m.mu.Unlock()
	return data, nil
}

// partsOf returns the upload that u goes on with, or a new one.
func (m *memStore) partsOf(u s3.Upload) (s3.Parts, error) {
	m.mu.Lock()
	if u.Resume != nil && m.uploads[u.Resume.Parts.ID] != nil {
		defer m.mu.Unlock()
		return u.Resume.Parts, nil
	}
	m.began++
	parts := s3.Parts{ID: fmt.Sprintf("upload-%d", m.began), PartBytes: memPartBytes}
	if m.uploads == nil {
		m.uploads = map[string]*memUpload{}
	}
	m.uploads[parts.ID] = &memUpload{
		Begun: s3.Begun{Key: u.Key, ID: parts.ID, Since: time.Now()}, parts: map[int64][]byte{},
	}
	m.mu.Unlock()
	if u.Resume == nil {
		return parts, nil
	}
	if err := u.Resume.Begun(parts); err != nil {
		_ = m.Abort(context.Background(), u.Key, parts.ID)
		return parts, err
	}
	return parts, nil
}

const memPartBytes = 5 << 20

func (m *memStore) Uploads(ctx context.Context, prefix string, page func([]s3.Begun) error) error {
	if err := m.quietly(ctx, "Uploads", prefix); err != nil {
		return err
	}
	m.mu.Lock()
	var all []s3.Begun
	for _, u := range m.uploads {
		if strings.HasPrefix(u.Key, prefix) {
			all = append(all, u.Begun)
		}
	}
	m.mu.Unlock()
	return page(all)
}

func (m *memStore) Abort(ctx context.Context, key, id string) error {
	if err := m.quietly(ctx, "Abort", key); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.uploads, id)
	return nil
}

// quietly asks for a fault, and leaves the requests that most tests look at as
// they are.
func (m *memStore) quietly(ctx context.Context, op, key string) error {
	m.mu.Lock()
	fault := m.fault
	m.mu.Unlock()
	if err := ctx.Err(); err != nil || fault == nil {
		return err
	}
	return fault(op, key)
}

// unfinished returns the keys of the uploads that nobody finished.
func (m *memStore) unfinished() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var keys []string
	for _, u := range m.uploads {
		keys = append(keys, u.Key)
	}
	return keys
}
