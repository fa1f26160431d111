package agent

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/bundle"
	"github.com/project-flotta/flotta-agent/internal/doctor"
	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// canaries are the secrets of a device, by where they live.
type canaries map[string]string

func plant() canaries {
	out := canaries{}
	for _, place := range []string{
		"s3-key-id", "s3-secret-key", "secret-value", "secret-with-marks", "auth-password", "auth-token", "receiver-password", "receiver-query",
		"env-password", "configmap-password", "yggd-password", "podman-env", "podman-argument", "url-in-a-log", "bearer-in-a-log",
	} {
		out[place] = "cAnary-" + place + "-7f3a9c"
	}
	out["secret-with-marks"] = `cAn/ry+"with" <all> & marks=%2F\`
	return out
}

func encode(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

func quote(v any) string {
	raw, _ := json.Marshal(v) //nolint:errchkjson // texts and maps of them
	return string(raw)
}

// privateKey returns a new key as PEM.
func privateKey(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func (c canaries) message(tlsKey, logKey string) protocol.DeviceConfigurationMessage {
	return protocol.DeviceConfigurationMessage{
		DeviceID: "edge-7", Version: "9f2b7e",
		Configuration: &protocol.DeviceConfiguration{
			Storage: &protocol.StorageConfiguration{S3: &protocol.S3StorageConfiguration{
				BucketHost: "s3.example.com", BucketPort: 9000, BucketName: "fleet",
				AWSAccessKeyID: encode(c["s3-key-id"]), AWSSecretAccessKey: encode(c["s3-secret-key"]),
			}},
			Metrics: &protocol.MetricsConfiguration{Receiver: &protocol.MetricsReceiverConfiguration{
				URL: "https://me:" + url.QueryEscape(c["receiver-password"]) + "@prometheus.example.com/api/v1/write?u=me&p=" + url.QueryEscape(c["receiver-query"]),
			}},
			LogCollection: map[string]protocol.LogsCollectionInformation{
				"central": {Kind: "syslog", SyslogConfig: &protocol.SyslogConfig{Address: "logs.example.com:6514", Protocol: "tls", ClientKey: logKey}},
				"local":   {Kind: "syslog", SyslogConfig: &protocol.SyslogConfig{Address: "192.0.2.9:514", Protocol: "udp"}},
			},
		},
		Secrets: []protocol.Secret{{Name: "db", Data: quote(map[string]string{
			"password": encode(c["secret-value"]), "marks": encode(c["secret-with-marks"]), "tls.key": encode(tlsKey),
		})}},
		Workloads: []protocol.Workload{{
			Name: "web",
			ImageRegistries: &protocol.ImageRegistries{AuthFile: quote(map[string]any{"auths": map[string]any{
				"registry.example.com": map[string]string{"auth": encode("me:" + c["auth-password"]), "identitytoken": c["auth-token"]},
			}})},
			Specification: "containers:\n- name: app\n  image: registry.example.com/web:1\n  env:\n  - name: DB_PASSWORD\n    value: " + c["env-password"] + "\n",
			ConfigMaps:    []string{"kind: ConfigMap\nmetadata: {name: c}\ndata:\n  db-password: " + c["configmap-password"] + "\n"},
		}},
	}
}

// rig is a device on paper: its files are in a folder, its Podman and its commands
// are made up, and both talk.
type rig struct {
	device *Examination
	host   doctor.Host
	said   map[string]string // by canary
	logs   string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	dir := t.TempDir()
	c := plant()
	tlsKey, deviceKey, registerKey, logKey := privateKey(t), privateKey(t), privateKey(t), privateKey(t)
	yggd, state := filepath.Join(dir, "ygg"), filepath.Join(dir, "state")
	write(t, filepath.Join(dir, "agent.toml"), "state-dir = \""+state+"\"\n[runtime]\nmode = \"root\"\n")
	write(t, filepath.Join(yggd, "pki", "cert.pem"), "no certificate\n"+deviceKey)
	write(t, filepath.Join(yggd, "pki", "register.pem"), registerKey)
	write(t, filepath.Join(yggd, "config.toml"), fmt.Sprintf("client-id = \"edge-7\"\nserver = \"edge.example.com\"\ncert-file = %q\nkey-file = %q\nca-root = [%q]\npassword = %q\n",
		filepath.Join(yggd, "pki", "cert.pem"), filepath.Join(yggd, "pki", "cert.pem"), filepath.Join(yggd, "ca.pem"), c["yggd-password"]))
	write(t, filepath.Join(state, "volumes", "web", "private.txt"), "x")
	record := map[string]any{"accepted": time.Now(), "message": c.message(tlsKey, logKey)}
	if err := durable.SaveDocument(filepath.Join(state, "desired.json"), "desired-state", 1, record, 0o600); err != nil {
		t.Fatal(err)
	}
	r := &rig{device: Examine(ExaminePaths{Config: filepath.Join(dir, "agent.toml"), Yggd: yggd}), said: c}
	for name, key := range map[string]string{"tls-key": tlsKey, "device-key": deviceKey, "register-key": registerKey, "log-key": logKey} {
		r.said[name] = strings.Split(key, "\n")[1] // what is in the frame
	}
	r.host = doctor.ThisHost()
	podman := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { _, _ = io.WriteString(w, c.podman(q.URL.Path)) }))
	t.Cleanup(podman.Close)
	r.host.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", podman.Listener.Addr().String())
	}
	r.logs = c.logs() + tlsKey + strings.ReplaceAll(deviceKey, "\n", `\n`)
	r.host.Command = func(_ context.Context, name string, _ ...string) (string, error) {
		if name == "journalctl" {
			return r.logs, nil
		}
		return "", errors.New("exit status 1: " + r.logs)
	}
	return r
}

// podman is what Podman says of a container.
func (c canaries) podman(path string) string {
	if strings.HasSuffix(path, "/containers/json") {
		return `[{"Id":"abc","Command":["run","--token","` + c["podman-argument"] + `"],"Names":["web-app"]}]`
	}
	return quote(map[string]any{
		"Id": "abc", "Config": map[string]any{
			"Env": []string{"PATH=/bin", "DB=" + c["podman-env"]}, "Cmd": []string{"--password=" + c["podman-argument"]},
		},
	})
}

// logs is what careless programs write: each secret in each way, some twice
// wrapped.
func (c canaries) logs() string {
	var b strings.Builder
	for place, text := range c {
		switch place {
		case "podman-env", "podman-argument": // the agent does not know them, but where they are
			continue
		case "url-in-a-log":
			fmt.Fprintf(&b, "GET https://me:%s@host/ failed\n", text)
			continue
		case "bearer-in-a-log":
			fmt.Fprintf(&b, "Authorization: Bearer %s\n", text)
			continue
		}
		for _, form := range ways(text) {
			fmt.Fprintf(&b, "level=DEBUG msg=%s\n", form)
		}
	}
	return b.String()
}

// ways are how a text may be written.
func ways(text string) []string {
	out := []string{
		text, quote(text), quote(quote(text)), url.QueryEscape(text), url.PathEscape(text), hex.EncodeToString([]byte(text)),
		encode(text), encode("user:" + text), encode("x=" + text + "\n"), encode(encode(text)), base64.URLEncoding.EncodeToString([]byte(text)),
	}
	return out
}

// leaks returns the first way in which a text holds a secret.
func leaks(text, secret string) string {
	for _, way := range ways(secret) {
		// What is at the edges of base64 is of other bytes, too.
		if core := strings.Trim(way, `"=`); strings.Contains(text, core) {
			return core
		}
	}
	return ""
}

func (r *rig) unpack(t *testing.T, cfg bundle.Config) (whole string, names []string) {
	t.Helper()
	var out bytes.Buffer
	if _, err := bundle.Write(t.Context(), &out, cfg); err != nil {
		t.Fatal(err)
	}
	zip, err := gzip.NewReader(&out)
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for archive := tar.NewReader(zip); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return all.String(), names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, strings.TrimPrefix(h.Name, "flotta-support/"))
		if _, err := io.Copy(&all, archive); err != nil {
			t.Fatal(err)
		}
	}
}

// No secret is in a support bundle, wherever it lives and however careless
// programs wrote it down; what explains the device is.
func TestNoSecretInABundle(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	items := r.device.Items(r.host)
	// The status, too, as if a workload had written secrets into it.
	items = append(items, bundle.Item{Name: "status.json", Kind: bundle.KindDocument, Collect: func(context.Context) ([]byte, error) {
		return []byte(quote(map[string]any{"workloads": []any{map[string]any{"message": r.logs}}})), nil
	}})
	var planted strings.Builder
	for _, item := range items {
		text, err := item.Collect(t.Context())
		planted.Write(text)
		if err != nil {
			planted.WriteString(err.Error())
		}
	}
	archive, names := r.unpack(t, bundle.Config{Items: items, Secrets: r.device.Secrets(), Now: time.Now()})
	for place, text := range r.said {
		if place != "register-key" && leaks(planted.String(), text) == "" {
			t.Errorf("%s was nowhere: this test shows nothing", place)
		}
		if way := leaks(archive, text); way != "" {
			t.Errorf("%s is in the archive as %q", place, way)
		}
	}
	for _, want := range []string{"9f2b7e", "registry.example.com/web:1", "prometheus.example.com", "DB_PASSWORD", "DB=[redacted]", "s3.example.com", "level=DEBUG", `"web"`, "edge-7"} {
		if !strings.Contains(archive, want) {
			t.Errorf("%q is not in the archive", want)
		}
	}
	if strings.Contains(archive, "private.txt") {
		t.Error("files of workloads are listed")
	}
	for _, want := range []string{"desired.json", "config/yggdrasil.toml", "podman/inspect.json", "journal/agent-newest-first.txt", "status.json", "state-files.txt", "manifest.json"} {
		if !strings.Contains(" "+strings.Join(names, " ")+" ", " "+want+" ") {
			t.Errorf("%s is not among %v", want, names)
		}
	}
}

// What is to be looked at is read from the device's files.
func TestSubject(t *testing.T) {
	t.Parallel()
	s := newRig(t).device.Subject()
	for i := range s.Endpoints {
		if e := &s.Endpoints[i]; (e.Pair != nil) != (e.Name == "log target central") {
			t.Errorf("%s: something is shown: %t", e.Name, e.Pair != nil)
		}
		s.Endpoints[i].Roots, s.Endpoints[i].Pair = nil, nil
	}
	want := []doctor.Endpoint{
		{Name: "Edge API", Network: "tcp", Address: "edge.example.com:443", TLS: true, Device: true},
		{Name: "bucket", Network: "tcp", Address: "s3.example.com:9000", TLS: true},
		{Name: "metrics receiver", Network: "tcp", Address: "prometheus.example.com:443", TLS: true},
		{Name: "log target central", Network: "tcp", Address: "logs.example.com:6514", TLS: true},
		{Name: "log target local", Network: "udp", Address: "192.0.2.9:514"},
	}
	if diff := cmp.Diff(want, s.Endpoints); diff != "" {
		t.Errorf("endpoints (-want +got):\n%s", diff)
	}
	if !s.Root || s.PodmanSocket != "/run/podman/podman.sock" || len(s.Credential.CAFiles) != 1 || len(s.Trouble) != 0 {
		t.Errorf("subject: %+v", s)
	}
}

func TestEndpointsOfOddConfigurations(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]string{
		"h": "h:443 true", "http://h": "h:80 false", "HTTPS://h": "h:443 true", "[2001:db8::1]": "[2001:db8::1]:443 true",
	} {
		e := bucketEndpoint(protocol.S3StorageConfiguration{BucketHost: host})
		if got := fmt.Sprintf("%s %v", e.Address, e.TLS); got != want {
			t.Errorf("bucket %s: %s, want %s", host, got, want)
		}
	}
	for text, want := range map[string]string{
		"http://h/w": "h:80 false", "https://u:p@h:9/w": "h:9 true", "://u:p": "? false", "https://[2001:db8::1]/": "[2001:db8::1]:443 true", "": "? false",
	} {
		e := receiverEndpoint(protocol.MetricsReceiverConfiguration{URL: text})
		if got := fmt.Sprintf("%s %v", e.Address, e.TLS); got != want {
			t.Errorf("receiver %s: %s, want %s", text, got, want)
		}
	}
}

// Broken files are named, and hinder nothing.
func TestExamineBrokenFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	e := Examine(ExaminePaths{Config: filepath.Join(dir, "none.toml"), Yggd: filepath.Join(dir, "none")})
	if s := e.Subject(); len(s.Trouble) == 0 || len(s.Endpoints) != 0 || len(e.Secrets()) != 0 {
		t.Errorf("nothing there: %+v", s)
	}
	state := filepath.Join(dir, "state")
	write(t, filepath.Join(dir, "agent.toml"), "state-dir = \""+state+"\"\nlog-colour = \"x\"\n")
	write(t, filepath.Join(dir, "config.toml"), "server = hunter2")
	var reasons []string
	for _, trouble := range Examine(ExaminePaths{Config: filepath.Join(dir, "agent.toml"), Yggd: dir}).Subject().Trouble {
		reasons = append(reasons, trouble.Problem)
	}
	if all := strings.Join(reasons, "|"); !strings.Contains(all, "log-colour") || !strings.Contains(all, "not TOML") || strings.Contains(all, "hunter2") {
		t.Errorf("trouble: %s", all)
	}
	write(t, filepath.Join(dir, "agent.toml"), "state-dir = \""+state+"\"\n[runtime]\nmode = \"root\"\n")
	write(t, filepath.Join(state, "desired.json"), "hunter2")
	write(t, filepath.Join(dir, "config.toml"), "ca-root = \"/ca.pem\"\n")
	s := Examine(ExaminePaths{Config: filepath.Join(dir, "agent.toml"), Yggd: dir}).Subject()
	if len(s.Trouble) != 1 || !strings.Contains(s.Trouble[0].Path, "desired.json") || strings.Contains(s.Trouble[0].Problem, "hunter2") {
		t.Errorf("trouble: %+v", s.Trouble)
	}
	if len(s.Credential.CAFiles) != 1 {
		t.Errorf("credential: %+v", s.Credential)
	}
}
