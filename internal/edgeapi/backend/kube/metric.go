package kube

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
)

// metrics are what the backend counts. None has a label per device.
type metrics struct {
	hits, misses             prometheus.Counter
	writes, conflicts, reads prometheus.Counter
	rendering, writing       prometheus.Histogram
}

func newMetrics(into prometheus.Registerer, b *Backend) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	duration := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(.0001, 4, 9), // 0.1 ms to 6.6 s
		})
	}
	m := &metrics{
		hits:      counter("flotta_api_configuration_cache_hits_total", "Configurations that did not have to be rendered."),
		misses:    counter("flotta_api_configuration_cache_misses_total", "Configurations that were rendered."),
		writes:    counter("flotta_api_device_writes_total", "Writes of EdgeDevices to the API server."),
		conflicts: counter("flotta_api_device_write_conflicts_total", "Writes of EdgeDevices that another writer overtook."),
		reads:     counter("flotta_api_reference_reads_total", "Reads of Secrets, ConfigMaps and Routes from the API server."),
		rendering: duration("flotta_api_configuration_render_duration_seconds", "Time to render a configuration, reads of what it refers to included."),
		writing:   duration("flotta_api_device_write_duration_seconds", "Time that the API server takes for a write of an EdgeDevice."),
	}
	interrupted := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "flotta_api_watches_interrupted", Help: "Kinds that cannot be watched now: what is known of them may be out of date.",
	}, b.interrupted)
	if into == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.hits, m.misses, m.writes, m.conflicts, m.reads, m.rendering, m.writing, interrupted, newDeviceCollector(&b.devices)} {
		if err := into.Register(c); err != nil {
			errs = append(errs, fmt.Errorf("register metrics: %w", err))
		}
	}
	return m, errors.Join(errs...)
}

// write counts a write that begins; the result is called at its end.
func (m *metrics) write() func() {
	m.writes.Inc()
	started := time.Now()
	return func() { m.writing.Observe(time.Since(started).Seconds()) }
}

// deviceCollector counts devices by state when it is asked.
type deviceCollector struct {
	devices *deviceStore
	desc    *prometheus.Desc
}

func newDeviceCollector(devices *deviceStore) *deviceCollector {
	return &deviceCollector{devices: devices, desc: prometheus.NewDesc(
		"flotta_api_devices",
		"Devices by state. Each is registered, unregistered or deleting, and may also be degraded, offline or pending, which has an older configuration in force.",
		[]string{"state"}, nil,
	)}
}

// Describe implements prometheus.Collector.
func (c *deviceCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

// Collect implements prometheus.Collector.
func (c *deviceCollector) Collect(ch chan<- prometheus.Metric) {
	counts := map[string]int{"registered": 0, "unregistered": 0, "deleting": 0, "degraded": 0, "offline": 0, "pending": 0}
	c.devices.each("", func(d *device) {
		object := d.state().object
		switch {
		case object.DeletionTimestamp != nil:
			counts["deleting"]++
		case fleet.AwaitsRegistration(object):
			counts["unregistered"]++
		default:
			counts["registered"]++
		}
		for _, condition := range object.Status.Conditions {
			switch {
			case condition.Type == v1alpha1.ConditionDegraded && condition.Status == metav1.ConditionTrue:
				counts["degraded"]++
			case condition.Type == v1alpha1.ConditionOnline && condition.Status == metav1.ConditionFalse:
				counts["offline"]++
			case condition.Type == v1alpha1.ConditionConfigurationApplied && condition.Status == metav1.ConditionFalse:
				counts["pending"]++
			}
		}
	})
	for state, n := range counts {
		ch <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(n), state)
	}
}
