package protocol

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// documents are written by hand from the reference of the wire. Each has every
// field of its message with a value that is not zero.
var documents = map[string]func() any{
	"message.json":                      func() any { return new(Message) },
	"message-response.json":             func() any { return new(MessageResponse) },
	"command.json":                      func() any { return new(Command) },
	"error.json":                        func() any { return new(Error) },
	"device-configuration-message.json": func() any { return new(DeviceConfigurationMessage) },
	"enrolment-info.json":               func() any { return new(EnrolmentInfo) },
	"registration-info.json":            func() any { return new(RegistrationInfo) },
	"registration-response.json":        func() any { return new(RegistrationResponse) },
	"heartbeat.json":                    func() any { return new(Heartbeat) },
	"playbook-executions-response.json": func() any { return new(PlaybookExecutionsResponse) },
}

func TestDocuments(t *testing.T) {
	t.Parallel()
	for name, message := range documents {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := readDocument(t, name)
			into := message()
			decodeStrictly(t, text, into)
			if fields := untested(into); len(fields) > 0 {
				t.Errorf("the document leaves fields out: %v", fields)
			}
			again, err := json.Marshal(into)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(plain(t, text), plain(t, again)); diff != "" {
				t.Errorf("encoded again, the document differs (-want +got):\n%s", diff)
			}
		})
	}
}

// TestEveryMessageHasADocument fails when a struct is added that no document
// reaches.
func TestEveryMessageHasADocument(t *testing.T) {
	t.Parallel()
	reached := map[string]bool{}
	for _, message := range documents {
		reach(reflect.TypeOf(message()), reached)
	}
	names := structsOfPackage(t)
	for _, name := range names {
		if !reached[name] && name != "Time" {
			t.Errorf("no document holds a %s", name)
		}
	}
	if len(names) < 40 {
		t.Errorf("found %d structs, so the search is broken", len(names))
	}
}

func structsOfPackage(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			words := strings.Fields(line)
			if len(words) >= 3 && words[0] == "type" && strings.HasPrefix(words[2], "struct") {
				names = append(names, words[1])
			}
		}
	}
	return names
}

func TestMinimalConfiguration(t *testing.T) {
	t.Parallel()
	text := readDocument(t, "minimal-configuration-message.json")
	want := DeviceConfigurationMessage{
		DeviceID: "dev1",
		Version:  "6",
		Configuration: &DeviceConfiguration{
			Heartbeat: &HeartbeatConfiguration{PeriodSeconds: 60, HardwareProfile: &HardwareProfile{}},
			Metrics: &MetricsConfiguration{
				Receiver: &MetricsReceiverConfiguration{RequestNumSamples: 30000, TimeoutSeconds: 10},
			},
			Mounts: []Mount{},
		},
	}
	var got DeviceConfigurationMessage
	decodeStrictly(t, text, &got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("decoded (-want +got):\n%s", diff)
	}
	again, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(plain(t, text), plain(t, again)); diff != "" {
		t.Errorf("encoded (-want +got):\n%s", diff)
	}
}

// TestZeroValues fixes what is on the wire when nothing is set: arrays that are
// always there, and times.
func TestZeroValues(t *testing.T) {
	t.Parallel()
	const zero = `"0001-01-01T00:00:00.000Z"`
	tests := map[string]any{
		`{}`:                              Message{},
		`{"command":"","arguments":null}`: Command{},
		`{"mounts":null}`:                 DeviceConfiguration{},
		`{"names":null}`:                  MetricsAllowList{},
		`{"ingress":null,"egress":null}`:  DataConfiguration{},
		`{"workloads":null,"playbook-executions":null,"events":null}`:                    Heartbeat{},
		`{"last_data_upload":` + zero + `}`:                                              WorkloadStatus{},
		`{"interfaces":null,"disks":null,"gpus":null,"host_devices":null,"mounts":null}`: HardwareInfo{},
		`{"ipv4_addresses":null,"ipv6_addresses":null,"flags":null}`:                     Interface{},
		`{"flags":null}`:                        CPU{},
		`[{"last_data_upload":` + zero + `}]`:   []PlaybookExecutionStatus{{}},
		`[[{"last_data_upload":` + zero + `}]]`: []PlaybookExecutionsResponse{{{}}},
		`[{},{},{},{},{},{},{},{},{},{},{},{}]`: []any{
			DeviceConfigurationMessage{},
			HeartbeatConfiguration{},
			S3StorageConfiguration{},
			MetricsConfiguration{},
			MetricsReceiverConfiguration{},
			LogsCollectionInformation{},
			Workload{},
			WorkloadMetrics{},
			Secret{},
			EnrolmentInfo{},
			UpgradeStatus{},
			EventInfo{},
		},
	}
	for want, value := range tests {
		got, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("%T{} is %s, want %s", value, got, want)
		}
	}
}

func TestEnrolmentWithoutFeatures(t *testing.T) {
	t.Parallel()
	var info EnrolmentInfo
	decodeStrictly(t, []byte(`{}`), &info)
	if info.Features != nil || info.TargetNamespace != nil {
		t.Errorf("decoded %+v", info)
	}
}

func readDocument(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func decodeStrictly(t testing.TB, text []byte, into any) {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		t.Fatal(err)
	}
}

func plain(t testing.TB, text []byte) any {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

// untested returns the fields below value that are zero wherever they occur.
func untested(value any) []string {
	set := map[string]bool{}
	walk(reflect.ValueOf(value), "", set)
	var fields []string
	for path, nonzero := range set {
		if !nonzero {
			fields = append(fields, path)
		}
	}
	slices.Sort(fields)
	return fields
}

// walk notes, for every path of field names, whether a value was seen there that
// is not zero. A list counts by its elements.
func walk(v reflect.Value, path string, set map[string]bool) {
	if path != "" {
		set[path] = set[path] || !v.IsZero()
	}
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			walk(v.Elem(), path, set)
		}
	case reflect.Slice:
		for i := range v.Len() {
			walk(v.Index(i), path+"[]", set)
		}
	case reflect.Map:
		for _, key := range v.MapKeys() {
			walk(v.MapIndex(key), path+"{}", set)
		}
	case reflect.Struct:
		if !ours(v.Type()) {
			return
		}
		for i := range v.NumField() {
			walk(v.Field(i), path+"."+v.Type().Field(i).Name, set)
		}
	}
}

// ours reports whether the fields of a struct are looked into.
func ours(t reflect.Type) bool {
	return t.PkgPath() == reflect.TypeFor[Message]().PkgPath() && t != reflect.TypeFor[Time]()
}

func reach(t reflect.Type, set map[string]bool) {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		reach(t.Elem(), set)
	case reflect.Struct:
		if !ours(t) || set[t.Name()] {
			return
		}
		set[t.Name()] = true
		for field := range t.Fields() {
			reach(field.Type, set)
		}
	}
}
