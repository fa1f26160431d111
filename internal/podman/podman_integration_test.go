//go:build integration

package podman_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/podman"
	"github.com/project-flotta/flotta-agent/test/image"
)

const label = "io.project-flotta.test"

// engine is a Podman of the test's own: storage, socket and configuration.
type engine struct {
	t      *testing.T
	socket string
	dir    string
	*podman.Client
}

// startEngine starts Podman's service. Where cgroups are hybrid, which crun
// refuses, it runs in a mount namespace without the v2 part.
func startEngine(t *testing.T, plainHTTP ...*httptest.Server) *engine {
	t.Helper()
	// Short, because a socket's path has to be.
	dir, err := os.MkdirTemp("", "podman")
	if err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(dir, "containers.conf")
	text := "[containers]\ndefault_ulimits=[\"nofile=4096:4096\",\"nproc=4096:4096\"]\n" +
		"[network]\nnetwork_backend=\"netavark\"\n[engine]\nevents_logger=\"file\"\ncgroup_manager=\"cgroupfs\"\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	registries := filepath.Join(dir, "registries.conf")
	var trust strings.Builder
	for _, server := range plainHTTP {
		fmt.Fprintf(&trust, "[[registry]]\nlocation=%q\ninsecure=true\n", hostOf(server))
	}
	if err := os.WriteFile(registries, []byte(trust.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	e := &engine{t: t, dir: dir, socket: filepath.Join(dir, "s")}
	script := `mount --make-rprivate /; umount /sys/fs/cgroup/unified 2>/dev/null
exec podman --root ` + dir + `/root --runroot ` + dir + `/run system service --time=0 unix://` + e.socket
	cmd := exec.Command("unshare", "--mount", "sh", "-c", script)
	cmd.Env = append(os.Environ(), "CONTAINERS_CONF="+conf, "CONTAINERS_REGISTRIES_CONF="+registries)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if e.Client, err = podman.New(podman.Config{Socket: e.socket}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		_ = cmd.Wait()
		// What Podman mounted went with its mount namespace.
		_ = os.RemoveAll(dir)
	})
	eventually(t, "podman answers", func() bool {
		_, err := e.Version(t.Context())
		if err != nil && !errors.Is(err, podman.ErrUnavailable) {
			t.Fatalf("%v\n%s", err, out.String())
		}
		return err == nil
	})
	return e
}

func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if check() {
			return
		}
	}
	t.Fatalf("not in time: %s", what)
}

// post makes a call that the client has no need for.
func (e *engine) post(path string, body io.Reader) string {
	e.t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", e.socket)
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(context.WithoutCancel(e.t.Context()), http.MethodPost, "http://d/v4.0.0/libpod"+path, body)
	if err != nil {
		e.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-tar")
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		e.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, _ := io.ReadAll(resp.Body)
	if resp.StatusCode > 299 {
		e.t.Fatalf("%s: %d %s", path, resp.StatusCode, raw)
	}
	return string(raw)
}

func (e *engine) load(ref string, args ...string) {
	e.t.Helper()
	archive, err := image.Archive(e.t.Context(), image.Spec{Ref: ref, Args: args})
	if err != nil {
		e.t.Fatal(err)
	}
	f, err := os.Open(archive)
	if err != nil {
		e.t.Fatal(err)
	}
	defer f.Close()
	e.post("/images/load", f)
}

// play plays a pod with one container, in the host's network because the
// machine's is none of the test's business.
func (e *engine) play(name, restart, more string, args ...string) {
	e.t.Helper()
	command, err := json.Marshal(args)
	if err != nil {
		e.t.Fatal(err)
	}
	e.post("/play/kube?start=true", strings.NewReader(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {%s: %s}}
spec:
  hostNetwork: true
  restartPolicy: %s
  containers:
  - {name: c, image: "localhost/podman-test:1", imagePullPolicy: IfNotPresent, args: %s%s}
`, name, label, name, restart, command, more)))
	e.t.Cleanup(func() { _ = e.RemovePod(context.WithoutCancel(e.t.Context()), name) })
}

func TestPodman(t *testing.T) {
	registry := httptest.NewServer(newRegistry(t, "bob", "s3cret"))
	defer registry.Close()
	asked := make(chan struct{}, 1)
	stalls := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case asked <- struct{}{}:
		default:
		}
		<-r.Context().Done()
	}))
	defer stalls.Close()
	e := startEngine(t, registry, stalls)
	e.load("localhost/podman-test:1")
	t.Run("images", e.testImages)
	t.Run("pull", func(t *testing.T) { e.testPull(t, hostOf(registry)) })
	t.Run("pull that stalls", func(t *testing.T) { e.testStall(t, hostOf(stalls), asked) })
	t.Run("secrets", e.testSecrets)
	t.Run("pods", e.testPods)
	t.Run("restarts", e.testRestarts)
	t.Run("events", e.testEvents)
}

func (e *engine) with(t *testing.T) *engine {
	return &engine{t: t, socket: e.socket, dir: e.dir, Client: e.Client}
}

func (e *engine) testImages(t *testing.T) {
	for ref, want := range map[string]bool{
		"localhost/podman-test:1": true, "localhost/podman-test:2": false, "localhost/../x": false, "none": false,
	} {
		if got, err := e.ImageExists(t.Context(), ref); got != want || (err != nil && ref != "localhost/../x") {
			t.Errorf("ImageExists(%q) = %t, %v", ref, got, err)
		}
	}
}

func (e *engine) testSecrets(t *testing.T) {
	ctx := t.Context()
	if err := e.CreateSecret(ctx, podman.NewSecret{Name: "one", Data: []byte(`{"key":"dmFsdWU="}`), Labels: map[string]string{label: "x, y"}}); err != nil {
		t.Fatal(err)
	}
	if err := e.CreateSecret(ctx, podman.NewSecret{Name: "one", Data: []byte("other")}); !errors.Is(err, podman.ErrExists) {
		t.Errorf("a taken name: %v, want ErrExists", err)
	}
	if err := e.CreateSecret(ctx, podman.NewSecret{Name: "empty"}); err == nil || errors.Is(err, podman.ErrExists) {
		t.Errorf("no data: %v", err)
	}
	list, err := e.Secrets(ctx)
	if err != nil || !slices.ContainsFunc(list, func(s podman.Secret) bool { return s.Name == "one" && !s.Created.IsZero() }) {
		t.Errorf("list %+v, %v", list, err)
	}
	// A list of Podman 4.3 lacks them.
	if one, err := e.Secret(ctx, "one"); err != nil || one.Labels[label] != "x, y" {
		t.Errorf("inspected %+v, %v", one, err)
	}
	m := e.with(t)
	m.play("uses-secret", "Never", `, env: [{name: A, valueFrom: {secretKeyRef: {name: one, key: key}}}, {name: APP_ARGS, value: exit 0}], envFrom: [{secretRef: {name: one}}]`, "exit", "0")
	if err := e.RemoveSecret(ctx, "one"); err != nil {
		t.Fatal(err)
	}
	if err := e.RemoveSecret(ctx, "one"); !errors.Is(err, podman.ErrNotFound) {
		t.Errorf("removed twice: %v, want ErrNotFound", err)
	}
	if _, err := e.Secret(ctx, "one"); !errors.Is(err, podman.ErrNotFound) {
		t.Errorf("inspected: %v, want ErrNotFound", err)
	}
}

func (e *engine) testPods(t *testing.T) {
	ctx := t.Context()
	m := e.with(t)
	m.play("pod-a", "Always", "", "sleep")
	m.play("pod-b", "Never", "", "exit", "3")
	all, err := e.Pods(ctx, label)
	if err != nil || len(all) < 2 {
		t.Fatalf("pods %+v, %v", all, err)
	}
	one, err := e.Pods(ctx, label+"=pod-a")
	if err != nil || len(one) != 1 || one[0].Name != "pod-a" || one[0].Status != "Running" || one[0].Labels[label] != "pod-a" {
		t.Fatalf("pods %+v, %v", one, err)
	}
	containers, err := e.Containers(ctx, label+"=pod-a")
	if err != nil || len(containers) != 1 {
		t.Fatalf("containers %+v, %v", containers, err)
	}
	c := containers[0]
	if c.PodID != one[0].ID || c.State != "running" || c.StartedAt.IsZero() || !slices.Equal(c.Names, []string{"pod-a-c"}) {
		t.Errorf("container %+v", c)
	}
	detail, err := e.Container(ctx, c.ID)
	if err != nil || !detail.State.Running || detail.ImageDigest == "" || detail.PodID != one[0].ID {
		t.Errorf("inspection %+v, %v", detail, err)
	}
	eventually(t, "pod-b has ended", func() bool {
		detail, err := e.Container(ctx, "pod-b-c")
		return err == nil && detail.State.ExitCode == 3 && !detail.State.Running
	})
	for _, call := range []func() error{
		func() error { _, err := e.Container(ctx, "none"); return err },
		func() error { _, err := e.Logs(ctx, "none", 3); return err },
		func() error { return e.RemovePod(ctx, "none") },
	} {
		if err := call(); !errors.Is(err, podman.ErrNotFound) {
			t.Errorf("%v, want ErrNotFound", err)
		}
	}
	if err := e.RemovePod(ctx, "pod-a"); err != nil {
		t.Fatal(err)
	}
	if left, err := e.Pods(ctx, label+"=pod-a"); err != nil || len(left) > 0 {
		t.Errorf("left %+v, %v", left, err)
	}
}

func (e *engine) testRestarts(t *testing.T) {
	m := e.with(t)
	m.play("crashes", "Always", "", "nonsense")
	eventually(t, "a restart is counted", func() bool {
		c, err := e.Container(t.Context(), "crashes-c")
		return err == nil && c.RestartCount > 0
	})
	lines, err := e.Logs(t.Context(), "crashes-c", 2)
	if err != nil || len(lines) == 0 || len(lines) > 2 {
		t.Errorf("logs %q, %v", lines, err)
	}
}

func (e *engine) testEvents(t *testing.T) {
	stream, err := e.Events(t.Context(), podman.EventFilter{Types: []string{"container"}, Actions: []string{"start", "died"}})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	e.with(t).play("eventful", "Never", "", "exit", "4")
	var actions []string
	for len(actions) < 2 {
		event, err := stream.Next()
		if err != nil {
			t.Fatal(err)
		}
		if event.Labels[label] == "eventful" {
			actions = append(actions, event.Action)
		}
	}
	if want := []string{"start", "died"}; !slices.Equal(actions, want) {
		t.Errorf("actions %v, want %v", actions, want)
	}
	ended := make(chan struct{})
	go func() {
		for {
			if _, err := stream.Next(); err != nil {
				close(ended)
				return
			}
		}
	}()
	if err := stream.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("Next did not end with Close")
	}
}

func hostOf(server *httptest.Server) string { return strings.TrimPrefix(server.URL, "http://") }

// testPull pulls from a registry of one image that wants a password.
func (e *engine) testPull(t *testing.T, host string) {
	ref := host + "/made/here:v1"
	if _, err := e.PullImage(t.Context(), podman.Pull{Reference: ref}); err == nil {
		t.Fatal("pulled without a password")
	}
	auth := fmt.Sprintf(`{"auths":{%q:{"auth":"Ym9iOnMzY3JldA=="}}}`, host)
	var lines []string
	id, err := e.PullImage(t.Context(), podman.Pull{
		Reference: ref, AuthFile: auth, Progress: func(line string) { lines = append(lines, line) },
	})
	if err != nil || id == "" || len(lines) == 0 {
		t.Fatalf("pull: %q, %v, progress %q", id, err, lines)
	}
	if there, err := e.ImageExists(t.Context(), ref); err != nil || !there {
		t.Errorf("pulled and not there: %v", err)
	}
}

// testStall calls a pull off that gets no answer.
func (e *engine) testStall(t *testing.T, host string, asked <-chan struct{}) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { <-asked; cancel() }()
	if _, err := e.PullImage(ctx, podman.Pull{Reference: host + "/x:v1"}); !errors.Is(err, context.Canceled) {
		t.Errorf("called off: %v, want Canceled", err)
	}
}

// newRegistry serves one image with one small file.
func newRegistry(t *testing.T, user, password string) http.Handler {
	t.Helper()
	var layer bytes.Buffer
	zipped := gzip.NewWriter(&layer)
	plain := sha256.New()
	archive := tar.NewWriter(io.MultiWriter(zipped, plain))
	if err := errors.Join(
		archive.WriteHeader(&tar.Header{Name: "file", Mode: 0o644, Size: 2, Typeflag: tar.TypeReg}),
		func() error { _, err := archive.Write([]byte("hi")); return err }(),
		archive.Close(), zipped.Close(),
	); err != nil {
		t.Fatal(err)
	}
	blobs := map[string][]byte{}
	add := func(data []byte) map[string]any {
		sum := sha256.Sum256(data)
		digest := "sha256:" + hex.EncodeToString(sum[:])
		blobs[digest] = data
		return map[string]any{"digest": digest, "size": len(data)}
	}
	const oci = "application/vnd.oci.image."
	config := add([]byte(fmt.Sprintf(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:%x"]}}`, plain.Sum(nil))))
	config["mediaType"] = oci + "config.v1+json"
	content := add(layer.Bytes())
	content["mediaType"] = oci + "layer.v1.tar+gzip"
	document, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": oci + "manifest.v1+json", "config": config, "layers": []any{content},
	})
	if err != nil {
		t.Fatal(err)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != user || p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		name := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
		switch {
		case strings.Contains(r.URL.Path, "/manifests/"):
			w.Header().Set("Content-Type", oci+"manifest.v1+json")
			_, _ = w.Write(document)
		case blobs[name] != nil:
			_, _ = w.Write(blobs[name])
		case r.URL.Path == "/v2/":
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
}
