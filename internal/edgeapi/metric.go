package edgeapi

import (
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// maxDisconnected bounds the memory for devices that were told to disconnect:
// 65,536 names of two times 63 bytes are some 12 MB.
const maxDisconnected = 1 << 16

// metrics are what the server counts. The names of the flotta_api_edge_devices
// counters are those of flotta v0.2, which is why they lack the suffix _total.
// None has a label per device: a fleet of 10,000 would be as many series, which
// outlive the devices.
type metrics struct {
	registry *prometheus.Registry

	registered   prometheus.Counter
	unregistered prometheus.Counter
	regFailed    prometheus.Counter
	authFailed   prometheus.Counter
	wrongOwner   prometheus.Counter
	panics       prometheus.Counter
	heartbeats   prometheus.Counter
	latency      *prometheus.HistogramVec
	requestSize  *prometheus.HistogramVec
	answerSize   *prometheus.HistogramVec

	mu           sync.Mutex
	disconnected map[Device]struct{} // told to, and not seen managed since
}

func newMetrics(registry *prometheus.Registry) *metrics {
	const prefix = "flotta_api_edge_devices_"
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	sizes := func(name, help string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: name, Help: help,
			Buckets: prometheus.ExponentialBuckets(256, 4, 8), // 256 B to 4 MiB
		}, []string{"operation"})
	}
	m := &metrics{
		registry:     registry,
		registered:   counter(prefix+"successful_registration", "Registrations that ended with a certificate."),
		regFailed:    counter(prefix+"failed_registration", "Registrations that were refused or failed."),
		unregistered: counter(prefix+"unregistration", "Devices that were told that they are no longer managed."),
		authFailed:   counter(prefix+"failed_authentication", "Requests with a certificate that was not accepted."),
		wrongOwner:   counter(prefix+"invalid_owner", "Requests with the certificate of another device."),
		panics:       counter("flotta_api_panics_total", "Requests that ended in a panic."),
		heartbeats:   counter(prefix+"heartbeat", "Heartbeats taken in."),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "flotta_api_request_duration_seconds", Help: "Time from a request's header to the end of its answer.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"operation", "code"}),
		requestSize:  sizes("flotta_api_request_size_bytes", "Size of the bodies of requests."),
		answerSize:   sizes("flotta_api_response_size_bytes", "Size of the bodies of answers."),
		disconnected: make(map[Device]struct{}),
	}
	m.registry.MustRegister(
		m.registered, m.regFailed, m.unregistered, m.authFailed, m.wrongOwner, m.panics,
		m.heartbeats, m.latency, m.requestSize, m.answerSize,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

// observe records one request.
func (m *metrics) observe(a answer, r *http.Request, took time.Duration) {
	m.latency.WithLabelValues(a.operation, strconv.Itoa(a.status)).Observe(took.Seconds())
	if r.ContentLength > 0 {
		m.requestSize.WithLabelValues(a.operation).Observe(float64(r.ContentLength))
	}
	m.answerSize.WithLabelValues(a.operation).Observe(float64(len(a.body)))
}

// managed records what a device was told about being managed. It reports
// whether this is news: devices ask every 5 s, and leave once.
func (m *metrics) managed(d Device, managed bool) (left bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, known := m.disconnected[d]
	switch {
	case managed && known:
		delete(m.disconnected, d)
	case !managed && !known:
		if len(m.disconnected) >= maxDisconnected {
			clear(m.disconnected)
		}
		m.disconnected[d] = struct{}{}
		m.unregistered.Inc()
		return true
	}
	return false
}
