package protocol

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func FuzzMessage(f *testing.F) {
	fuzzRoundTrip[Message](f, "message.json", `{"content":null,"sent":null}`, `{"metadata":{"a":[{}]},"content":"<&>"}`)
}

func FuzzDeviceConfigurationMessage(f *testing.F) {
	fuzzRoundTrip[DeviceConfigurationMessage](f, "device-configuration-message.json",
		string(readDocument(f, "minimal-configuration-message.json")),
		`{"workloads":[null,{"data":{"ingress":null,"egress":[{}]}}],"secrets":[{}]}`)
}

func FuzzHeartbeat(f *testing.F) {
	fuzzRoundTrip[Heartbeat](f, "heartbeat.json", `{"status":"whatever","workloads":[null],"events":[{}]}`)
}

func FuzzEnrolmentInfo(f *testing.F) {
	fuzzRoundTrip[EnrolmentInfo](f, "enrolment-info.json", `{"target_namespace":""}`, `{"features":null}`)
}

func FuzzRegistrationInfo(f *testing.F) {
	fuzzRoundTrip[RegistrationInfo](f, "registration-info.json", `{"hardware":{"disks":[null]}}`)
}

// fuzzRoundTrip: whatever can be decoded can be encoded, and decodes to the same
// again.
func fuzzRoundTrip[T any](f *testing.F, document string, seeds ...string) {
	f.Add(readDocument(f, document))
	for _, seed := range append(seeds, `{}`, `null`, `[]`, `{"`) {
		f.Add([]byte(seed))
	}
	// An empty list or object that is left out comes back as nil, and raw JSON
	// is compacted.
	options := cmp.Options{
		cmpopts.EquateEmpty(),
		cmp.FilterValues(
			func(a, b json.RawMessage) bool { return len(a) > 0 || len(b) > 0 },
			cmp.Comparer(func(a, b json.RawMessage) bool { return cmp.Equal(value(a), value(b)) }),
		),
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var first T
		if json.Unmarshal(text, &first) != nil {
			return
		}
		encoded, err := json.Marshal(first)
		if err != nil {
			t.Fatalf("decoded %+v cannot be encoded: %v", first, err)
		}
		var second T
		if err := json.Unmarshal(encoded, &second); err != nil {
			t.Fatalf("encoded %s cannot be decoded: %v", encoded, err)
		}
		if diff := cmp.Diff(first, second, options); diff != "" {
			t.Fatalf("%s came back otherwise:\n%s", encoded, diff)
		}
	})
}

func value(raw json.RawMessage) any {
	var v any
	_ = json.Unmarshal(raw, &v)
	return v
}
