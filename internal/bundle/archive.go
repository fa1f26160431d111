package bundle

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/project-flotta/flotta-agent/internal/secret"
)

// Kinds of items, by how secrets are taken out of them by their place. Those by
// look and by value are taken out of all.
const (
	KindText     = "text"
	KindDocument = "document" // JSON or YAML; is JSON in the archive
	KindSettings = "settings" // a line for each
)

// Item is one file of the archive.
type Item struct {
	Name string // slashes make folders
	Kind string // default KindText
	// Collect returns the content, and an error when that is none or not all.
	Collect func(context.Context) ([]byte, error)
	Limit   int  // bytes kept of it; default 2 MiB
	Tail    bool // of one that is too long, the end is kept
}

// Config says what to pack.
type Config struct {
	Items   []Item // the most important first
	Secrets []secret.Value
	// About is what the manifest begins with, such as the version of the agent.
	About    map[string]string
	MaxBytes int64         // of the whole archive; default 20 MiB, at least 256 KiB
	ItemTime time.Duration // that one item may take; default 30 s
	Now      time.Time     // of the files; required
}

const (
	defaultMax   = 20 << 20
	leastMax     = 256 << 10
	defaultTime  = 30 * time.Second
	defaultLimit = 2 << 20
	fileMode     = 0o600
	manifestName = "manifest.json"
	maxError     = 500
)

// Manifest says what is in the archive, and what is not.
type Manifest struct {
	Time    time.Time         `json:"time"`
	About   map[string]string `json:"about"`
	Entries []Entry           `json:"entries"`
}

// Entry is what became of one item.
type Entry struct {
	Name      string `json:"name"`
	Bytes     int    `json:"bytes"`               // in the archive; 0: it has no file there
	Truncated int    `json:"truncated,omitempty"` // bytes that were left out
	Error     string `json:"error,omitempty"`
}

// Failed returns how many items are not, or not all, in the archive because of an
// error.
func (m Manifest) Failed() int {
	n := 0
	for _, e := range m.Entries {
		if e.Error != "" {
			n++
		}
	}
	return n
}

// archive is one that is being written.
type archive struct {
	cfg      Config
	redactor *Redactor
	count    counter
	zip      *gzip.Writer
	tar      *tar.Writer
}

// counter counts what goes through it.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// Write collects the items and writes the archive, the manifest as its last file.
// What goes wrong with an item is in the manifest; the error is one of writing.
func Write(ctx context.Context, w io.Writer, cfg Config) (Manifest, error) {
	cfg.MaxBytes = cmp.Or(cfg.MaxBytes, defaultMax)
	cfg.ItemTime = cmp.Or(cfg.ItemTime, defaultTime)
	if cfg.MaxBytes < leastMax {
		return Manifest{}, fmt.Errorf("write archive: %d bytes: must be at least %d", cfg.MaxBytes, leastMax)
	}
	a := &archive{cfg: cfg, redactor: NewRedactor(cfg.Secrets), count: counter{w: w}}
	a.zip = gzip.NewWriter(&a.count)
	a.tar = tar.NewWriter(a.zip)
	m := Manifest{Time: cfg.Now.UTC(), About: map[string]string{}}
	for k, v := range cfg.About {
		m.About[a.safe(k)] = a.safe(v)
	}
	for _, item := range cfg.Items {
		entry, err := a.add(ctx, item)
		if err != nil {
			return m, fmt.Errorf("write archive: %w", err)
		}
		m.Entries = append(m.Entries, entry)
		if err := ctx.Err(); err != nil {
			return m, fmt.Errorf("write archive: %w", err)
		}
	}
	if err := a.finish(m); err != nil {
		return m, fmt.Errorf("write archive: %w", err)
	}
	return m, nil
}

// finish writes the manifest and the end.
func (a *archive) finish(m Manifest) error {
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	if err := a.file(manifestName, append(text, '\n')); err != nil {
		return err
	}
	if err := a.tar.Close(); err != nil {
		return err
	}
	return a.zip.Close()
}

// add collects one item. The error is one of writing.
func (a *archive) add(ctx context.Context, item Item) (Entry, error) {
	entry := Entry{Name: a.safe(item.Name)}
	if entry.Name != item.Name || !validName(item.Name) {
		entry.Error = "it has no name that can be used"
		return entry, nil
	}
	if err := a.zip.Flush(); err != nil {
		return entry, err
	}
	if a.room() <= 0 {
		entry.Error = "the archive is full"
		return entry, nil
	}
	text, err := a.collect(ctx, item)
	if err != nil {
		entry.Error = a.safe(err.Error())
	}
	if text, err = a.clean(item.Kind, text); err != nil {
		entry.Error = strings.TrimPrefix(entry.Error+"; left out: "+a.safe(err.Error()), "; ")
		return entry, nil
	}
	limit := min(int64(cmp.Or(item.Limit, defaultLimit)), a.room())
	text, entry.Truncated = truncate(text, int(limit), item.Tail)
	if len(text) == 0 {
		return entry, nil
	}
	entry.Bytes = len(text)
	return entry, a.file(item.Name, text)
}

// room is how long a file may be that cannot be compressed, so that there is
// still room for the manifest.
func (a *archive) room() int64 {
	manifest := int64(8<<10 + len(a.cfg.Items)*(maxError*2+512))
	left := a.cfg.MaxBytes - a.count.n - manifest - 4<<10
	return left - left/1000 // what packing adds
}

// truncate leaves out what is more than limit, up to a line's end.
func truncate(text []byte, limit int, tail bool) (kept []byte, left int) {
	if len(text) <= limit {
		return text, 0
	}
	if tail {
		kept = text[len(text)-limit:]
		if _, rest, ok := bytes.Cut(kept, []byte("\n")); ok {
			kept = rest
		}
	} else {
		kept = text[:limit]
		if end := bytes.LastIndexByte(kept, '\n'); end >= 0 {
			kept = kept[:end+1]
		}
	}
	return kept, len(text) - len(kept)
}

// collect has the item collected, for as long as it may take. One that does not
// heed that is left behind.
func (a *archive) collect(ctx context.Context, item Item) ([]byte, error) {
	type result struct {
		text []byte
		err  error
	}
	ctx, cancel := context.WithTimeout(ctx, a.cfg.ItemTime)
	defer cancel()
	done := make(chan result, 1)
	go func() {
		var r result
		defer func() {
			if p := recover(); p != nil {
				r = result{err: fmt.Errorf("collecting it failed: %v", p)}
			}
			done <- r
		}()
		r.text, r.err = item.Collect(ctx)
	}()
	select {
	case r := <-done:
		return r.text, r.err
	case <-ctx.Done():
	}
	select { // it heeded the end
	case r := <-done:
		return r.text, r.err
	case <-time.After(time.Second):
		return nil, fmt.Errorf("no answer within %s", a.cfg.ItemTime)
	}
}

// clean takes the secrets out.
func (a *archive) clean(kind string, text []byte) (out []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			out, err = nil, fmt.Errorf("taking secrets out failed: %v", p)
		}
	}()
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, nil
	}
	switch kind {
	case KindDocument:
		if text, err = Document(text); err != nil {
			return nil, err
		}
	case KindSettings:
		text = Settings(text)
	}
	return a.redactor.Bytes(text)
}

// safe is a text for the manifest.
func (a *archive) safe(text string) string {
	out, err := a.redactor.Bytes([]byte(text))
	if err != nil {
		return Redacted
	}
	if len(out) > maxError {
		out = append(out[:maxError:maxError], "..."...)
	}
	return strings.ToValidUTF8(string(out), "?")
}

// validName reports whether a name stays below the folder that somebody unpacks
// in, and can be typed.
func validName(name string) bool {
	if name == "" || name == manifestName || len(name) > 200 {
		return false
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || strings.HasPrefix(part, ".") || strings.Trim(part, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.@") != "" {
			return false
		}
	}
	return true
}

func (a *archive) file(name string, text []byte) error {
	err := a.tar.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: "flotta-support/" + name, Mode: fileMode, Size: int64(len(text)), ModTime: a.cfg.Now.Truncate(time.Second),
	})
	if err != nil {
		return err
	}
	_, err = a.tar.Write(text)
	return err
}
