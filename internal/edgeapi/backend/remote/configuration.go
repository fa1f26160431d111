package remote

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
)

const (
	// maxTold bounds, in bytes, what is remembered of configurations: 200,000
	// devices of a service without ETags, or 6,000 with 10 KiB each of one with.
	maxTold = 64 << 20
	// toldOverhead is what an entry takes beside its content.
	toldOverhead = 320
	// maxETag is the longest that is remembered.
	maxETag = 256
)

// told is what a device was told last.
type told struct {
	version string
	at      time.Time
	// json and etag are kept only when the service has ETags: then it need not
	// send the same again.
	json []byte
	etag string
}

// Configuration implements edgeapi.Backend. The version is a hash of the
// content, so it is the same at every replica and after a restart; the time is
// that of this process, and starts anew when the device was forgotten.
func (b *Backend) Configuration(ctx context.Context, d edgeapi.Device) (edgeapi.Rendered, error) {
	d = placed(d)
	known, _ := b.told.get(d)
	resp, err := b.fetch(ctx, request{
		call: callConfiguration, device: d, suffix: pathConfiguration, etag: known.etag, long: true,
	})
	if err != nil {
		return edgeapi.Rendered{}, err
	}
	if resp.status == http.StatusNotModified && known.etag != "" {
		b.client.metrics.cached.Inc()
		return edgeapi.Rendered{JSON: known.json, Version: known.version, At: known.at}, nil
	}
	if resp.status == http.StatusNotFound {
		b.told.remove(d)
	}
	if resp.status != http.StatusOK {
		return edgeapi.Rendered{}, fmt.Errorf("%s: %w", callConfiguration, resp.failure(false))
	}
	r, err := render(resp, d)
	if err != nil {
		return edgeapi.Rendered{}, b.nonsense(callConfiguration, err)
	}
	now := b.told.update(d, func(old told) (told, int) {
		now := told{version: r.Version, at: r.At}
		if old.version == r.Version {
			now.at = old.at
		}
		if resp.etag != "" && len(resp.etag) <= maxETag {
			now.json, now.etag = r.JSON, resp.etag
		}
		return now, toldOverhead + len(d.Namespace) + len(d.ID) + len(now.json) + len(now.etag)
	})
	r.At = now.at
	return r, nil
}

// render makes a configuration of an answer. It is encoded anew, so that the
// order of keys and white space, which services choose at random, change nothing.
func render(resp response, d edgeapi.Device) (edgeapi.Rendered, error) {
	m, err := decodeConfiguration(resp, d)
	if err != nil {
		return edgeapi.Rendered{}, err
	}
	text, err := json.Marshal(m)
	if err != nil {
		return edgeapi.Rendered{}, fmt.Errorf("encode: %w", err)
	}
	version := digest(text)
	if m.Version == "" {
		// Heartbeats name the version in force, so there must be one.
		m.Version = version
		if text, err = json.Marshal(m); err != nil {
			return edgeapi.Rendered{}, fmt.Errorf("encode: %w", err)
		}
		version = digest(text)
	}
	return edgeapi.Rendered{JSON: text, Version: version, At: time.Now()}, nil
}

func digest(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16])
}
