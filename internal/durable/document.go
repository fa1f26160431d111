package durable

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// MaxDocumentBytes bounds the file that LoadDocument reads into memory. It is
// twice the largest configuration message that is accepted, for escaping and
// the envelope.
const MaxDocumentBytes = 64 << 20

// Sentinels of LoadDocument. A document that is not there is fs.ErrNotExist.
var (
	ErrNotExist = fs.ErrNotExist
	ErrCorrupt  = errors.New("corrupt document")
	ErrVersion  = errors.New("unknown document version")
)

// CorruptError says why a document cannot be trusted. It is ErrCorrupt for
// errors.Is. Reason never holds content of the document.
type CorruptError struct {
	Path   string
	Reason string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("corrupt document %s: %s", e.Path, e.Reason)
}

// Is reports whether target is ErrCorrupt.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

// VersionError is an intact document of a version that the caller does not
// read. It is ErrVersion for errors.Is.
type VersionError struct {
	Path      string
	Got, Want int
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("document %s has version %d, want %d", e.Path, e.Got, e.Want)
}

// Is reports whether target is ErrVersion.
func (e *VersionError) Is(target error) bool { return target == ErrVersion }

// envelope is the file. Sum covers kind, version and the payload as it is
// written.
type envelope struct {
	Kind    string          `json:"kind"`
	Version int             `json:"version"`
	Sum     string          `json:"sha256"`
	Payload json.RawMessage `json:"payload"`
}

func checksum(kind string, version int, payload []byte) string {
	h := sha256.New()
	// The separators cannot be confused with content: kind is quoted.
	_, _ = fmt.Fprintf(h, "%q %d\n", kind, version)
	h.Write(payload)
	return hex.EncodeToString(h.Sum(nil))
}

// SaveDocument replaces path by the JSON of v in a checksummed envelope of that
// kind and version. Errors and durability are those of WriteFile.
func SaveDocument(path, kind string, version int, v any, perm fs.FileMode) error {
	return Writer{}.SaveDocument(path, kind, version, v, perm)
}

// SaveDocument is the package's SaveDocument with the writer's faults.
func (w Writer) SaveDocument(path, kind string, version int, v any, perm fs.FileMode) error {
	payload, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode document %s: %w", path, err)
	}
	if len(payload) > MaxDocumentBytes-1024 { // room for the envelope
		return fmt.Errorf("encode document %s: %d bytes, at most %d can be read back", path, len(payload), MaxDocumentBytes)
	}
	// Marshal compacts and escapes the payload again, which changes nothing in
	// what Marshal itself wrote: the checksum is that of the bytes in the file.
	data, err := json.Marshal(envelope{Kind: kind, Version: version, Sum: checksum(kind, version, payload), Payload: payload})
	if err != nil {
		return fmt.Errorf("encode document %s: %w", path, err)
	}
	return w.WriteFile(path, append(data, '\n'), perm)
}

// LoadDocument reads the document at path into v. The error is fs.ErrNotExist
// when there is none, ErrCorrupt when it is damaged or of another kind, and
// ErrVersion when it is intact but of another version; v is untouched by these,
// unless the payload is intact and does not fit v (also ErrCorrupt).
func LoadDocument(path, kind string, version int, v any) error {
	data, err := readBounded(path)
	if err != nil {
		return err
	}
	corrupt := func(reason string) error { return &CorruptError{Path: path, Reason: reason} }
	var e envelope
	if err := json.Unmarshal(data, &e); err != nil {
		return corrupt("not a JSON envelope")
	}
	if e.Sum != checksum(e.Kind, e.Version, e.Payload) {
		return corrupt("checksum does not match")
	}
	if e.Kind != kind {
		return corrupt(fmt.Sprintf("kind is %q, want %q", e.Kind, kind))
	}
	if e.Version != version {
		return &VersionError{Path: path, Got: e.Version, Want: version}
	}
	if err := json.Unmarshal(e.Payload, v); err != nil {
		return corrupt("payload does not fit the type")
	}
	return nil
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("load document: %w", err)
	}
	defer f.Close() //nolint:errcheck // nothing was written
	data, err := io.ReadAll(io.LimitReader(f, MaxDocumentBytes+1))
	if err != nil {
		return nil, fmt.Errorf("load document: %w", err)
	}
	if len(data) > MaxDocumentBytes {
		return nil, &CorruptError{Path: path, Reason: "larger than any document"}
	}
	return data, nil
}
