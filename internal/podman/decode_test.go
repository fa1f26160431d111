package podman

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func frame(stream byte, text string) string {
	return string([]byte{stream, 0, 0, 0, 0, 0, byte(len(text) >> 8), byte(len(text))}) + text
}

func TestReadFrames(t *testing.T) {
	t.Parallel()
	raw := frame(1, "one\n") + frame(2, "two, in") + frame(2, " parts\n") + frame(1, "three\n")
	for limit, want := range map[int][]string{
		5: {"one", "two, in parts", "three"}, 2: {"two, in parts", "three"},
	} {
		got, err := readFrames(bytes.NewReader([]byte(raw)), limit)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("last %d (-want +got):\n%s", limit, diff)
		}
	}
	if got, err := readFrames(bytes.NewReader([]byte(raw[:len(raw)-3])), 1); err != nil || got[0] != "thr" {
		t.Errorf("cut stream: %q, %v", got, err)
	}
	if got, err := readFrames(bytes.NewReader(nil), 3); err != nil || got != nil {
		t.Errorf("empty stream: %q, %v", got, err)
	}
}

func TestUnixTime(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Time{
		"1795233258": time.Unix(1795233258, 0).UTC(), "-62135596800": {}, "0": {}, "null": {},
	} {
		var got UnixTime
		if err := json.Unmarshal([]byte(text), &got); err != nil || !got.Equal(want) {
			t.Errorf("%s: %s, %v", text, got, err)
		}
	}
}

func FuzzReadFrames(f *testing.F) {
	f.Add([]byte(frame(1, "a\n") + frame(2, "b")))
	f.Add([]byte{1, 0, 0, 0, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, raw []byte) {
		lines, err := readFrames(bytes.NewReader(raw), 5)
		if err == nil && len(lines) > 5 {
			t.Errorf("%d lines", len(lines))
		}
	})
}

func FuzzReadPull(f *testing.F) {
	f.Add([]byte(`{"stream":"x"}` + "\n" + `{"id":"a"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if id, err := readPull(bytes.NewReader(raw), nil); (err == nil) != (id != "") {
			t.Errorf("id %q and error %v", id, err)
		}
	})
}

func FuzzDecodeEvent(f *testing.F) {
	f.Add([]byte(`{"Type":"container","Action":"died","Actor":{"ID":"x","Attributes":{"a":"b"}},"timeNano":1}`))
	f.Fuzz(func(_ *testing.T, raw []byte) { _, _ = decodeEvent(raw) })
}

func FuzzRegistryAuth(f *testing.F) {
	f.Add(`{"auths":{"quay.io":{"auth":"Ym9iOnM="}}}`)
	f.Fuzz(func(t *testing.T, text string) {
		if out, err := registryAuth(text); err == nil && out == "" {
			t.Error("neither a header nor an error")
		}
	})
}

func FuzzDecodeError(f *testing.F) {
	f.Add(404, []byte(`{"cause":"a","message":"b"}`))
	f.Fuzz(func(t *testing.T, status int, raw []byte) {
		if decodeError(status, raw).Error() == "" {
			t.Error("an error without words")
		}
	})
}
