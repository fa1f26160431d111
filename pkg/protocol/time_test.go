package protocol

import (
	"encoding/json"
	"testing"
	"time"
)

func TestTimeEncoding(t *testing.T) {
	t.Parallel()
	zone := time.FixedZone("CET", 3600)
	tests := map[string]Time{
		`"2026-11-21T02:12:52.743Z"`: NewTime(time.Date(2026, 11, 21, 3, 12, 52, 743_999_999, zone)),
		`"2026-11-21T02:12:52.000Z"`: {time.Date(2026, 11, 21, 3, 12, 52, 0, zone)},
		`"0001-01-01T00:00:00.000Z"`: {},
	}
	for want, value := range tests {
		got, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("%v is %s, want %s", value.Time, got, want)
		}
	}
}

func TestTimeDecoding(t *testing.T) {
	t.Parallel()
	tests := map[string]time.Time{
		`"2026-11-21T02:12:52.743Z"`:       time.Date(2026, 11, 21, 2, 12, 52, 743_000_000, time.UTC),
		`"2026-11-21T02:12:52.743999999Z"`: time.Date(2026, 11, 21, 2, 12, 52, 743_000_000, time.UTC),
		`"2026-11-21T03:12:52+01:00"`:      time.Date(2026, 11, 21, 2, 12, 52, 0, time.UTC),
		`"0001-01-01T00:00:00.000Z"`:       {},
		`""`:                               {},
		`null`:                             {},
	}
	for text, want := range tests {
		got := NewTime(time.Unix(1, 0)) // must be overwritten
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if !got.Equal(want) || got.Location() != time.UTC {
			t.Errorf("%s is %v, want %v", text, got.Time, want)
		}
	}
}

func TestTimeRefused(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`"yesterday"`, `5`, `{}`, `"2026-11-21"`, `"2026-11-21T02:12:52"`,
		`"9999-12-31T23:59:59-01:00"`, `"0000-01-01T00:00:00+01:00"`,
	} {
		var got Time
		if err := json.Unmarshal([]byte(text), &got); err == nil {
			t.Errorf("%s is taken for %v", text, got.Time)
		}
	}
}
