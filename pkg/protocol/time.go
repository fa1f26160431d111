package protocol

import (
	"encoding/json"
	"errors"
	"time"
)

// Time is a date-time as the wire writes it: RFC 3339 in UTC with milliseconds.
// The zero value is the wire's 0001-01-01T00:00:00.000Z.
type Time struct{ time.Time }

const timeLayout = "2006-01-02T15:04:05.000Z"

// NewTime returns t in UTC at the wire's millisecond precision.
func NewTime(t time.Time) Time { return Time{t.UTC().Truncate(time.Millisecond)} }

// MarshalJSON writes the wire's layout.
func (t Time) MarshalJSON() ([]byte, error) {
	return json.Marshal(t.UTC().Format(timeLayout))
}

// errTimeRange refuses a time that has no four-digit year in UTC, and so could
// not be written back.
var errTimeRange = errors.New("year is outside of 0 to 9999")

// UnmarshalJSON accepts any RFC 3339 time, and keeps its milliseconds; null and
// "" are the zero time.
func (t *Time) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	if s == "" {
		t.Time = time.Time{}
		return nil
	}
	parsed, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return err
	}
	in := NewTime(parsed)
	if y := in.Year(); y < 0 || y > 9999 {
		return errTimeRange
	}
	*t = in
	return nil
}
