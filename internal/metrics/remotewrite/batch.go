package remotewrite

import (
	"math"
	"strings"
	"unicode/utf8"

	"github.com/golang/snappy"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/project-flotta/flotta-agent/internal/metrics/series"
)

// The fields of the messages of remote write 1.0 that are used.
const (
	fieldTimeseries = 1 // of WriteRequest
	fieldLabels     = 1 // of TimeSeries
	fieldSamples    = 2
	fieldName       = 1 // of Label
	fieldValue      = 2
	fieldNumber     = 1 // of Sample, a double
	fieldTimestamp  = 2 // milliseconds since 1970
)

// Batch is one request while it is made. Samples of one series share its labels,
// so a request of many scrapes is hardly larger than one of a few. The zero Batch
// is empty and ready for use; it keeps its memory for the next request. It is for
// one goroutine at a time.
type Batch struct {
	index   map[string]int // encoded labels to the place in series
	series  []timeseries
	samples int
	bytes   int

	label, scratch, raw, packed []byte
}

type timeseries struct {
	labels  string // encoded
	samples []byte // encoded
}

// Add puts samples behind those of the same series.
func (b *Batch) Add(samples []series.Sample) {
	if b.index == nil {
		b.index = map[string]int{}
	}
	for _, s := range samples {
		b.add(s)
	}
}

func (b *Batch) add(s series.Sample) {
	b.scratch = b.scratch[:0]
	for _, l := range s.Labels {
		b.label = appendText(b.label[:0], fieldName, l.Name)
		b.label = appendText(b.label, fieldValue, l.Value)
		b.scratch = appendBytes(b.scratch, fieldLabels, b.label)
	}
	i, known := b.index[string(b.scratch)]
	if !known {
		i = len(b.series)
		b.index[string(b.scratch)] = i
		if i < cap(b.series) {
			b.series = b.series[:i+1] // with the memory of an earlier request
			b.series[i].labels, b.series[i].samples = string(b.scratch), b.series[i].samples[:0]
		} else {
			b.series = append(b.series, timeseries{labels: string(b.scratch)})
		}
		b.bytes += len(b.scratch) + 6 // tag and length
	}
	// Zeros are written out too: a receiver that does not know defaults is no
	// trouble then, and a sample is the same size whatever it says.
	b.label = protowire.AppendTag(b.label[:0], fieldNumber, protowire.Fixed64Type)
	b.label = protowire.AppendFixed64(b.label, math.Float64bits(s.Value))
	b.label = protowire.AppendTag(b.label, fieldTimestamp, protowire.VarintType)
	b.label = protowire.AppendVarint(b.label, uint64(s.Millis)) //nolint:gosec // two's complement
	before := len(b.series[i].samples)
	b.series[i].samples = appendBytes(b.series[i].samples, fieldSamples, b.label)
	b.bytes += len(b.series[i].samples) - before
	b.samples++
}

// appendText appends a field of text; protobuf wants valid UTF-8.
func appendText(b []byte, field protowire.Number, text string) []byte {
	if !utf8.ValidString(text) {
		text = strings.ToValidUTF8(text, "\uFFFD")
	}
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), text)
}

func appendBytes(b []byte, field protowire.Number, content []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), content)
}

// Samples returns how many samples were added.
func (b *Batch) Samples() int { return b.samples }

// Bytes returns about how many bytes the request has before compression.
func (b *Batch) Bytes() int { return b.bytes }

// Reset makes the batch empty.
func (b *Batch) Reset() {
	clear(b.index)
	b.series, b.samples, b.bytes = b.series[:0], 0, 0
}

// Encode returns the body of the request, compressed. It is valid until the next
// call of a method.
func (b *Batch) Encode() []byte {
	b.raw = b.raw[:0]
	for _, ts := range b.series {
		b.raw = protowire.AppendTag(b.raw, fieldTimeseries, protowire.BytesType)
		b.raw = protowire.AppendVarint(b.raw, uint64(len(ts.labels)+len(ts.samples)))
		b.raw = append(b.raw, ts.labels...)
		b.raw = append(b.raw, ts.samples...)
	}
	b.packed = snappy.Encode(b.packed[:cap(b.packed)], b.raw)
	return b.packed
}
