package operator

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
)

// collectTimeout bounds a look at the cache, which may not be filled yet.
const collectTimeout = 2 * time.Second

// collector counts what there is, by state, when it is asked. No metric has a
// label of a single device.
type collector struct {
	reader                       client.Reader
	devices, requests, workloads *prometheus.Desc
}

func newCollector(reader client.Reader) *collector {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, []string{"state"}, nil)
	}
	return &collector{
		reader:    reader,
		devices:   desc("flotta_operator_devices", "EdgeDevices by state: registered or unregistered, and online or offline; degraded ones are counted again."),
		requests:  desc("flotta_operator_requests", "EdgeDeviceSignedRequests by state."),
		workloads: desc("flotta_operator_workloads", "EdgeWorkloads by state: ready or not, and refused ones."),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.devices
	ch <- c.requests
	ch <- c.workloads
}

// Collect implements prometheus.Collector. What cannot be read is left out.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), collectTimeout)
	defer cancel()
	for desc, count := range map[*prometheus.Desc]func(context.Context) (map[string]int, error){
		c.devices: c.countDevices, c.requests: c.countRequests, c.workloads: c.countWorkloads,
	} {
		counts, err := count(ctx)
		if err != nil {
			ch <- prometheus.NewInvalidMetric(desc, err)
			continue
		}
		for state, n := range counts {
			ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(n), state)
		}
	}
}

func (c *collector) countDevices(ctx context.Context) (map[string]int, error) {
	var all v1alpha1.EdgeDeviceList
	if err := c.reader.List(ctx, &all, client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	counts := map[string]int{"registered": 0, "unregistered": 0, "online": 0, "offline": 0, "degraded": 0}
	is := func(d *v1alpha1.EdgeDevice, kind string) bool {
		found := fleet.Condition(d, kind)
		return found != nil && found.Status == metav1.ConditionTrue
	}
	for i := range all.Items {
		d := &all.Items[i]
		state := "registered"
		if fleet.AwaitsRegistration(d) {
			state = "unregistered"
		}
		counts[state]++
		if is(d, v1alpha1.ConditionOnline) {
			counts["online"]++
		} else {
			counts["offline"]++
		}
		if is(d, v1alpha1.ConditionDegraded) {
			counts["degraded"]++
		}
	}
	return counts, nil
}

func (c *collector) countRequests(ctx context.Context) (map[string]int, error) {
	var all v1alpha1.EdgeDeviceSignedRequestList
	if err := c.reader.List(ctx, &all, client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	counts := map[string]int{v1alpha1.SignedRequestApproved: 0, v1alpha1.SignedRequestDeclined: 0, v1alpha1.SignedRequestPending: 0}
	for i := range all.Items {
		switch r := &all.Items[i]; {
		case fleet.IsGranted(r):
			counts[v1alpha1.SignedRequestApproved]++
		case fleet.IsDeclined(r):
			counts[v1alpha1.SignedRequestDeclined]++
		default:
			counts[v1alpha1.SignedRequestPending]++
		}
	}
	return counts, nil
}

func (c *collector) countWorkloads(ctx context.Context) (map[string]int, error) {
	var all v1alpha1.EdgeWorkloadList
	if err := c.reader.List(ctx, &all, client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	counts := map[string]int{"ready": 0, "waiting": 0, "refused": 0}
	for i := range all.Items {
		state := "waiting"
		for _, condition := range all.Items[i].Status.Conditions {
			switch {
			case condition.Type == v1alpha1.WorkloadAccepted && condition.Status == metav1.ConditionFalse:
				state = "refused"
			case condition.Type == v1alpha1.WorkloadReady && condition.Status == metav1.ConditionTrue:
				state = "ready"
			}
		}
		counts[state]++
	}
	return counts, nil
}
