package metrics

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/desired"
)

// crashVar makes the test binary a device that is killed; its value are its
// settings.
const crashVar = "FLOTTA_METRICS_CRASH"

// crashSettings is what such a process works with.
type crashSettings struct {
	Dir   string
	First int // number of the first scrape it puts
}

func TestMain(m *testing.M) {
	text := os.Getenv(crashVar)
	if text == "" {
		os.Exit(m.Run())
	}
	if err := crashChild(text); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
}

// crashChild puts numbered scrapes, says on its standard output which, and
// delivers them without a pause, until it is killed.
func crashChild(text string) error {
	var c crashSettings
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	e, err := crashEngine(c.Dir)
	if err != nil {
		return err
	}
	ctx := context.Background()
	go e.Run(ctx) //nolint:errcheck // there is none
	go func() {
		for e.Flush(ctx) == nil {
			<-e.Changed()
		}
	}()
	for n := c.First; ; n++ {
		if err := e.Put(ctx, scrapeOf("a", n, 3)); err != nil {
			return err
		}
		fmt.Println(n)
		time.Sleep(rand.N(2 * time.Millisecond))
	}
}

func crashEngine(dir string) (*Engine, error) {
	log := slog.New(slog.DiscardHandler)
	store, err := desired.Open(filepath.Join(dir, "desired.json"), "device", log)
	if err != nil {
		return nil, err
	}
	e, err := New(Config{Dir: filepath.Join(dir, "spool"), Desired: store, Log: log})
	if err != nil {
		return nil, err
	}
	return e, e.Open()
}

// TestKilled kills a device again and again while scrapes flow, some requests
// are slow, fail, or have their answers lost. A receiver that is as strict as
// Prometheus and one that takes everything have each number, in order; the
// latter has no more twice than was under way when something went wrong.
func TestKilled(t *testing.T) {
	t.Parallel()
	t.Run("strict", func(t *testing.T) {
		t.Parallel()
		d := &database{}
		last, _ := killed(t, 100, d)
		d.has(t, "a", 3, numbers(0, last+1))
	})
	t.Run("takes everything", func(t *testing.T) {
		t.Parallel()
		d := &ledger{}
		last, wrongs := killed(t, 100, d)
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.next != last+1 {
			t.Errorf("%d is the newest, want %d", d.next-1, last)
		}
		t.Logf("%d scrapes, %d samples twice, the largest request had %d, %d times something went wrong", last, d.twice, d.largest, wrongs)
		// A scrape that was put and not said was put again.
		if d.gaps > 0 || d.twice > wrongs*(d.largest+3) {
			t.Errorf("%d gaps, %d samples twice", d.gaps, d.twice)
		}
	})
}

// killed kills a device so many times and then lets it deliver what is left. It
// returns the number of the last scrape, and how often something went wrong.
func killed(t *testing.T, times int, h http.Handler) (last, wrongs int) {
	var mu sync.Mutex
	told := to(serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(rand.N(10 * time.Millisecond))
		switch n := rand.IntN(10); n {
		case 0, 1:
			mu.Lock()
			wrongs++
			mu.Unlock()
			if n == 1 { // taken, but the answer is lost
				h.ServeHTTP(nowhere{w.Header()}, r)
			}
			http.Error(w, "not now", http.StatusServiceUnavailable)
		default:
			h.ServeHTTP(w, r)
		}
	})))
	b := newBench(t, nil, told)
	if err := b.engine.queue.Close(); err != nil { // the other processes are the device
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	last = -1
	for range times {
		settings, err := json.Marshal(crashSettings{Dir: b.dir, First: last + 1})
		if err != nil {
			t.Fatal(err)
		}
		last = max(last, lifeAndDeath(t, exec.Command(exe), string(settings)))
	}
	b.open()
	b.run()
	// The device may have put one more than it could say.
	last++
	b.put(scrapeOf("a", last, 3)...)
	b.flush()
	mu.Lock()
	defer mu.Unlock()
	return last, wrongs + times
}

// lifeAndDeath runs a device for a moment and returns the number of the last
// scrape that it has put for sure.
func lifeAndDeath(t *testing.T, cmd *exec.Cmd, settings string) (last int) {
	t.Helper()
	cmd.Env = append(os.Environ(), crashVar+"="+settings)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	last = -1
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if last < 0 {
			time.AfterFunc(rand.N(150*time.Millisecond), func() { _ = cmd.Process.Kill() })
		}
		if last, err = strconv.Atoi(lines.Text()); err != nil {
			t.Fatalf("the device says %q", lines.Text())
		}
	}
	if err := cmd.Wait(); err == nil || last < 0 {
		t.Fatalf("the device ended by itself after %d: %v", last, err)
	}
	return last
}

// nowhere is where an answer goes that is lost.
type nowhere struct{ header http.Header }

func (n nowhere) Header() http.Header         { return n.header }
func (n nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (n nowhere) WriteHeader(int)             {}

// ledger is a receiver that takes everything, and counts what came twice.
type ledger struct {
	mu      sync.Mutex
	next    int // number of the scrape that is new
	twice   int // samples
	gaps    int
	largest int
}

func (l *ledger) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // cut off
	}
	samples, _, err := decodeRequest(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.largest = max(l.largest, len(samples))
	next := l.next
	for _, s := range samples {
		n := int(s.Value)
		if n < next {
			l.twice++
			continue
		}
		// Samples come series by series; the first series tells of gaps.
		if s.Labels[1].Value == "0" {
			if n > l.next {
				l.gaps++
			}
			l.next = max(l.next, n+1)
		}
	}
	w.WriteHeader(http.StatusNoContent)
}
