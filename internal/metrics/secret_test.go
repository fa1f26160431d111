package metrics

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// lockedBuffer is what several goroutines log to.
type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) text() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.String()
}

// TestNoSecretComesOut has a password and a token in the address of receivers
// that fail in all ways, and looks at everything that comes out of the engine.
func TestNoSecretComesOut(t *testing.T) {
	t.Parallel()
	var log lockedBuffer
	b := newBench(t, nil, to(""))
	b.engine.cfg.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	b.run()
	b.put(scrapeOf("a", 0, 1)...)
	refuses := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != "canary" {
			t.Errorf("the password is %q", password)
		}
		w.WriteHeader(http.StatusForbidden)
	}))
	for address, shows := range map[string]func(Status) bool{
		"gopher://canary:canary@host/?canary":                                          func(s Status) bool { return len(s.Problems) > 0 },
		"http://canary:canary@127.0.0.1:1/?canary":                                     func(s Status) bool { return s.LastError != "" },
		"https://canary:canary@" + strings.TrimPrefix(refuses, "http://") + "/?canary": func(s Status) bool { return s.LastError != "" },
		strings.Replace(refuses, "//", "//canary:canary@", 1) + "/?canary":             func(s Status) bool { return s.Refused > 0 },
	} {
		b.put(scrapeOf("a", 0, 1)...)
		b.tell(to(address))
		eventually(t, "the status shows it", func() bool { return shows(b.engine.Status()) })
		if s := fmt.Sprintf("%+v", b.engine.Status()); strings.Contains(s, "canary") {
			t.Errorf("status %s", s)
		}
		b.tell(to(""))
		eventually(t, "there is no receiver", func() bool { return b.engine.Status().Receiver == "" && len(b.engine.Status().Problems) == 0 })
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := fmt.Sprintf("%+v", b.events); len(b.events) == 0 || strings.Contains(s, "canary") {
		t.Errorf("events %s", s)
	}
	if s := log.text(); s == "" || strings.Contains(s, "canary") {
		t.Errorf("log:\n%s", s)
	}
}
