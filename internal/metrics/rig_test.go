package metrics

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/golang/snappy"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/metrics/remotewrite"
	"github.com/project-flotta/flotta-agent/internal/metrics/series"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// bench is an engine with everything around it.
type bench struct {
	t       testing.TB
	dir     string
	desired *desired.Store
	version int
	engine  *Engine
	connect func(remotewrite.Config) (sender, error)
	stop    func()

	mu     sync.Mutex
	events []protocol.EventInfo
}

// newBench opens an engine that is told to deliver to address; nothing is
// delivered before run.
func newBench(t testing.TB, connect func(remotewrite.Config) (sender, error), told protocol.MetricsConfiguration) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir(), connect: connect, stop: func() {}}
	var err error
	b.desired, err = desired.Open(filepath.Join(b.dir, "desired.json"), "device", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	b.tell(told)
	b.open()
	t.Cleanup(b.close)
	return b
}

func (b *bench) open() {
	b.t.Helper()
	var err error
	b.engine, err = New(Config{
		Dir: filepath.Join(b.dir, "spool"), Desired: b.desired, UserAgent: "test", connect: b.connect,
		Log: slog.New(slog.NewTextHandler(b.t.Output(), nil)),
		Event: func(e protocol.EventInfo) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.events = append(b.events, e)
		},
	})
	if err != nil {
		b.t.Fatal(err)
	}
	if err := b.engine.Open(); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) close() {
	b.stop()
	b.stop = func() {}
	if err := b.engine.Close(); err != nil {
		b.t.Error(err)
	}
}

// reopen is a restart of the agent.
func (b *bench) reopen() {
	b.t.Helper()
	b.close()
	b.open()
}

func (b *bench) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.engine.Run(ctx) }()
	b.stop = func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Errorf("Run: %v", err)
		}
	}
}

// to is a configuration with a receiver.
func to(address string) protocol.MetricsConfiguration {
	return protocol.MetricsConfiguration{Receiver: &protocol.MetricsReceiverConfiguration{URL: address}}
}

// tell publishes a configuration through the real owner of the desired state.
func (b *bench) tell(m protocol.MetricsConfiguration) {
	b.t.Helper()
	b.version++
	raw, err := json.Marshal(protocol.DeviceConfigurationMessage{
		DeviceID: "device", Version: strconv.Itoa(b.version),
		Configuration: &protocol.DeviceConfiguration{Metrics: &m, Heartbeat: &protocol.HeartbeatConfiguration{PeriodSeconds: int64(b.version)}},
	})
	if err != nil {
		b.t.Fatal(err)
	}
	if err := b.desired.Accept(raw); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) put(samples ...series.Sample) {
	b.t.Helper()
	if err := b.engine.Put(b.t.Context(), samples); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) flush() {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	if err := b.engine.Flush(ctx); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) reasons() (all []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.events {
		all = append(all, e.Reason)
	}
	return all
}

// eventually waits for what is to become true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in 30 s: %s", what)
		}
	}
}

// scrapeOf is a scrape of n series of a target; sample i has the value n.
func scrapeOf(target string, number, n int) []series.Sample {
	var all []series.Sample
	for i := range n {
		all = append(all, series.Sample{
			Labels: []series.Label{
				{Name: series.MetricName, Value: "m"}, {Name: "i", Value: strconv.Itoa(i)}, {Name: "target", Value: target},
			},
			Value: float64(number), Millis: 1_795_000_000_000 + int64(number)*60_000,
		})
	}
	return all
}

// database takes samples as Prometheus does: a request with one sample that is
// older than the newest of its series, or different at the same time, is refused
// as a whole, and nothing of it is kept. It is an http.Handler and a sender.
type database struct {
	mu       sync.Mutex
	got      map[string][]point
	requests int
	largest  int // samples in a request
	bytes    int // most in a request, before compression
	// answer may take the place of the answer; took says what would be kept.
	answer func(samples []series.Sample) *remotewrite.Answer
	after  func(remotewrite.Answer) remotewrite.Answer
	delay  time.Duration // of each request, as sender
}

type point struct {
	millis int64
	value  float64
}

func (d *database) connect(remotewrite.Config) (sender, error) { return d, nil }

func (d *database) Address() string { return "http://database" }

func (d *database) Close() {}

// Send is a request over a line that takes its time.
func (d *database) Send(ctx context.Context, body []byte) remotewrite.Answer {
	select {
	case <-time.After(max(1, d.delay)):
	case <-ctx.Done():
		return remotewrite.Answer{Outcome: remotewrite.Failed, Err: ctx.Err()}
	}
	return d.take(body)
}

func (d *database) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // cut off: nothing is taken of it
	}
	switch a := d.take(body); a.Outcome {
	case remotewrite.Delivered:
		w.WriteHeader(http.StatusNoContent)
	case remotewrite.OutOfOrder:
		http.Error(w, "out of order sample", http.StatusBadRequest)
	default:
		http.Error(w, a.Err.Error(), http.StatusInternalServerError)
	}
}

func (d *database) take(body []byte) remotewrite.Answer {
	samples, raw, err := decodeRequest(body)
	if err != nil {
		return remotewrite.Answer{Outcome: remotewrite.Malformed, Err: err}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.requests++
	d.largest, d.bytes = max(d.largest, len(samples)), max(d.bytes, raw)
	if d.answer != nil {
		if a := d.answer(samples); a != nil {
			return *a
		}
	}
	a := d.keep(samples)
	if d.after != nil {
		a = d.after(a)
	}
	return a
}

func (d *database) keep(samples []series.Sample) remotewrite.Answer {
	if d.got == nil {
		d.got = map[string][]point{}
	}
	fresh := map[string][]point{}
	for _, s := range samples {
		key := fmt.Sprint(s.Labels)
		p, last := point{s.Millis, s.Value}, point{millis: math.MinInt64}
		if have := d.got[key]; len(have) > 0 {
			last = have[len(have)-1]
		}
		if have := fresh[key]; len(have) > 0 {
			last = have[len(have)-1]
		}
		switch {
		case p == last:
		case p.millis <= last.millis:
			return remotewrite.Answer{Outcome: remotewrite.OutOfOrder, Err: fmt.Errorf("out of order sample of %s", key)}
		default:
			fresh[key] = append(fresh[key], p)
		}
	}
	for key, points := range fresh {
		d.got[key] = append(d.got[key], points...)
	}
	return remotewrite.Answer{Outcome: remotewrite.Delivered}
}

// has checks that each of n series of the target has the numbers, once each and
// in order.
func (d *database) has(t testing.TB, target string, n int, numbers []int) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	var want []point
	for _, number := range numbers {
		for _, s := range scrapeOf(target, number, 1) {
			want = append(want, point{s.Millis, s.Value})
		}
	}
	for _, s := range scrapeOf(target, 0, n) {
		if got := d.got[fmt.Sprint(s.Labels)]; !slices.Equal(got, want) {
			t.Fatalf("%v has %d samples, want %d\n got %v\nwant %v", s.Labels, len(got), len(want), got, want)
		}
	}
}

func (d *database) count() (requests, samples int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, points := range d.got {
		samples += len(points)
	}
	return d.requests, samples
}

func numbers(from, to int) (all []int) {
	for n := from; n < to; n++ {
		all = append(all, n)
	}
	return all
}

// decodeRequest takes a request apart. That requests are what the specification
// says is tested where they are made.
func decodeRequest(body []byte) (samples []series.Sample, size int, err error) {
	raw, err := snappy.Decode(nil, body)
	if err != nil {
		return nil, 0, err
	}
	err = fields(raw, func(_ protowire.Number, timeseries []byte) error {
		var labels []series.Label
		return fields(timeseries, func(field protowire.Number, content []byte) error {
			if field == 1 {
				var texts []string
				err := fields(content, func(_ protowire.Number, text []byte) error {
					texts = append(texts, string(text))
					return nil
				})
				labels = append(labels, series.Label{Name: texts[0], Value: texts[1]})
				return err
			}
			bits, _ := protowire.ConsumeFixed64(content[1:])
			millis, _ := protowire.ConsumeVarint(content[10:])
			samples = append(samples, series.Sample{Labels: labels, Value: math.Float64frombits(bits), Millis: int64(millis)})
			return nil
		})
	})
	return samples, len(raw), err
}

// fields calls yield with every field of a message, all of which hold bytes.
func fields(b []byte, yield func(protowire.Number, []byte) error) error {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 || kind != protowire.BytesType {
			return fmt.Errorf("field %d of kind %d", number, kind)
		}
		content, m := protowire.ConsumeBytes(b[n:])
		if m < 0 {
			return protowire.ParseError(m)
		}
		if err := yield(number, content); err != nil {
			return err
		}
		b = b[n+m:]
	}
	return nil
}
