package podman_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/podman"
)

// serve answers on a socket with handler and returns a client of it.
func serve(t *testing.T, timeout time.Duration, handler http.HandlerFunc) *podman.Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return client(t, socket, timeout)
}

func client(t *testing.T, socket string, timeout time.Duration) *podman.Client {
	t.Helper()
	c, err := podman.New(podman.Config{Socket: socket, Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for _, cfg := range []podman.Config{{}, {Socket: "relative"}, {Socket: "/s", Timeout: -1}} {
		if _, err := podman.New(cfg); err == nil {
			t.Errorf("New(%+v) accepted it", cfg)
		}
	}
}

func TestAbsentSocketIsUnavailable(t *testing.T) {
	t.Parallel()
	c := client(t, filepath.Join(t.TempDir(), "none"), 0)
	for name, call := range map[string]func() error{
		"version": func() error { _, err := c.Version(t.Context()); return err },
		"pods":    func() error { _, err := c.Pods(t.Context(), "x"); return err },
		"events":  func() error { _, err := c.Events(t.Context(), podman.EventFilter{}); return err },
		"pull":    func() error { _, err := c.PullImage(t.Context(), podman.Pull{Reference: "x"}); return err },
		"secret":  func() error { return c.CreateSecret(t.Context(), podman.NewSecret{Name: "x", Data: []byte("y")}) },
	} {
		if err := call(); !errors.Is(err, podman.ErrUnavailable) {
			t.Errorf("%s: %v, want ErrUnavailable", name, err)
		}
	}
}

func TestHangingServerEndsWithTheTimeLimit(t *testing.T) {
	t.Parallel()
	c := serve(t, 50*time.Millisecond, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	if _, err := c.Pods(t.Context(), "x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want DeadlineExceeded", err)
	}
}

func TestEndlessAnswerIsRefused(t *testing.T) {
	t.Parallel()
	c := serve(t, 0, func(w http.ResponseWriter, _ *http.Request) {
		chunk := []byte(`["` + strings.Repeat("a", 1<<20))
		for {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	})
	if _, err := c.Pods(t.Context(), "x"); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("%v, want a refusal", err)
	}
}

func TestAPIError(t *testing.T) {
	t.Parallel()
	status := http.StatusNotFound
	c := serve(t, 0, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(`{"cause":"inner","message":"outer: inner","response":1}`))
	})
	_, err := c.Container(t.Context(), "x/../y")
	var api *podman.APIError
	if !errors.Is(err, podman.ErrNotFound) || !errors.As(err, &api) || api.Cause != "inner" || api.Message != "outer: inner" {
		t.Errorf("%v (%+v)", err, api)
	}
	status = http.StatusInternalServerError
	if _, err := c.Container(t.Context(), "x"); errors.Is(err, podman.ErrNotFound) || !errors.As(err, &api) || api.Status != status {
		t.Errorf("%v (%+v)", err, api)
	}
}

func TestNameIsOnePathElement(t *testing.T) {
	t.Parallel()
	var path string
	c := serve(t, 0, func(w http.ResponseWriter, r *http.Request) {
		path = r.URL.EscapedPath()
		w.WriteHeader(http.StatusNoContent)
	})
	if err := c.RemoveSecret(t.Context(), "../../pods/x?force=true"); err != nil {
		t.Fatal(err)
	}
	if want := "/v4.0.0/libpod/secrets/..%2F..%2Fpods%2Fx%3Fforce=true"; path != want {
		t.Errorf("path %s, want %s", path, want)
	}
}

func TestPullReportsWhatPodmanSays(t *testing.T) {
	t.Parallel()
	answer := ""
	c := serve(t, 0, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(answer)) })
	for name, test := range map[string]struct{ answer, id, failure string }{
		"works":    {`{"stream":"Trying\n"}` + "\n" + `{"images":["abc"],"id":"abc"}` + "\n", "abc", ""},
		"fails":    {`{"stream":"Trying\n"}` + "\n" + `{"error":"no such manifest"}` + "\n", "", "no such manifest"},
		"cut":      {`{"stream":"Trying\n"}` + "\n", "", "unexpected EOF"},
		"no JSON":  {"<html>\n", "", "decode"},
		"too long": {`{"stream":"` + strings.Repeat("a", 2<<20) + `"}`, "", "too long"},
	} {
		answer = test.answer
		id, err := c.PullImage(t.Context(), podman.Pull{Reference: "x"})
		if id != test.id || (err == nil) != (test.failure == "") || (err != nil && !strings.Contains(err.Error(), test.failure)) {
			t.Errorf("%s: %q, %v", name, id, err)
		}
	}
}

func TestPullAuth(t *testing.T) {
	t.Parallel()
	var header string
	c := serve(t, 0, func(w http.ResponseWriter, r *http.Request) {
		header = r.Header.Get("X-Registry-Auth")
		_, _ = w.Write([]byte(`{"id":"abc"}`))
	})
	_, err := c.PullImage(t.Context(), podman.Pull{Reference: "x", AuthFile: `{"auths":{"quay.io/x":{"auth":"Ym9iOnM6M2NyZXQ="}}}`})
	if err != nil {
		t.Fatal(err)
	}
	if want := "eyJxdWF5LmlvL3giOnsidXNlcm5hbWUiOiJib2IiLCJwYXNzd29yZCI6InM6M2NyZXQifX0="; header != want {
		t.Errorf("header %s, want %s", header, want)
	}
	for _, bad := range []string{"s3cret", `{"auths":{"q":{"auth":"s3cret!"}}}`, `{"auths":"s3cret"}`} {
		_, err := c.PullImage(t.Context(), podman.Pull{Reference: "x", AuthFile: bad})
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("auth file %s: %v", bad, err)
		}
	}
}
