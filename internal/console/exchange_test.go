package console

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestCheckMetricsAddress(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"127.0.0.1:9180": "", "[::1]:9180": "", "127.8.9.1:1": "",
		"0.0.0.0:9180": "loopback", "192.0.2.1:9180": "loopback", ":9180": "address with a port",
		"localhost:9180": "address with a port", "127.0.0.1": "address with a port", "127.0.0.1:0": "address with a port", "": "address with a port",
	} {
		err := CheckMetricsAddress(address)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", address, err, want)
		}
	}
}

// Over TCP there are metrics, and nothing else: who asks is not known.
func TestMetricsOverTCP(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := config(t)
	cfg.MetricsAddress = l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	stop := start(t, cfg)
	ask := func(method, path string) (int, string, string) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			request, err := http.NewRequestWithContext(t.Context(), method, "http://"+cfg.MetricsAddress+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
			if err != nil {
				if time.Now().After(end) {
					t.Fatal(err)
				}
				continue
			}
			body, err := io.ReadAll(response.Body)
			if cerr := response.Body.Close(); err != nil || cerr != nil {
				t.Fatal(err, cerr)
			}
			return response.StatusCode, response.Header.Get("Content-Type"), string(body)
		}
	}
	if code, kind, body := ask(http.MethodGet, "/metrics"); code != 200 || kind != MetricsType || !strings.Contains(body, "flotta_agent_healthy 1") {
		t.Errorf("metrics: %d, %s, %s", code, kind, body)
	}
	for path, method := range map[string]string{"/status": http.MethodGet, "/sync": http.MethodPost, "/log-level?level=debug": http.MethodPost, "/": http.MethodGet} {
		if code, _, body := ask(method, path); code != 404 || strings.Contains(body, "edge-7") {
			t.Errorf("%s: %d, %s", path, code, body)
		}
	}
	if code, _, _ := ask(http.MethodPost, "/metrics"); code != 405 {
		t.Errorf("POST: %d", code)
	}
	stop()
	if conn, err := net.Dial("tcp", cfg.MetricsAddress); err == nil {
		_ = conn.Close()
		t.Error("somebody listens after the end")
	}
}
