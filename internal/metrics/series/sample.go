package series

import "math"

// MetricName is the label that holds the name of a metric.
const MetricName = "__name__"

// Label is one label of a series. Neither name nor value is empty.
type Label struct{ Name, Value string }

// Sample is one value of one series. Labels are sorted by name, without
// duplicates, and hold MetricName.
type Sample struct {
	Labels []Label
	Value  float64
	Millis int64 // since 1970, UTC
}

// Stale is the value of a series that has ended: Prometheus tells it from other
// NaNs by its bits.
func Stale() float64 { return math.Float64frombits(staleBits) }

// IsStale reports whether v says that a series has ended.
func IsStale(v float64) bool { return math.Float64bits(v) == staleBits }

const staleBits = 0x7ff0000000000002
