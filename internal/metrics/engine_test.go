package metrics

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/diskq"
	"github.com/project-flotta/flotta-agent/internal/metrics/remotewrite"
	"github.com/project-flotta/flotta-agent/internal/metrics/series"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// serve makes a receiver that speaks HTTP.
func serve(t testing.TB, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	for _, cfg := range []Config{{}, {Dir: "/d"}, {Desired: &desired.Store{}}} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%+v is taken", cfg)
		}
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	standard := settings{receiver: receiver{timeout: 10 * time.Second, samples: 30_000}, maxBytes: 200 << 20, maxAge: 168 * time.Hour}
	for name, tc := range map[string]struct {
		told *protocol.MetricsConfiguration
		want func(*settings)
	}{
		"nothing": {nil, func(*settings) {}},
		"empty":   {&protocol.MetricsConfiguration{Retention: &protocol.MetricsRetention{}, Receiver: &protocol.MetricsReceiverConfiguration{}}, func(*settings) {}},
		"negative": {&protocol.MetricsConfiguration{
			Retention: &protocol.MetricsRetention{MaxMiB: -1, MaxHours: -1},
			Receiver:  &protocol.MetricsReceiverConfiguration{TimeoutSeconds: -1, RequestNumSamples: -1},
		}, func(*settings) {}},
		"all": {&protocol.MetricsConfiguration{
			Retention: &protocol.MetricsRetention{MaxMiB: 1, MaxHours: 2},
			Receiver:  &protocol.MetricsReceiverConfiguration{URL: "u", CACert: "c", TimeoutSeconds: 3, RequestNumSamples: 4},
		}, func(s *settings) {
			*s = settings{receiver: receiver{url: "u", ca: "c", timeout: 3 * time.Second, samples: 4}, maxBytes: 1 << 20, maxAge: 2 * time.Hour}
		}},
		"absurd": {&protocol.MetricsConfiguration{
			Retention: &protocol.MetricsRetention{MaxMiB: 1<<31 - 1, MaxHours: 1<<31 - 1},
			Receiver:  &protocol.MetricsReceiverConfiguration{TimeoutSeconds: 1<<63 - 1, RequestNumSamples: 1<<63 - 1},
		}, func(s *settings) {
			*s = settings{receiver: receiver{timeout: 10 * time.Minute, samples: 1 << 20}, maxBytes: (1<<31 - 1) << 20, maxAge: 876_000 * time.Hour}
		}},
	} {
		want := standard
		tc.want(&want)
		if got := settingsOf(desired.State{Metrics: tc.told}); got != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
}

// TestDelivers goes on where it stopped after a restart.
func TestDelivers(t *testing.T) {
	t.Parallel()
	d := &database{}
	b := newBench(t, nil, to(serve(t, d)))
	b.put() // none is nothing
	for n := range 20 {
		b.put(scrapeOf("a", n, 3)...)
	}
	b.reopen() // before anything was sent
	b.run()
	b.flush()
	d.has(t, "a", 3, numbers(0, 20))
	before := b.engine.Status()
	if before.Sent != 60 || before.LastSuccess.IsZero() || before.Delivered.IsZero() || before.LastError != "" || before.Queue.Entries != 0 {
		t.Errorf("status %+v", before)
	}
	b.reopen()
	b.run()
	b.put(scrapeOf("a", 20, 3)...)
	b.flush()
	d.has(t, "a", 3, numbers(0, 21))
	if s := b.engine.Status(); s.Sent != 3 || s.Replayed != 0 {
		t.Errorf("status %+v", s)
	}
}

// TestReceiverComesLater keeps what is scraped while there is no receiver, one
// that makes no sense, and one that is not there.
func TestReceiverComesLater(t *testing.T) {
	t.Parallel()
	d := &database{}
	b := newBench(t, nil, protocol.MetricsConfiguration{})
	b.run()
	b.put(scrapeOf("a", 0, 2)...)
	if err := b.engine.Flush(t.Context()); !errors.Is(err, ErrNoReceiver) {
		t.Errorf("Flush: %v", err)
	}
	b.tell(to("gopher://canary:canary@host/"))
	eventually(t, "the problem shows", func() bool { return len(b.engine.Status().Problems) == 1 })
	if p := b.engine.Status().Problems[0]; p.Reason != ReasonReceiverInvalid || strings.Contains(p.Message, "canary") {
		t.Errorf("problem %+v", p)
	}
	b.put(scrapeOf("a", 1, 2)...)
	b.tell(to("http://127.0.0.1:1/"))
	eventually(t, "a request fails", func() bool { return b.engine.Status().Failed > 0 })
	if s := b.engine.Status(); len(s.Problems) != 0 || s.LastError == "" || s.Receiver != "http://127.0.0.1:1/" {
		t.Errorf("status %+v", s)
	}
	b.put(scrapeOf("a", 2, 2)...)
	b.tell(to(serve(t, d)))
	b.flush()
	d.has(t, "a", 2, numbers(0, 3))
	if got := b.reasons(); !slices.Equal(got, []string{ReasonReceiverInvalid}) {
		t.Errorf("events %v", got)
	}
}

// TestReceiverChangesDuringARequest has a receiver that never answers.
func TestReceiverChangesDuringARequest(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{}, 100)
	hangs := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // so that the end of the connection is noticed
		asked <- struct{}{}
		<-r.Context().Done()
	}))
	told := to(hangs)
	told.Receiver.TimeoutSeconds = 600
	d := &database{}
	b := newBench(t, nil, told)
	for n := 0; b.engine.Status().Queue.DiskBytes < 3<<20; n++ {
		b.put(scrapeOf("old", n, 1000)...)
	}
	b.run()
	<-asked
	// Something that is not about the receiver lets the request go on.
	told.Retention = &protocol.MetricsRetention{MaxMiB: 1}
	b.tell(told)
	eventually(t, "the retention is in force", func() bool { return b.engine.Status().Queue.DiskBytes <= 1<<20 })
	if err := b.engine.Forget(); err != nil {
		t.Fatal(err)
	}
	b.put(scrapeOf("a", 0, 2)...)
	if s := b.engine.Status(); s.Failed != 0 || len(asked) != 0 {
		t.Errorf("status %+v, %d more requests", s, len(asked))
	}
	b.tell(to(serve(t, d)))
	b.flush()
	d.has(t, "a", 2, numbers(0, 1))
	if s := b.engine.Status(); s.Failed != 0 || s.LastError != "" || len(asked) != 0 {
		t.Errorf("status %+v, %d more requests", s, len(asked))
	}
}

// TestCertificateComesLater has a receiver whose CA is not known at first.
func TestCertificateComesLater(t *testing.T) {
	t.Parallel()
	d := &database{}
	s := httptest.NewUnstartedServer(d)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	s.StartTLS()
	t.Cleanup(s.Close)
	told := to(s.URL)
	b := newBench(t, nil, told)
	b.put(scrapeOf("a", 0, 2)...)
	b.run()
	eventually(t, "a request fails", func() bool { return b.engine.Status().Failed > 0 })
	if s := b.engine.Status(); s.FailingSince.IsZero() || !strings.Contains(s.LastError, "certificate") {
		t.Errorf("status %+v", s)
	}
	told.Receiver.CACert = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	b.tell(told)
	b.flush()
	d.has(t, "a", 2, numbers(0, 1))
	if s := b.engine.Status(); !s.FailingSince.IsZero() || s.LastError != "" {
		t.Errorf("status %+v", s)
	}
}

func TestFlushEndsWithItsContext(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil, to("http://127.0.0.1:1/"))
	b.run()
	b.put(scrapeOf("a", 0, 1)...)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := b.engine.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "1 scrapes") {
		t.Errorf("Flush: %v", err)
	}
}

func TestForget(t *testing.T) {
	t.Parallel()
	d := &database{}
	b := newBench(t, nil, protocol.MetricsConfiguration{})
	b.put(scrapeOf("a", 0, 2)...)
	if err := b.engine.Forget(); err != nil {
		t.Fatal(err)
	}
	b.reopen()
	b.put(scrapeOf("a", 1, 2)...)
	b.tell(to(serve(t, d)))
	b.run()
	b.flush()
	d.has(t, "a", 2, []int{1})
}

// TestRetentionIsDropped tells of what is dropped because of it, but not when
// nobody is to get it.
func TestRetentionIsDropped(t *testing.T) {
	t.Parallel()
	told := to("")
	told.Retention = &protocol.MetricsRetention{MaxMiB: 2}
	b := newBench(t, nil, told)
	for n := 0; b.engine.Status().Queue.Dropped.Size == 0; n++ {
		b.put(scrapeOf("a", n, 1000)...)
	}
	if s := b.engine.Status(); s.Queue.DiskBytes > 2<<20 || len(b.reasons()) != 0 {
		t.Errorf("status %+v, events %v", s, b.reasons())
	}
	told = to("http://127.0.0.1:1/")
	told.Retention = &protocol.MetricsRetention{MaxMiB: 1}
	b.tell(told)
	b.run()
	eventually(t, "the bound is in force", func() bool { return b.engine.Status().Queue.DiskBytes <= 1<<20 })
	eventually(t, "there is an event", func() bool { return slices.Contains(b.reasons(), ReasonDropped) })
	before := b.engine.Status().Queue.Dropped
	b.reopen()
	if s := b.engine.Status(); s.Queue.Dropped != before || s.Queue.DiskBytes > 1<<20 {
		t.Errorf("dropped %+v, after a restart %+v", before, s.Queue)
	}
}

// TestPutLeavesOutWhatNobodyCouldSend keeps the rest of a scrape.
func TestPutLeavesOutWhatNobodyCouldSend(t *testing.T) {
	t.Parallel()
	d := &database{}
	b := newBench(t, nil, to(serve(t, d)))
	samples := scrapeOf("a", 0, 3)
	huge := scrapeOf("b", 0, 1)[0]
	huge.Labels[1].Value = strings.Repeat("x", 64<<10)
	err := b.engine.Put(t.Context(), append([]series.Sample{huge, samples[0], huge}, samples[1:]...))
	if err == nil || b.engine.Status().Unkept != 2 {
		t.Errorf("Put: %v, status %+v", err, b.engine.Status())
	}
	b.run()
	b.flush()
	d.has(t, "a", 3, numbers(0, 1))
}

// TestSpoolFails has a spool that takes nothing.
func TestSpoolFails(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil, protocol.MetricsConfiguration{})
	if err := b.engine.queue.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := b.engine.Put(t.Context(), scrapeOf("a", 0, 3)); !errors.Is(err, diskq.ErrClosed) {
			t.Errorf("Put: %v", err)
		}
	}
	if s := b.engine.Status(); s.Unkept != 6 || len(s.Problems) != 1 || s.Problems[0].Reason != ReasonSpoolFails {
		t.Errorf("status %+v", s)
	}
	if got := b.reasons(); !slices.Equal(got, []string{ReasonSpoolFails}) {
		t.Errorf("events %v", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.engine.Put(ctx, scrapeOf("a", 0, 3)); !errors.Is(err, context.Canceled) {
		t.Errorf("Put: %v", err)
	}
}

// TestUnreadableEntriesAreSkipped has what another version wrote in the spool.
// They are counted once, however often the request is made that they are in.
func TestUnreadableEntriesAreSkipped(t *testing.T) {
	t.Parallel()
	d := &database{}
	d.answer = func([]series.Sample) *remotewrite.Answer {
		if d.requests > 3 {
			return nil
		}
		return &remotewrite.Answer{Err: errAnswer}
	}
	b := newBench(t, nil, to(serve(t, d)))
	alien := func() {
		if err := b.engine.queue.Append([]byte("\xffalien"), nil); err != nil {
			t.Fatal(err)
		}
	}
	alien()
	b.put(scrapeOf("a", 0, 2)...)
	alien()
	b.put(scrapeOf("a", 1, 2)...)
	alien()
	b.run()
	b.flush()
	d.has(t, "a", 2, numbers(0, 2))
	eventually(t, "all is counted", func() bool {
		s := b.engine.Status()
		return s.Damaged == 6 && s.Sent == 4
	})
}

// A device without a spool of metrics runs its workloads all the same.
func TestSpoolThatCannotBeOpenedIsTriedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil, protocol.MetricsConfiguration{})
		b.close()
		spool := filepath.Join(b.dir, "spool")
		if err := os.RemoveAll(spool); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(spool, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		e, err := New(Config{Dir: spool, Desired: b.desired, UserAgent: "test"})
		if err != nil {
			t.Fatal(err)
		}
		if e.Open() == nil {
			t.Fatal("a file was opened as a spool")
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- e.Run(ctx) }()
		synctest.Wait()
		if err := e.Put(ctx, scrapeOf("t", 1, 1)); err == nil || e.Status().Unkept != 1 || len(e.Status().Problems) != 1 {
			t.Errorf("put: %v, status %+v", err, e.Status())
		}
		if err := os.Remove(spool); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if err := e.Put(ctx, scrapeOf("t", 1, 1)); err != nil || e.Status().Queue.Entries != 1 || len(e.Status().Problems) != 0 {
			t.Errorf("put: %v, status %+v", err, e.Status())
		}
		cancel()
		if err := errors.Join(<-ended, e.Close()); err != nil {
			t.Error(err)
		}
	})
}
