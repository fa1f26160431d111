package secret

import (
	"encoding/json"
	"errors"
	"log/slog"
)

const redacted = "[redacted]"

// Value is a secret text. Whatever prints or logs it sees a placeholder; the one
// way to the text is Reveal. The zero value is the empty secret.
type Value struct {
	// A pointer, because fmt reads unexported fields by reflection.
	text *string
}

// New wraps text.
func New(text string) Value { return Value{text: &text} }

// Reveal returns the text.
func (v Value) Reveal() string {
	if v.text == nil {
		return ""
	}
	return *v.text
}

// Empty reports whether there is no text.
func (v Value) Empty() bool { return v.Reveal() == "" }

// String returns a placeholder.
func (v Value) String() string { return redacted }

// GoString returns a placeholder.
func (v Value) GoString() string { return redacted }

// LogValue returns a placeholder.
func (v Value) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON refuses: a secret that has to be written is written by name.
func (v Value) MarshalJSON() ([]byte, error) {
	return nil, errors.New("marshal secret: refused")
}

var (
	_ slog.LogValuer = Value{}
	_ json.Marshaler = Value{}
)
