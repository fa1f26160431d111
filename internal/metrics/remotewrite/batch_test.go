package remotewrite_test

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/golang/snappy"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/project-flotta/flotta-agent/internal/metrics/remotewrite"
	"github.com/project-flotta/flotta-agent/internal/metrics/series"
)

// writeRequest describes the message of the specification to the protobuf
// library, which then decodes what the package encodes by hand.
func writeRequest(t testing.TB) protoreflect.MessageDescriptor {
	t.Helper()
	message := func(name string, fields ...*descriptorpb.FieldDescriptorProto) *descriptorpb.DescriptorProto {
		for i, f := range fields {
			f.Number = new(int32(i + 1))
		}
		return &descriptorpb.DescriptorProto{Name: &name, Field: fields}
	}
	field := func(name string, kind descriptorpb.FieldDescriptorProto_Type, of string) *descriptorpb.FieldDescriptorProto {
		f := &descriptorpb.FieldDescriptorProto{Name: &name, Type: &kind, Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum()}
		if of != "" {
			f.TypeName, f.Label = &of, descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum()
		}
		return f
	}
	const (
		text   = descriptorpb.FieldDescriptorProto_TYPE_STRING
		double = descriptorpb.FieldDescriptorProto_TYPE_DOUBLE
		number = descriptorpb.FieldDescriptorProto_TYPE_INT64
		nested = descriptorpb.FieldDescriptorProto_TYPE_MESSAGE
	)
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: new("remote.proto"), Syntax: new("proto3"), Package: new("p"),
		MessageType: []*descriptorpb.DescriptorProto{
			message("WriteRequest", field("timeseries", nested, ".p.TimeSeries")),
			message("TimeSeries", field("labels", nested, ".p.Label"), field("samples", nested, ".p.Sample")),
			message("Label", field("name", text, ""), field("value", text, "")),
			message("Sample", field("value", double, ""), field("timestamp", number, "")),
		},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return file.Messages().ByName("WriteRequest")
}

// decoded returns the samples of a request, series by series. It fails on
// anything that the specification does not know.
func decoded(t testing.TB, body []byte) (samples []series.Sample, groups int) {
	t.Helper()
	raw, err := snappy.Decode(nil, body)
	if err != nil {
		t.Fatal(err)
	}
	m := dynamicpb.NewMessage(writeRequest(t))
	if err := proto.Unmarshal(raw, m); err != nil {
		t.Fatal(err)
	}
	get := func(m protoreflect.Message, name protoreflect.Name) protoreflect.Value {
		if len(m.GetUnknown()) > 0 {
			t.Fatalf("%s has unknown fields", m.Descriptor().Name())
		}
		return m.Get(m.Descriptor().Fields().ByName(name))
	}
	all := get(m, "timeseries").List()
	for i := range all.Len() {
		var labels []series.Label
		ts := all.Get(i).Message()
		for list, j := get(ts, "labels").List(), 0; j < list.Len(); j++ {
			l := list.Get(j).Message()
			labels = append(labels, series.Label{Name: get(l, "name").String(), Value: get(l, "value").String()})
		}
		for list, j := get(ts, "samples").List(), 0; j < list.Len(); j++ {
			s := list.Get(j).Message()
			samples = append(samples, series.Sample{Labels: labels, Value: get(s, "value").Float(), Millis: get(s, "timestamp").Int()})
		}
	}
	return samples, all.Len()
}

func sample(value float64, millis int64, pairs ...string) series.Sample {
	s := series.Sample{Value: value, Millis: millis}
	for p := range slices.Chunk(pairs, 2) {
		s.Labels = append(s.Labels, series.Label{Name: p[0], Value: p[1]})
	}
	return s
}

func TestBatchIsWhatTheSpecificationSays(t *testing.T) {
	t.Parallel()
	a1 := sample(0, 1795300000000, series.MetricName, "a", "x", "1")
	a2 := sample(math.Inf(-1), 1795300060000, series.MetricName, "a", "x", "1")
	b1 := sample(series.Stale(), -1, series.MetricName, "b")
	bad := sample(1, 2, series.MetricName, "c", "x", "\xff")
	mended := sample(1, 2, series.MetricName, "c", "x", "\uFFFD")
	var b remotewrite.Batch
	for round := range 3 { // a batch that is used again holds nothing of before
		b.Add([]series.Sample{a1, b1})
		b.Add([]series.Sample{a2, bad})
		got, groups := decoded(t, b.Encode())
		want := []series.Sample{a1, a2, b1, mended}
		ok := slices.EqualFunc(got, want, func(a, b series.Sample) bool {
			return slices.Equal(a.Labels, b.Labels) && a.Millis == b.Millis && math.Float64bits(a.Value) == math.Float64bits(b.Value)
		})
		if !ok || groups != 3 || b.Samples() != 4 {
			t.Errorf("round %d: %d series, %v, want %v", round, groups, got, want)
		}
		b.Reset()
		if b.Samples() != 0 || b.Bytes() != 0 {
			t.Errorf("after Reset: %d samples, %d bytes", b.Samples(), b.Bytes())
		}
	}
}

func TestBatchKnowsItsSize(t *testing.T) {
	t.Parallel()
	var b remotewrite.Batch
	for i := range 5000 {
		b.Add([]series.Sample{sample(float64(i), int64(i), series.MetricName, "a", "n", fmt.Sprint(i%700))})
	}
	n, err := snappy.DecodedLen(b.Encode())
	if err != nil || b.Bytes() < n || b.Bytes() > n+n/10 {
		t.Errorf("%d bytes, said %d, %v", n, b.Bytes(), err)
	}
}

// BenchmarkBatch makes a request of 30 scrapes of 1000 series each.
func BenchmarkBatch(b *testing.B) {
	var scrapes [][]series.Sample
	for at := range int64(30) {
		var s []series.Sample
		for i := range 1000 {
			s = append(s, sample(float64(i), 1795300000000+at*60_000, series.MetricName, "node_cpu_seconds_total", "cpu", fmt.Sprint(i),
				"edgedeviceid", "5b0f3c1e-8a57-4c0e-9a51-0d0c6a4d1f11", "instance", "localhost:9100", "job", "system", "mode", "idle"))
		}
		scrapes = append(scrapes, s)
	}
	var batch remotewrite.Batch
	var body []byte
	b.ReportAllocs()
	for b.Loop() {
		batch.Reset()
		for _, s := range scrapes {
			batch.Add(s)
		}
		body = batch.Encode()
	}
	b.ReportMetric(float64(len(body))/30_000, "B/sample")
	b.ReportMetric(float64(batch.Bytes())/30_000, "raw-B/sample")
	b.ReportMetric(float64(b.N*30_000)/b.Elapsed().Seconds(), "samples/s")
}
