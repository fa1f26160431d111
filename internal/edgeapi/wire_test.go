package edgeapi_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// What is wrong with a request as HTTP or JSON is said in a body, with the
// numbers of flotta v0.2.
func TestRequestErrors(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{auto: true})
	own, _ := r.join("dev1")
	out := "/data/dev1/out"
	for name, tt := range map[string]struct {
		method, path, body, contentType string
		status, code                    int
	}{
		"unknown path":           {"GET", "/nothing", "", "", 404, 404},
		"too short":              {"GET", "/data/dev1", "", "", 404, 404},
		"too long":               {"GET", "/data/dev1/in/x", "", "", 404, 404},
		"no device":              {"GET", "/data//in", "", "", 404, 404},
		"unknown channel":        {"GET", "/events/dev1/in", "", "", 404, 404},
		"wrong method":           {"POST", "/data/dev1/in", "{}", "", 405, 405},
		"wrong method out":       {"GET", out, "", "", 405, 405},
		"head":                   {"PUT", "/control/dev1/in", "", "", 405, 405},
		"content type":           {"POST", out, "a: b", "application/yaml", 415, 415},
		"no body":                {"POST", out, "", "application/json", 422, 602},
		"blank body":             {"POST", out, " \n", "", 422, 602},
		"bad type":               {"POST", out, `{"type":"nonsense"}`, "", 422, 606},
		"not JSON":               {"POST", out, `{"type":`, "", 400, 400},
		"wrong JSON type":        {"POST", out, `{"message_id":7}`, "", 400, 400},
		"two documents":          {"POST", out, `{}{}`, "", 400, 400},
		"array":                  {"POST", out, `[]`, "", 400, 400},
		"control: no body":       {"POST", "/control/dev1/out", "", "application/json", 422, 602},
		"control: bad type":      {"POST", "/control/dev1/out", `{"type":"x"}`, "", 422, 606},
		"control: wrong content": {"POST", "/control/dev1/out", `x`, "text/plain", 415, 415},
	} {
		header := []string{}
		if tt.contentType != "" {
			header = []string{"Content-Type", tt.contentType}
		}
		got := r.do(own, tt.method, tt.path, tt.body, header...)
		var body struct {
			Code    int    `json:"code"`
			Message string `json:"message"`
		}
		if err := json.Unmarshal(got.body, &body); err != nil {
			t.Errorf("%s: body %q: %v", name, got.body, err)
		}
		if got.status != tt.status || body.Code != tt.code || body.Message == "" {
			t.Errorf("%s: %d %s, want status %d and code %d", name, got.status, got.body, tt.status, tt.code)
		}
		if ct := got.header.Get("Content-Type"); ct != "application/json" {
			t.Errorf("%s: content type %q", name, ct)
		}
	}
	// These come before the certificate is looked at.
	forged := r.client(r.forge("default", "dev1"))
	if got := r.do(forged, "GET", "/nothing", ""); got.status != http.StatusNotFound {
		t.Errorf("unknown path with a forged certificate: %d", got.status)
	}
	if got := r.do(own, "POST", "/data/dev1/in", "{}"); got.header.Get("Allow") != "GET" {
		t.Errorf("Allow: %q", got.header.Get("Allow"))
	}
}

func TestContentOfTheWrongTypeIsNamedInTheLog(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{auto: true})
	own, _ := r.join("dev1")
	got := r.do(own, "POST", "/data/dev1/out", `{"directive":"heartbeat","content":{"workloads":7}}`)
	want(t, "heartbeat", got, http.StatusBadRequest)
	if log := r.log.String(); !strings.Contains(log, "workloads") || !strings.Contains(log, "request refused") {
		t.Errorf("log does not name the field:\n%s", log)
	}
	// Enums inside the content are not enforced: agents send Podman's words.
	want(t, "free status", r.do(own, "POST", "/data/dev1/out", `{"directive":"heartbeat","content":{"status":"whatever"}}`), http.StatusOK)
	want(t, "no content", r.do(own, "POST", "/data/dev1/out", `{"directive":"heartbeat"}`), http.StatusOK)
	want(t, "null content", r.do(own, "POST", "/data/dev1/out", `{"directive":"heartbeat","content":null}`), http.StatusOK)
	want(t, "null elements", r.do(own, "POST", "/data/dev1/out",
		`{"directive":"heartbeat","content":{"hardware":{"interfaces":[null],"disks":[null],"gpus":[null],"host_devices":[null],"mounts":[null]},"events":[null],"workloads":[null],"playbook-executions":[null]}}`), http.StatusOK)
	want(t, "enrolment without features", r.do(own, "POST", "/data/dev1/out", `{"directive":"enrolment"}`), http.StatusAlreadyReported)
}

func TestConfigurationAndETag(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{auto: true})
	own, _ := r.join("dev1")
	first := r.do(own, "GET", "/data/dev1/in", "")
	want(t, "first", first, http.StatusOK)
	var m protocol.Message
	r.must(json.Unmarshal(first.body, &m))
	var content protocol.DeviceConfigurationMessage
	r.must(json.Unmarshal(m.Content, &content))
	if m.Type != protocol.TypeData || m.Directive != protocol.DirectiveDevice || m.Version != 1 || m.MessageID == "" || m.Sent == nil {
		t.Errorf("envelope: %s", first.body)
	}
	if content.DeviceID != "dev1" || content.Configuration == nil || content.Configuration.Heartbeat.PeriodSeconds != 60 {
		t.Errorf("content: %s", m.Content)
	}
	etag := first.header.Get("ETag")
	if etag != `"`+content.Version+`"` {
		t.Errorf("ETag %s of version %s", etag, content.Version)
	}
	// Strong: the same tag means the same bytes.
	if again := r.do(own, "GET", "/data/dev1/in", ""); string(again.body) != string(first.body) {
		t.Errorf("bytes changed:\n%s", cmp.Diff(string(first.body), string(again.body)))
	}
	for _, header := range []string{etag, `"x", ` + etag, "W/" + etag, "*"} {
		got := r.do(own, "GET", "/data/dev1/in", "", "If-None-Match", header)
		if got.status != http.StatusNotModified || len(got.body) > 0 || got.header.Get("ETag") != etag {
			t.Errorf("If-None-Match %s: %d %q", header, got.status, got.body)
		}
	}
	want(t, "other tag", r.do(own, "GET", "/data/dev1/in", "", "If-None-Match", `"x"`), http.StatusOK)

	r.write("manifests/dev1.yaml", `{apiVersion: management.project-flotta.io/v1alpha1, kind: EdgeDevice, metadata: {name: dev1}, spec: {heartbeat: {periodSeconds: 7}}}`)
	r.eventually("new configuration", func() bool {
		got := r.do(own, "GET", "/data/dev1/in", "", "If-None-Match", etag)
		return got.status == http.StatusOK && strings.Contains(string(got.body), `"period_seconds":7`)
	})
}

func TestAnsible(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{auto: true, edit: func(c *edgeapi.Config) {
		c.Backend = playbooks{c.Backend}
	}})
	own, _ := r.join("dev1")
	second, _ := r.join("dev2")
	for id, list := range map[string]string{
		"dev1": `[]`,
		"dev2": `[{"name":"p","ansible_playbook_string":"- \"x\"","last_data_upload":"0001-01-01T00:00:00.000Z"}]`,
	} {
		c := own
		if id == "dev2" {
			c = second
		}
		got := r.send(c, id, protocol.DirectiveAnsible, nil)
		want(t, id, got, http.StatusOK)
		var m protocol.MessageResponse
		r.must(json.Unmarshal(got.body, &m))
		var text string
		if err := json.Unmarshal(m.Content, &text); err != nil || text != list {
			t.Errorf("content %s, want the string %s", m.Content, list)
		}
		for _, key := range []string{"message-id", "crc_dispatcher_correlation_id", "return_url"} {
			if s, ok := m.Metadata[key].(string); !ok || s == "" {
				t.Errorf("metadata %s is %v", key, m.Metadata[key])
			}
		}
		if m.MessageID != "message-1" || m.Directive != "ansible" {
			t.Errorf("not echoed: %s", got.body)
		}
	}
}

// playbooks gives dev2 one.
type playbooks struct{ edgeapi.Backend }

func (p playbooks) Playbooks(ctx context.Context, d edgeapi.Device) ([]protocol.PlaybookExecution, error) {
	if d.ID == "dev2" {
		return []protocol.PlaybookExecution{{Name: "p", AnsiblePlaybookString: `- "x"`}}, nil
	}
	return p.Backend.Playbooks(ctx, d)
}

// broken fails or panics on demand, and can hold a request up.
type broken struct {
	edgeapi.Backend
	err    error
	panics bool
	ready  atomic.Bool
	enter  chan struct{}
	leave  chan struct{}
}

func (b *broken) Managed(ctx context.Context, d edgeapi.Device) (bool, error) {
	switch {
	case b.panics:
		panic("on demand")
	case b.enter != nil:
		b.enter <- struct{}{}
		<-b.leave
	}
	if b.err != nil {
		return false, b.err
	}
	return b.Backend.Managed(ctx, d)
}

func (b *broken) Ready(ctx context.Context) error {
	if !b.ready.Load() {
		return errors.New("not today")
	}
	return b.Backend.Ready(ctx)
}

func TestPanicCostsOneRequest(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{auto: true, edit: func(c *edgeapi.Config) { c.Backend = &broken{Backend: c.Backend, panics: true} }})
	own, _ := r.join("dev1")
	for range 2 {
		want(t, "panic", r.do(own, "GET", "/control/dev1/in", ""), http.StatusInternalServerError)
	}
	want(t, "after it", r.do(own, "GET", "/data/dev1/in", ""), http.StatusOK)
	if log := r.log.String(); !strings.Contains(log, "request panicked") || !strings.Contains(log, "wire_test.go") {
		t.Error("no stack in the log")
	}
	if got := r.metric("flotta_api_panics_total"); got != "2" {
		t.Errorf("counted %s panics", got)
	}
}

// A backend in trouble never looks like a device that is gone.
func TestBackendErrorIs500(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{auto: true, edit: func(c *edgeapi.Config) { c.Backend = &broken{Backend: c.Backend, err: errors.New("disk on fire")} }})
	own, _ := r.join("dev1")
	want(t, "control in", r.do(own, "GET", "/control/dev1/in", ""), http.StatusInternalServerError)
	if !strings.Contains(r.log.String(), "disk on fire") {
		t.Error("not in the log")
	}
}

func (r *rig) adminGet(path string) (int, string) {
	r.t.Helper()
	resp, err := http.Get("http://" + r.server.AdminAddrs()[0].String() + path)
	r.must(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	r.must(err)
	http.DefaultClient.CloseIdleConnections()
	return resp.StatusCode, string(body)
}

// metric returns the value of one sample.
func (r *rig) metric(name string) string {
	r.t.Helper()
	_, body := r.adminGet("/metrics")
	for line := range strings.Lines(body) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func TestMetricsAndProbes(t *testing.T) {
	t.Parallel()
	var faulty *broken
	r := newRig(t, rigOptions{auto: true, edit: func(c *edgeapi.Config) {
		faulty = &broken{Backend: c.Backend}
		c.Backend = faulty
	}})
	if status, body := r.adminGet("/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, "not today") {
		t.Errorf("readyz: %d %s", status, body)
	}
	faulty.ready.Store(true)
	for _, path := range []string{"/readyz", "/healthz"} {
		if status, body := r.adminGet(path); status != http.StatusOK {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	own, _ := r.join("dev1")
	want(t, "heartbeat", r.send(own, "dev1", "heartbeat", protocol.Heartbeat{}), http.StatusOK)
	want(t, "foreign", r.send(own, "dev2", "heartbeat", protocol.Heartbeat{}), http.StatusForbidden)
	want(t, "forged", r.do(r.client(r.forge("default", "dev1")), "GET", "/data/dev1/in", ""), http.StatusUnauthorized)
	for name, value := range map[string]string{
		"flotta_api_edge_devices_heartbeat": "1", "flotta_api_edge_devices_successful_registration": "1",
		"flotta_api_edge_devices_invalid_owner": "1", "flotta_api_edge_devices_failed_authentication": "1",
		"flotta_api_edge_devices_failed_registration": "0", "flotta_api_edge_devices_unregistration": "0",
		`flotta_api_request_duration_seconds_count{code="200",operation="heartbeat"}`: "1",
		`flotta_api_request_size_bytes_count{operation="heartbeat"}`:                  "2",
	} {
		if got := r.metric(name); got != value {
			t.Errorf("%s is %q, want %s", name, got, value)
		}
	}
	// Defect 7.2.17: leaving was counted at every poll.
	_, err := r.admin.Delete(context.Background(), "dev1")
	r.must(err)
	r.eventually("disconnect", func() bool { return len(r.do(own, "GET", "/control/dev1/in", "").body) > 0 })
	r.do(own, "GET", "/control/dev1/in", "")
	if got := r.metric("flotta_api_edge_devices_unregistration"); got != "1" {
		t.Errorf("one device left, counted %s", got)
	}
}

func TestHandshake(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(r.keys.Authority().CertificatePEM())
	dial := func(cfg *tls.Config) error {
		conn, err := tls.Dial("tcp", r.server.Addr().String(), cfg)
		if err != nil {
			return err
		}
		defer conn.Close()
		// With TLS 1.3 the client learns of a refusal with its first read.
		r.must(conn.SetDeadline(time.Now().Add(10 * time.Second)))
		if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
			return err
		}
		_, err = io.ReadAll(conn)
		return err
	}
	if err := dial(&tls.Config{RootCAs: pool, ServerName: "localhost"}); err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("without a certificate: %v", err)
	}
	certs := []tls.Certificate{r.registerCert()}
	if err := dial(&tls.Config{RootCAs: pool, ServerName: "localhost", Certificates: certs, MaxVersion: tls.VersionTLS12}); err == nil {
		t.Error("TLS 1.2 was accepted")
	}
	if err := dial(&tls.Config{RootCAs: pool, ServerName: "localhost", Certificates: certs}); err != nil {
		t.Error(err)
	}
	if err := dial(&tls.Config{RootCAs: pool, ServerName: "elsewhere", Certificates: certs}); err == nil {
		t.Error("the server's certificate is good for any name")
	}
}

// A client that sends its request a byte at a time, or none at all, is cut off.
func TestSlowClientIsCutOff(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{edit: func(c *edgeapi.Config) {
		c.HeaderTimeout, c.ReadTimeout = 2*time.Second, 3*time.Second // also of the handshake
	}})
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(r.keys.Authority().CertificatePEM())
	for name, head := range map[string]string{
		"no header":   "",
		"half header": "GET / HTTP/1.1\r\nHost",
		"half a body": "POST " + protocol.BasePath + "/data/dev1/out HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
	} {
		conn, err := tls.Dial("tcp", r.server.Addr().String(), &tls.Config{RootCAs: pool, ServerName: "localhost", Certificates: []tls.Certificate{r.registerCert()}})
		r.must(err)
		_, err = io.WriteString(conn, head)
		r.must(err)
		r.must(conn.SetReadDeadline(time.Now().Add(10 * time.Second)))
		_, err = io.ReadAll(conn)
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			t.Errorf("%s: connection still open", name)
		}
		_ = conn.Close()
	}
}

func TestShutdownLetsRequestsFinish(t *testing.T) {
	t.Parallel()
	hold := &broken{enter: make(chan struct{}), leave: make(chan struct{})}
	r := newRig(t, rigOptions{auto: true, edit: func(c *edgeapi.Config) {
		hold.Backend = c.Backend
		c.Backend = hold
	}})
	own, _ := r.join("dev1")
	got := make(chan reply, 1)
	go func() { got <- r.do(own, "GET", "/control/dev1/in", "") }()
	<-hold.enter
	r.stop()
	// Nobody new is let in from here on.
	r.eventually("listener closed", func() bool {
		conn, err := net.Dial("tcp", r.server.Addr().String())
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	})
	close(hold.leave)
	want(t, "request under way", <-got, http.StatusOK)
	if err := <-r.done; err != nil {
		t.Errorf("Run returned %v", err)
	}
}

func TestShutdownCutsOffWhatHangs(t *testing.T) {
	t.Parallel()
	hold := &broken{err: errors.New("too late"), enter: make(chan struct{}), leave: make(chan struct{})}
	r := newRig(t, rigOptions{auto: true, edit: func(c *edgeapi.Config) {
		hold.Backend = c.Backend
		c.Backend = hold
		c.ShutdownTimeout = 100 * time.Millisecond
	}})
	own, _ := r.join("dev1")
	failed := make(chan error, 1)
	go func() {
		resp, err := own.Get(r.url("/control/dev1/in"))
		if err == nil {
			_ = resp.Body.Close()
		}
		failed <- err
	}()
	<-hold.enter
	r.stop()
	if err := <-r.done; err != nil {
		t.Errorf("Run returned %v", err)
	}
	if err := <-failed; err == nil {
		t.Error("a request that hung was answered")
	}
	close(hold.leave)
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	_, err := edgeapi.New(edgeapi.Config{Namespaces: []string{"Bad Name"}, MaxBodyBytes: -1})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, field := range []string{"Authority", "Certificate", "Backend", "Logger", "Namespaces", "MaxBodyBytes"} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("error does not name %s: %v", field, err)
		}
	}
}

// Whatever a device sends, it is answered, and never with 500.
func FuzzDataOut(f *testing.F) {
	r := newRig(f, rigOptions{auto: true})
	own, _ := r.join("dev1")
	for _, seed := range []string{
		`{}`, `null`, `[]`, `{"directive":"heartbeat","content":{}}`, `{"directive":"heartbeat","content":[]}`,
		`{"directive":"enrolment","content":{"features":null,"target_namespace":"x"}}`,
		`{"directive":"registration","content":{"certificate_request":"-----BEGIN CERTIFICATE REQUEST-----"}}`,
		`{"directive":"ansible"}`, `{"type":"data","version":1e400}`, `{"sent":"yesterday"}`,
		`{"directive":"heartbeat","content":{"hardware":{"cpu":{"frequency":-1e308,"flags":[null]},"mounts":[{}]},"events":[{"type":"\u0000"}]}}`,
		"{\"directive\":\"heartbeat\",\"content\":{\"status\":\"\xff\xfe\"}}",
		`{"metadata":{"a":[[[[[[]]]]]]}}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		if body == "" {
			return
		}
		inner := *r
		inner.t = t
		if got := inner.do(own, "POST", "/data/dev1/out", body); got.status >= 500 {
			t.Errorf("status %d for %q", got.status, body)
		}
	})
}
