package remote

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Values of the label code for calls that got no answer.
const (
	codeError   = "error"   // no connection, or a broken one
	codeTimeout = "timeout" // none in time
	codeGone    = "abandoned"
	codeOpen    = "circuit_open"
	codeOther   = "other" // a status that HTTP does not know
)

// metrics are what the backend counts. None has a label per device.
type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	nonsense *prometheus.CounterVec
	cached   prometheus.Counter
}

func newMetrics(into prometheus.Registerer, c *circuit) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "flotta_api_remote_requests_total",
			Help: "Requests to the remote backend by call and code, which is the HTTP status or why there is none.",
		}, []string{"call", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "flotta_api_remote_request_duration_seconds",
			Help:    "Time that requests to the remote backend took, each attempt for itself.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"call"}),
		nonsense: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "flotta_api_remote_invalid_answers_total",
			Help: "Answers of the remote backend with a status of success that could not be understood.",
		}, []string{"call"}),
		cached: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "flotta_api_remote_not_modified_total",
			Help: "Configurations that the remote backend did not have to send again.",
		}),
	}
	open := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "flotta_api_remote_circuit_open",
		Help: "1 while the remote backend is left alone because it does not work.",
	}, func() float64 {
		if c.state().open {
			return 1
		}
		return 0
	})
	contact := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "flotta_api_remote_last_contact_timestamp_seconds",
		Help: "When the remote backend answered last; 0 for never.",
	}, func() float64 {
		if at := c.state().contact; !at.IsZero() {
			return float64(at.UnixMilli()) / 1000
		}
		return 0
	})
	if into == nil {
		return m, nil
	}
	var errs []error
	for _, collector := range []prometheus.Collector{m.requests, m.duration, m.nonsense, m.cached, open, contact} {
		if err := into.Register(collector); err != nil {
			errs = append(errs, fmt.Errorf("register metrics: %w", err))
		}
	}
	return m, errors.Join(errs...)
}

func (m *metrics) observe(call, code string, took time.Duration) {
	m.requests.WithLabelValues(call, code).Inc()
	m.duration.WithLabelValues(call).Observe(took.Seconds())
}

// statusCode is the label of an HTTP status: one of a fixed set, because the
// service could make up a thousand.
func statusCode(status int) string {
	if http.StatusText(status) == "" {
		return codeOther
	}
	return strconv.Itoa(status)
}
