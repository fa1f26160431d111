package console

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v2"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

func mixed() (d Document, now time.Time) {
	d = example()
	now = d.Started.Add(3*time.Hour + 12*time.Minute)
	d.Healthy = false
	d.Problems = []string{"ingress of web: disk is full"}
	d.Workloads = append(
		d.Workloads,
		Workload{
			Name: "camera", Phase: "Running", Reason: "ContainerExited", DesiredDigest: "d3", AppliedDigest: "d2",
			Message: "container app exited with code 3; last output: there is no such camera\nnot even a small one",
			Since:   now.Add(-75 * time.Second), Images: []Image{{Reference: "camera:2"}, {Reference: "proxy:1"}},
		},
		Workload{Name: "new", Phase: "Deploying", Reason: "Pulling", Message: "pulling new:1", DesiredDigest: "d4", Since: now.Add(-50 * time.Hour)},
	)
	return d, now
}

func show(t *testing.T, d Document, format string, now time.Time) string {
	t.Helper()
	var b bytes.Buffer
	if err := Show(&b, d, format, now, false); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// golden compares with a file; UPDATE=1 writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	d, now := mixed()
	golden(t, "mixed.txt", show(t, d, FormatTable, now))
	golden(t, "empty.txt", show(t, Document{Version: "1.2.3", Healthy: true, Device: Device{ID: "edge-7"}, Started: now}, FormatTable, now))
}

// whole has something in every section.
func whole() (d Document, now time.Time) {
	d, now = mixed()
	d.Device.Phase = PhaseManaged
	d.Device.Certificate = &Certificate{Subject: "edge-7", Issuer: "fleet", Expires: now.Add(5*24*time.Hour + 3*time.Hour)}
	d.Connection = Connection{Server: "edge.example.com:443", LastContact: now.Add(-49 * time.Hour), LastAttempt: now.Add(-time.Minute), Error: "no route to host"}
	d.Configuration.Received, d.Configuration.Applied = now.Add(-3*time.Hour), now.Add(-2*time.Hour)
	d.Queues = []Queue{
		{Name: "events", Limit: 8 << 20},
		{Name: "metrics", Waiting: 1200, Bytes: 3 << 20, Limit: 4 << 20, Oldest: now.Add(-49 * time.Hour), Dropped: Dropped{Size: 7, Refused: 2}},
	}
	d.Storage = []Storage{
		{Name: "state", Path: "/var/local/yggdrasil/device", Total: 100 << 30, Free: 50 << 30, Inodes: 1000, FreeInodes: 100},
		{Name: "volumes", Path: "/data", Total: 100 << 30, Free: 1 << 30},
		{Name: "containers", Path: "/gone", Error: "no such file or directory"},
	}
	d.OS = OS{
		Name: "Fedora IoT 44", Kernel: "6.18.1", Architecture: "x86_64", Booted: now.Add(-72 * time.Hour),
		Update: "operating system 0d305f80 is staged, and the reboot is held back: playbook \"edge-7-harden\" runs",
	}
	d.Playbooks = []Playbook{
		{Name: "edge-7-time", State: protocol.PlaybookSuccessfullyCompleted, Message: "2 ok, 1 changed", Since: now.Add(-3 * time.Hour)},
		{Name: "edge-7-users", State: protocol.PlaybookCompletedWithError, Reason: "Failed", Message: "it failed; the end of its output: fatal: [localhost]: FAILED! => no such group", Since: now.Add(-time.Hour)},
		{Name: "edge-7-harden", State: protocol.PlaybookRunning, Since: now.Add(-time.Minute)},
	}
	d.LogLevel = "info"
	return d, now
}

func TestWholeTable(t *testing.T) {
	t.Parallel()
	d, now := whole()
	golden(t, "whole.txt", show(t, d, FormatTable, now))
	golden(t, "whole.yaml", show(t, d, FormatYAML, now))
	var b bytes.Buffer
	if err := Show(&b, d, FormatTable, now, true); err != nil {
		t.Fatal(err)
	}
	golden(t, "whole-color.txt", strings.ReplaceAll(b.String(), "\x1b", "^"))
	colors := regexp.MustCompile("\x1b\\[[0-9]*m")
	if diff := cmp.Diff(show(t, d, FormatTable, now), colors.ReplaceAllString(b.String(), "")); diff != "" {
		t.Errorf("colours change the text (-without +with):\n%s", diff)
	}
}

func TestWordsOfTheHead(t *testing.T) {
	t.Parallel()
	d, now := whole()
	for want, change := range map[string]func(*Document){
		"expired 1d0h ago":            func(d *Document) { d.Device.Certificate.Expires = now.Add(-24 * time.Hour) },
		"edge-7, registering":         func(d *Document) { d.Device.Phase = PhaseRegistering },
		"connected, last contact 0s":  func(d *Document) { d.Connection = Connection{LastContact: now, LastAttempt: now} },
		"not tried yet, last contact": func(d *Document) { d.Connection = Connection{Server: "edge:1"} },
		"none yet":                    func(d *Document) { d.Configuration = Configuration{} },
		"being applied":               func(d *Document) { d.Configuration.Settled = false },
	} {
		d := d
		c := *d.Device.Certificate
		d.Device.Certificate = &c
		change(&d)
		if text := show(t, d, FormatTable, now); !strings.Contains(text, want) {
			t.Errorf("lacks %q:\n%s", want, text)
		}
	}
}

func TestJSONAndYAML(t *testing.T) {
	t.Parallel()
	d, now := mixed()
	var back Document
	if err := json.Unmarshal([]byte(show(t, d, FormatJSON, now)), &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(printable(d), back); diff != "" {
		t.Errorf("JSON (-want +got):\n%s", diff)
	}
	text := show(t, d, FormatYAML, now)
	golden(t, "mixed.yaml", text)
	var fields map[string]any
	if err := yaml.Unmarshal([]byte(text), &fields); err != nil || fields["healthy"] != false {
		t.Errorf("YAML: %v, %v", fields, err)
	}
	if err := Show(&bytes.Buffer{}, d, "xml", now, false); err == nil || !strings.Contains(err.Error(), "json") {
		t.Errorf("xml: %v", err)
	}
}

// poison puts text into every string below v.
func poison(v reflect.Value, text string) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				poison(v.Field(i), text)
			}
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		poison(v.Elem(), text)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			poison(v.Index(i), text)
		}
	}
}

// A workload writes nothing to the terminal of an administrator, whichever field
// it gets its text into, and cannot make lines of the table.
func TestNothingReachesTheTerminal(t *testing.T) {
	t.Parallel()
	const hostile = "\x1b[2J\x1b]0;owned\x07\u009b31m\u202eevil\r\nname\tPHASE\x00\xff\x7f"
	var d Document
	poison(reflect.ValueOf(&d).Elem(), hostile)
	for _, format := range []string{FormatTable, FormatJSON, FormatYAML} {
		text := show(t, d, format, time.Now())
		for _, r := range text {
			if r != '\n' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r)) {
				t.Fatalf("%s holds %q:\n%q", format, r, text)
			}
		}
		if !strings.Contains(text, "evil") {
			t.Errorf("%s does not show the text:\n%s", format, text)
		}
	}
	var before Document
	poison(reflect.ValueOf(&before).Elem(), hostile)
	if diff := cmp.Diff(before, d); diff != "" {
		t.Errorf("the document was changed:\n%s", diff)
	}
}

func TestAge(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for d, want := range map[time.Duration]string{
		-time.Hour: "0s", 59 * time.Second: "59s", 75 * time.Second: "1m15s", 3*time.Hour + 12*time.Minute: "3h12m", 50 * time.Hour: "2d2h",
	} {
		if got := age(now.Add(-d), now); got != want {
			t.Errorf("%s is %s, want %s", d, got, want)
		}
	}
	if got := age(time.Time{}, now); got != "-" {
		t.Errorf("never is %s", got)
	}
}
