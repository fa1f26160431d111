package series_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/golang/snappy"

	"github.com/project-flotta/flotta-agent/internal/metrics/series"
)

// same compares samples; values by their bits, as NaN equals nothing.
func same(a, b []series.Sample) bool {
	return slices.EqualFunc(a, b, func(a, b series.Sample) bool {
		return slices.Equal(a.Labels, b.Labels) && a.Millis == b.Millis && math.Float64bits(a.Value) == math.Float64bits(b.Value)
	})
}

func encoded(t testing.TB, samples []series.Sample) []byte {
	t.Helper()
	b, err := series.Append(nil, samples)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// scrape is what a node exporter answers, more or less: n series of one moment.
func scrape(n int, millis int64) []series.Sample {
	var all []series.Sample
	for i := range n {
		all = append(all, series.Sample{
			Labels: []series.Label{
				{Name: series.MetricName, Value: fmt.Sprintf("node_cpu_%d_seconds_total", i/16)},
				{Name: "cpu", Value: fmt.Sprint(i % 16)},
				{Name: "edgedeviceid", Value: "5b0f3c1e-8a57-4c0e-9a51-0d0c6a4d1f11"},
				{Name: "instance", Value: "localhost:9100"},
				{Name: "job", Value: "system"},
				{Name: "mode", Value: []string{"idle", "iowait", "system"}[i%3]},
			},
			Value: float64(i*7919+int(millis/60_000)) / []float64{1, 1, 100}[i%3], Millis: millis,
		})
	}
	return all
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	up := []series.Label{{Name: series.MetricName, Value: "up"}}
	more := []series.Label{{Name: "A", Value: "1"}, {Name: series.MetricName, Value: "up"}, {Name: "z", Value: "ü\n\"\x00\xff"}}
	var values []series.Sample
	for i, v := range []float64{
		0, math.Copysign(0, -1), 1, -1, 0.1, 1 << 52, 1<<53 - 1, -(1<<53 - 1), 1 << 53, -(1 << 53), 1 << 63, -(1 << 63), 1e300,
		math.MaxFloat64, math.SmallestNonzeroFloat64, math.Inf(1), math.Inf(-1), math.NaN(), series.Stale(),
		math.Float64frombits(0xfff8dead0000beef),
	} {
		values = append(values, series.Sample{Labels: up, Value: v, Millis: int64(i)})
	}
	for name, samples := range map[string][]series.Sample{
		"none":       {},
		"no labels":  {{Value: 1}},
		"values":     values,
		"times":      {{Labels: up, Millis: math.MaxInt64}, {Labels: up, Millis: math.MinInt64}, {Labels: up, Millis: -1}, {Labels: up, Millis: 1795300000123}},
		"own labels": {{Labels: up}, {Labels: more}, {Labels: up}, {Labels: more, Value: 2}},
		"scrape":     scrape(1000, 1795300000123),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			entry := encoded(t, samples)
			got, err := series.Decode(entry)
			if err != nil || !same(got, samples) {
				t.Errorf("%v comes back as %v, %v", samples, got, err)
			}
			kept, err := series.Append([]byte("before"), samples)
			if err != nil || string(kept) != "before"+string(entry) {
				t.Errorf("behind other bytes: %q, %v", kept, err)
			}
		})
	}
}

func TestAppendRefusesTooMuch(t *testing.T) {
	t.Parallel()
	label := func(name, value string) []series.Label { return []series.Label{{Name: name, Value: value}} }
	var wide []series.Label
	for i := range 257 {
		wide = append(wide, series.Label{Name: fmt.Sprintf("l%04d", i), Value: "x"})
	}
	for name, samples := range map[string][]series.Sample{
		"samples": make([]series.Sample, series.MaxSamples+1),
		"labels":  {{Labels: wide}},
		"cells":   slices.Repeat([]series.Sample{{Labels: wide[:256]}}, 1<<12),
		"bytes":   {{Labels: label("a", strings.Repeat("x", 5<<20))}},
	} {
		if b, err := series.Append([]byte("kept"), samples); !errors.Is(err, series.ErrTooLarge) || string(b) != "kept" {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
}

func packed(raw ...byte) []byte { return append([]byte{1}, snappy.Encode(nil, raw)...) }

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	good := encoded(t, scrape(3, 1))
	huge := append([]byte{1}, binary.AppendUvarint(nil, 1<<31)...)
	for name, entry := range map[string][]byte{
		"nothing":         {},
		"version":         append([]byte{2}, good[1:]...),
		"cut":             good[:len(good)-1],
		"more":            append(bytes.Clone(good), 0),
		"a huge block":    append(huge, 0),
		"many strings":    packed(0xff, 0xff, 0xff, 0xff, 0x0f),
		"no such string":  packed(1, 1, 'a', 1, 0, 1, 0),
		"bytes behind":    packed(0, 0, 0, 0),
		"labels twice":    packed(1, 1, 'a', 0, 1, 0, 0, 2, 0, 0, 0, 0),
		"a shared twice":  packed(1, 1, 'a', 1, 0, 0, 1, 0, 0, 1, 0, 0),
		"an empty label":  packed(2, 1, 'a', 0, 0, 1, 0, 0, 1, 0, 1),
		"a kind of value": packed(0, 0, 1, 0, 3, 0),
		"a long number":   packed(0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1),
	} {
		if got, err := series.Decode(entry); !errors.Is(err, series.ErrMalformed) {
			t.Errorf("%s: %d samples, %v", name, len(got), err)
		}
	}
}

// TestDecodeIsBounded decodes what claims as much as there can be: the memory
// must follow the limits, not the claim.
func TestDecodeIsBounded(t *testing.T) { //nolint:paralleltest // it counts allocations
	raw := binary.AppendUvarint(nil, 1<<18)
	raw = append(raw, make([]byte, 1<<18)...) // empty strings
	raw = append(raw, 0)
	raw = binary.AppendUvarint(raw, series.MaxSamples)
	raw = append(raw, make([]byte, 3*series.MaxSamples)...)
	entry := packed(raw...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	got, err := series.Decode(entry)
	runtime.ReadMemStats(&after)
	if err != nil || len(got) != series.MaxSamples {
		t.Fatalf("%d samples, %v", len(got), err)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 50<<20 {
		t.Errorf("%d bytes of entry cost %d MiB", len(entry), n>>20)
	}
}

func FuzzDecode(f *testing.F) {
	for _, n := range []int{0, 1, 40} {
		f.Add(encoded(f, scrape(n, 1795300000123))[1:], false)
	}
	f.Add([]byte{1, 1, 'a', 1, 0, 0, 1, 0, 0, 1, 0, 0}, true)
	f.Add([]byte{2, 1, 'a', 1, 'b', 0, 1, 4, 1, 0, 0, 0, 0, 0, 0, 0xf8, 0x7f, 1, 0, 1}, true)
	f.Fuzz(func(t *testing.T, b []byte, compress bool) {
		entry := append([]byte{1}, b...)
		if compress { // so that more inputs get behind the compression
			entry = packed(b...)
		}
		samples, err := series.Decode(entry)
		if err != nil {
			return
		}
		again, err := series.Decode(encoded(t, samples))
		if err != nil || !same(again, samples) {
			t.Fatalf("%v comes back as %v, %v", samples, again, err)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	samples := scrape(1000, 1795300000123)
	var entry []byte
	for b.Loop() {
		var err error
		if entry, err = series.Append(entry[:0], samples); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(entry))/float64(len(samples)), "B/sample")
	b.ReportMetric(float64(b.N*len(samples))/b.Elapsed().Seconds(), "samples/s")
}

func BenchmarkDecode(b *testing.B) {
	samples := scrape(1000, 1795300000123)
	entry := encoded(b, samples)
	for b.Loop() {
		if _, err := series.Decode(entry); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N*len(samples))/b.Elapsed().Seconds(), "samples/s")
}
