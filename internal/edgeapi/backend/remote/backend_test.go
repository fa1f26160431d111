package remote

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

func enrolment() protocol.EnrolmentInfo {
	ns := "site"
	return protocol.EnrolmentInfo{TargetNamespace: &ns, Features: &protocol.DeviceFeatures{ModelName: "m"}}
}

func heartbeat() protocol.Heartbeat {
	return protocol.Heartbeat{Status: protocol.StatusUp, Version: "v1", Workloads: []protocol.WorkloadStatus{{Name: "w", Status: "Running"}}}
}

func claim(key string, own bool) edgeapi.Registration {
	return edgeapi.Registration{
		Device: dev, Own: own, KeyFingerprint: key,
		CertificateRequest: "-----BEGIN CERTIFICATE REQUEST-----", Hardware: &protocol.HardwareInfo{Hostname: "h"},
	}
}

const goodConfiguration = `{"device-configuration":{"device_id":"dev1","version":"7","configuration":{"heartbeat":{"period_seconds":60}},
	"workloads":[{"name":"w","specification":"containers: []"}]}}`

// TestRequests fixes what goes over the wire.
func TestRequests(t *testing.T) {
	t.Parallel()
	bodies := make(chan string, 10)
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		if r.Header.Get("Accept") != "application/json" || len(raw) > 0 && r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s has headers %v", r.Method, r.URL, r.Header)
		}
		bodies <- string(raw)
		switch {
		case strings.HasSuffix(r.URL.Path, "/configuration"):
			says(w, 200, goodConfiguration)
		case strings.HasSuffix(r.URL.Path, "/playbookexecutions"):
			says(w, 200, `[{"name":"p","ansible_playbook_string":"- hosts: all"}]`)
		case r.Method == http.MethodGet:
			says(w, 200, `{"status":"registered","namespace":"site"}`)
		default:
			w.WriteHeader(http.StatusOK)
		}
	})
	b := s.backend(t)
	order := []string{"enrol", "target", "complete", "configuration", "heartbeat", "managed", "playbooks"}
	all := calls(b)
	for _, name := range order {
		if err := all[name](t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	const device = "/api/flotta-backend/v1/namespaces/site/devices/dev1"
	want := []string{
		"POST " + device + "/enrolment",
		"GET " + device + "/registration",
		"GET " + device + "/registration",
		"PUT " + device + "/registration",
		"GET " + device + "/configuration",
		"PUT " + device + "/heartbeat",
		"GET " + device + "/registration",
		"GET " + device + "/playbookexecutions",
	}
	if diff := cmp.Diff(want, s.asked()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	close(bodies)
	var got []string
	for body := range bodies {
		got = append(got, body)
	}
	enrol, err := json.Marshal(enrolment())
	must(t, err)
	report, err := json.Marshal(heartbeat())
	must(t, err)
	register, err := json.Marshal(protocol.RegistrationInfo{Hardware: claim("", true).Hardware, CertificateRequest: claim("", true).CertificateRequest})
	must(t, err)
	if diff := cmp.Diff([]string{string(enrol), "", "", string(register), "", string(report), "", ""}, got); diff != "" {
		t.Errorf("bodies (-want +got):\n%s", diff)
	}
	if n := s.dialled(); n != 1 {
		t.Errorf("%d connections for %d calls in a row, want 1", n, len(want))
	}
}

func TestEnrol(t *testing.T) {
	t.Parallel()
	tests := []struct {
		status int
		exists bool
		is     error
	}{
		{status: 200, exists: true},
		{status: 201},
		{status: 202},
		{status: 204},
		{status: 400, is: edgeapi.ErrInvalid},
		{status: 404, is: edgeapi.ErrNotFound},
		{status: 422, is: edgeapi.ErrInvalid},
	}
	for _, tt := range tests {
		s := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(tt.status) })
		exists, err := s.backend(t).Enrol(t.Context(), dev, enrolment())
		if exists != tt.exists || !errors.Is(err, tt.is) {
			t.Errorf("%d gives %v, %v", tt.status, exists, err)
		}
	}
}

func TestManaged(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]bool{
		`{"status":"registered"}`:                      true,
		`{"status":"unknown"}`:                         true,
		`{"status":"Unregistered"}`:                    true, // not the word
		`{"status":"something new"}`:                   true,
		`{"status":"unregistered"}`:                    false,
		`{"status":"unregistered","namespace":"site"}`: false,
	} {
		got, err := serve(t, always(200, body)).backend(t).Managed(t.Context(), dev)
		if err != nil || got != want {
			t.Errorf("%s gives %v, %v", body, got, err)
		}
	}
}

// TestDoubtIsAnError: no failure, and nothing odd, ends a device's management or
// empties its configuration.
func TestDoubtIsAnError(t *testing.T) {
	t.Parallel()
	answers := map[string]http.HandlerFunc{
		"empty":               func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200) },
		"empty JSON":          always(200, ``),
		"no content":          func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) },
		"created":             always(201, `{"status":"unregistered"}`),
		"not modified":        func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(304) },
		"null":                always(200, `null`),
		"an object":           always(200, `{}`),
		"a list":              always(200, `[1]`),
		"a number":            always(200, `7`),
		"not JSON":            always(200, `<html>hello`),
		"half":                always(200, `{"status":"unregistered"`),
		"two":                 always(200, `{"status":"unregistered"}{}`),
		"wrong types":         always(200, `{"status":1,"device-configuration":"x"}`),
		"nothing inside":      always(200, `{"device-configuration":{},"status":""}`),
		"null inside":         always(200, `{"device-configuration":null,"status":null}`),
		"of another":          always(200, `{"device-configuration":{"device_id":"dev2"},"status":"registered","namespace":"../x"}`),
		"no name":             always(200, `{"device-configuration":{"device_id":"dev1","workloads":[null]},"namespace":"x"}`),
		"bad request":         always(400, `{"status":"unregistered"}`),
		"unauthorised":        always(401, ``),
		"forbidden":           always(403, `{"status":"unregistered"}`),
		"not found":           always(404, `{"status":"unregistered"}`),
		"gone":                always(410, `{"status":"unregistered"}`),
		"server error":        always(500, `{"status":"unregistered"}`),
		"not implemented":     always(501, `{"status":"unregistered"}`),
		"unavailable":         always(503, `{"status":"unregistered"}`),
		"unknown status code": always(799, `{"status":"unregistered"}`),
		"wrong type": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, `{"status":"unregistered"}`)
		},
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		},
		"huge": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"status":"unregistered","message":"`)
			chunk := []byte(strings.Repeat("x", 1<<16))
			for range maxAnswer/len(chunk) + 1 {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
			_, _ = io.WriteString(w, `"}`)
		},
		"cut": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, `{"status":"unregistered"}`)
			panic(http.ErrAbortHandler)
		},
	}
	for name, h := range answers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := serve(t, h).backend(t)
			all := calls(b)
			for _, call := range []string{"managed", "configuration"} {
				if err := all[call](t.Context()); err == nil {
					t.Errorf("%s: no error", call)
				}
			}
			// null is how some write an empty list.
			if err := all["playbooks"](t.Context()); err == nil && name != "null" {
				t.Error("playbooks: no error")
			}
		})
	}
}

func TestStatusesOfConfiguration(t *testing.T) {
	t.Parallel()
	for _, status := range []int{400, 401, 403, 404, 500} {
		b := serve(t, always(status, `{"message":"said so"}`)).backend(t)
		_, err := b.Configuration(t.Context(), dev)
		if err == nil || !strings.Contains(err.Error(), "said so") {
			t.Errorf("%d gives %v", status, err)
		}
		if is := errors.Is(err, edgeapi.ErrNotFound); is != (status == 404) {
			t.Errorf("%d gives %v", status, err)
		}
		for _, known := range []error{edgeapi.ErrForbidden, edgeapi.ErrInvalid, edgeapi.ErrUnauthorised, edgeapi.ErrNotApproved} {
			if errors.Is(err, known) {
				t.Errorf("%d gives %v", status, err)
			}
		}
	}
}

func TestNamesAreNoPaths(t *testing.T) {
	t.Parallel()
	s := serve(t, always(200, `{"status":"unregistered"}`))
	b := s.backend(t)
	for _, d := range []edgeapi.Device{
		{Namespace: "site", ID: ".."},
		{Namespace: "site", ID: ""},
		{Namespace: "..", ID: "dev1"},
		{Namespace: "site", ID: "a/b"},
		{Namespace: "site", ID: "a%2fb"},
		{Namespace: "site", ID: "a?b"},
		{Namespace: "a/b", ID: "dev1"},
		{Namespace: "site", ID: "DEV1"},
	} {
		if _, err := b.Managed(t.Context(), d); !errors.Is(err, edgeapi.ErrNotFound) {
			t.Errorf("%q: %v", d, err)
		}
	}
	if asked := s.asked(); len(asked) > 0 {
		t.Errorf("the service was asked %v", asked)
	}
}

func TestConfigurationIsStable(t *testing.T) {
	t.Parallel()
	answers := make(chan string, 10)
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) { says(w, 200, <-answers) })
	b := s.backend(t)
	get := func(answer string) edgeapi.Rendered {
		t.Helper()
		answers <- answer
		r, err := b.Configuration(t.Context(), dev)
		must(t, err)
		return r
	}
	first := get(`{"device-configuration":{"device_id":"dev1","workloads":[{"name":"w","labels":{"a":"1","b":"2"}}]},"message":"x"}`)
	again := get(`{"device-configuration":{"workloads":[{"labels":{"b":"2","a":"1"},"name":"w","new":true}],"device_id":"dev1"}}`)
	if diff := cmp.Diff(first, again); diff != "" {
		t.Errorf("the same content is another configuration:\n%s", diff)
	}
	other := get(`{"device-configuration":{"device_id":"dev1","workloads":[{"name":"v"}]}}`)
	if other.Version == first.Version || other.At.Equal(first.At) {
		t.Errorf("another content is the same configuration: %+v", other)
	}
	var m protocol.DeviceConfigurationMessage
	must(t, json.Unmarshal(first.JSON, &m))
	if m.DeviceID != "dev1" || m.Version == "" {
		t.Errorf("device %q version %q", m.DeviceID, m.Version)
	}
	answers <- `{"device-configuration":{"device_id":"dev1","workloads":[{"name":"v"}]}}`
	replica, err := s.backend(t).Configuration(t.Context(), dev)
	must(t, err)
	if replica.Version != other.Version || string(replica.JSON) != string(other.JSON) {
		t.Errorf("another replica renders otherwise: %s, %s", replica.JSON, other.JSON)
	}
}

func TestConfigurationIsNotSentTwice(t *testing.T) {
	t.Parallel()
	etag := make(chan string, 1)
	etag <- `"one"`
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		now := <-etag
		etag <- now
		w.Header().Set("ETag", now)
		if r.Header.Get("If-None-Match") == now {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		says(w, 200, strings.Replace(goodConfiguration, `"7"`, now, 1))
	})
	b := s.backend(t)
	get := func() edgeapi.Rendered {
		t.Helper()
		r, err := b.Configuration(t.Context(), dev)
		must(t, err)
		return r
	}
	first, second := get(), get()
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("304 gives another configuration:\n%s", diff)
	}
	if n := metric(t, b, "flotta_api_remote_not_modified_total"); n != 1 {
		t.Errorf("%v answers without content, want 1", n)
	}
	<-etag
	etag <- `"two"`
	if third := get(); third.Version == first.Version {
		t.Error("a change did not arrive")
	}
}

func TestPlaybooks(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]int{`null`: 0, `[]`: 0, `[{"name":"a"},{"name":"b"}]`: 2} {
		list, err := serve(t, always(200, body)).backend(t).Playbooks(t.Context(), dev)
		if err != nil || len(list) != want {
			t.Errorf("%s gives %v, %v", body, list, err)
		}
	}
	text, err := os.ReadFile("../../../../pkg/protocol/testdata/playbook-executions-response.json")
	if err != nil {
		t.Fatal(err)
	}
	var want []protocol.PlaybookExecution
	if err := json.Unmarshal(text, &want); err != nil || want[0].ID == "" || want[0].Become == nil {
		t.Fatalf("%+v, %v", want, err)
	}
	list, err := serve(t, always(200, string(text))).backend(t).Playbooks(t.Context(), dev)
	if err != nil || !cmp.Equal(want, list) {
		t.Errorf("with all fields: %v, %s", err, cmp.Diff(want, list))
	}
	_, err = serve(t, always(404, ``)).backend(t).Playbooks(t.Context(), dev)
	if !errors.Is(err, edgeapi.ErrNotFound) {
		t.Errorf("404 gives %v", err)
	}
}

func TestCallerGoesAway(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	s := serve(t, func(http.ResponseWriter, *http.Request) { <-release })
	t.Cleanup(func() { close(release) })
	b := s.backend(t)
	for range tolerance + 1 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		_, err := b.Managed(ctx, dev)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("error is %v", err)
		}
	}
	if err := b.Ready(t.Context()); err != nil {
		t.Errorf("impatient devices opened the circuit: %v", err)
	}
}
