package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"
	"k8s.io/client-go/rest"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
)

// Config sets a Backend. REST and Logger are required.
type Config struct {
	// REST says where the API server is and who asks. Its own limits of the
	// rate are not used.
	REST *rest.Config
	// Namespaces are watched for Secrets and ConfigMaps from the start on;
	// others are from the moment on that a device is in them.
	Namespaces []string
	// SeenInterval is how exact lastSeenTime is. Default 5 min.
	SeenInterval time.Duration
	// ForeignInterval is how often objects are read that cannot be watched.
	// Default 5 min.
	ForeignInterval time.Duration
	// MaxPending bounds the requests that wait for approval, because anybody
	// with a register certificate can make them. Default 10,000.
	MaxPending int
	Logger     *slog.Logger
	// Registerer takes the metrics; nil for none.
	Registerer prometheus.Registerer
}

func (c Config) withDefaults() Config {
	if c.SeenInterval == 0 {
		c.SeenInterval = 5 * time.Minute
	}
	if c.ForeignInterval == 0 {
		c.ForeignInterval = 5 * time.Minute
	}
	if c.MaxPending == 0 {
		c.MaxPending = 10_000
	}
	return c
}

// Validate returns what is wrong with the configuration.
func (c Config) Validate() error {
	switch {
	case c.REST == nil:
		return errors.New("field REST is required")
	case c.Logger == nil:
		return errors.New("field Logger is required")
	case c.SeenInterval < 0 || c.ForeignInterval < 0 || c.MaxPending < 0:
		return errors.New("fields SeenInterval, ForeignInterval and MaxPending must not be negative")
	}
	return nil
}

// Backend serves devices from a cluster.
type Backend struct {
	cfg     Config
	log     *slog.Logger
	client  *client
	metrics *metrics

	devices    deviceStore
	workloads  workloadStore
	sets       setStore
	requests   requestStore
	playbooks  playbookStore
	references referenceStore
	live       liveReads
	events     eventWriter
	tell       tellQueue
	fetches    singleflight.Group
	renderings atomic.Uint64 // how many were made

	// complaints bounds the log when the API server is away.
	complaints *rate.Limiter

	started atomic.Bool
	feeds   []*feed // the watches of the kinds, one each
	wg      sync.WaitGroup
}

// New checks the configuration.
func New(cfg Config) (*Backend, error) {
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("configure kube backend: %w", err)
	}
	c, err := newClient(cfg.REST)
	if err != nil {
		return nil, fmt.Errorf("configure kube backend: %w", err)
	}
	b := &Backend{
		cfg: cfg, log: cfg.Logger, client: c,
		complaints: rate.NewLimiter(rate.Every(10*time.Second), 5),
	}
	b.devices.init(b)
	b.workloads.init(&b.devices)
	b.sets.init(&b.references)
	b.requests.init()
	b.playbooks.init()
	b.references.init()
	b.live.init()
	b.events.init(c)
	b.tell.init()
	b.feeds = []*feed{
		newFeed(c, v1alpha1.KindEdgeDevice, &b.devices),
		newFeed(c, v1alpha1.KindEdgeDeviceSet, &b.sets),
		newFeed(c, v1alpha1.KindEdgeWorkload, &b.workloads),
		newFeed(c, v1alpha1.KindEdgeDeviceSignedRequest, &b.requests),
		newFeed(c, v1alpha1.KindPlaybookExecution, &b.playbooks),
	}
	if b.metrics, err = newMetrics(cfg.Registerer, b); err != nil {
		return nil, fmt.Errorf("configure kube backend: %w", err)
	}
	return b, nil
}

// tellers are how many devices' status is written at once in the background:
// enough to get through a fleet in a minute, few enough to leave the API server
// to the devices.
const tellers = 4

// Run watches the cluster until ctx ends. It is called once.
func (b *Backend) Run(ctx context.Context) error {
	if b.started.Swap(true) {
		return errors.New("run kube backend: it ran before")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer b.wg.Wait()
	defer cancel()
	for _, f := range b.feeds {
		b.wg.Go(func() { f.run(ctx, b.log) })
	}
	for range tellers {
		b.wg.Go(func() { b.runTeller(ctx) })
	}
	b.wg.Go(func() { b.runForeign(ctx) })
	watched := make(map[string]bool)
	watch := func(namespace string) {
		if watched[namespace] {
			return
		}
		watched[namespace] = true
		for _, kind := range []string{kindSecret, kindConfigMap} {
			f := newMetadataFeed(b.client, namespace, kind, b.references.view(namespace, kind))
			b.wg.Go(func() { f.run(ctx, b.log) })
		}
	}
	for _, namespace := range b.cfg.Namespaces {
		watch(namespace)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-b.devices.wake:
			for _, namespace := range b.devices.takeFound() {
				watch(namespace)
			}
		}
	}
}

// Ready implements edgeapi.Backend. It says that everything was read once; that
// the API server is away now is no reason to take no more requests.
func (b *Backend) Ready(context.Context) error {
	for _, f := range b.feeds {
		if !f.synced.Load() {
			return fmt.Errorf("read all %s: not done yet%s", f.kind, f.lastError())
		}
	}
	return nil
}

// interrupted returns how many kinds cannot be watched now.
func (b *Backend) interrupted() float64 {
	n := 0.0
	for _, f := range b.feeds {
		if f.interrupted() {
			n++
		}
	}
	return n
}

// complain logs trouble of the background, bounded.
func (b *Backend) complain(what string, d edgeapi.Device, err error) {
	if err != nil && b.complaints.Allow() {
		b.log.Warn("background work failed", "work", what, "device", d.String(), "err", err)
	}
}

var _ edgeapi.Backend = (*Backend)(nil)
