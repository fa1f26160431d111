package remote

import (
	"encoding/json"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

func seeds(f *testing.F, more ...string) {
	f.Helper()
	for _, s := range append(more, `{}`, `null`, `[]`, `"`, ``, `{"status":"unregistered"}`, `[null]`) {
		f.Add(200, "application/json", []byte(s))
	}
	f.Add(404, "text/html; charset=x", []byte(`{"message":"x"}`))
}

// FuzzConfiguration: what is taken for a configuration can be told to a device,
// names it, and comes out the same a second time.
func FuzzConfiguration(f *testing.F) {
	full, err := os.ReadFile("../../../../pkg/protocol/testdata/device-configuration-message.json")
	if err != nil {
		f.Fatal(err)
	}
	seeds(f, goodConfiguration, `{"device-configuration":`+string(full)+`}`, `{"device-configuration":{"device_id":"dev1"}}`)
	f.Fuzz(func(t *testing.T, status int, contentType string, body []byte) {
		resp := response{status: status, contentType: contentType, body: body}
		if err := resp.failure(true); err == nil {
			t.Fatal("a refusal that is none")
		}
		first, err := render(resp, dev)
		if err != nil {
			return
		}
		var m protocol.DeviceConfigurationMessage
		must(t, json.Unmarshal(first.JSON, &m))
		if m.DeviceID != dev.ID || m.Version == "" {
			t.Fatalf("device %q, version %q", m.DeviceID, m.Version)
		}
		body, err = json.Marshal(deviceConfiguration{Configuration: &m})
		must(t, err)
		second, err := render(response{status: 200, body: body}, dev)
		must(t, err)
		first.At, second.At = time.Time{}, time.Time{}
		if diff := cmp.Diff(first, second); diff != "" {
			t.Fatalf("rendered again it differs:\n%s", diff)
		}
	})
}

// FuzzStatus: a device is unregistered only if that is written there.
func FuzzStatus(f *testing.F) {
	seeds(f, `{"status":"registered","namespace":"site"}`, `{"status":"unregistered","status":"x"}`)
	f.Fuzz(func(t *testing.T, status int, contentType string, body []byte) {
		s, err := decodeStatus(response{status: status, contentType: contentType, body: body})
		if err != nil {
			return
		}
		if s.Status == "" {
			t.Fatal("no status")
		}
		if s.Namespace != "" && checkNames(edgeapi.Device{Namespace: s.Namespace, ID: "dev1"}) != nil {
			t.Fatalf("namespace %q", s.Namespace)
		}
	})
}

// FuzzPlaybooks: every playbook has a name.
func FuzzPlaybooks(f *testing.F) {
	seeds(f, `[{"name":"p","last_data_upload":"2026-01-02T03:04:05Z"}]`)
	f.Fuzz(func(t *testing.T, status int, contentType string, body []byte) {
		list, err := decodePlaybooks(response{status: status, contentType: contentType, body: body})
		if err != nil && !errors.Is(err, errNonsense) {
			t.Fatal(err)
		}
		for _, p := range list {
			if p.Name == "" {
				t.Fatal("a playbook without a name")
			}
		}
	})
}
