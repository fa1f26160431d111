package operator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlconfig "sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
)

// FieldOwner is the name under which the operator writes.
const FieldOwner = "flotta-operator"

// leaderElectionID is the name of the Lease, as in flotta v0.2, so that an old
// and a new operator are never at work at once.
const leaderElectionID = "b9eebab3.project-flotta.io"

// Config describes an operator.
type Config struct {
	REST *rest.Config
	// Namespaces are those that devices may be in.
	Namespaces []string
	// AutoApprove lets every device in that asks for one of Namespaces.
	AutoApprove bool
	// AutoClaim claims a bucket for every device that names no other storage.
	AutoClaim bool
	// OfflineAfter is how long a device may be silent before it counts as
	// offline. It must exceed the interval in which the Edge API writes that it
	// heard of a device.
	OfflineAfter time.Duration
	// Concurrency is how many objects of a kind are reconciled at once;
	// WorkloadConcurrency and ConfigConcurrency are for EdgeWorkloads and
	// EdgeConfigs.
	Concurrency, WorkloadConcurrency, ConfigConcurrency int
	// MetricsAddr and ProbeAddr are host:port; "0" serves nothing there.
	MetricsAddr, ProbeAddr string
	// LeaderElection lets one of several operators work, by a Lease in
	// ControlNamespace.
	LeaderElection   bool
	ControlNamespace string
	// Registerer takes the operator's own metrics. It may be nil.
	Registerer prometheus.Registerer
	Logger     *slog.Logger
}

// Operator is the set of all controllers.
type Operator struct {
	cfg Config
}

// New checks a configuration. It does no I/O.
func New(cfg Config) (*Operator, error) {
	var errs []error
	check := func(ok bool, text string) {
		if !ok {
			errs = append(errs, errors.New(text))
		}
	}
	check(cfg.REST != nil, "REST is missing")
	check(cfg.Logger != nil, "Logger is missing")
	check(len(cfg.Namespaces) > 0, "Namespaces is empty: no device could be let in")
	check(cfg.OfflineAfter > 0, "OfflineAfter must be positive")
	check(cfg.Concurrency > 0 && cfg.WorkloadConcurrency > 0 && cfg.ConfigConcurrency > 0, "each Concurrency must be positive")
	check(!cfg.LeaderElection || cfg.ControlNamespace != "", "ControlNamespace is required for leader election")
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("operator configuration: %w", err)
	}
	cfg.Namespaces = slices.Clone(cfg.Namespaces)
	cfg.REST = rest.CopyConfig(cfg.REST)
	// The API server shares itself fairly among its clients, and what goes on at a
	// time is bounded here by the concurrency.
	cfg.REST.QPS = -1
	return &Operator{cfg: cfg}, nil
}

// Run works until ctx ends, and fails when it cannot begin or loses its lease.
func (o *Operator) Run(ctx context.Context) error {
	mgr, err := o.manager()
	if err != nil {
		return fmt.Errorf("set up operator: %w", err)
	}
	e := env{
		cfg: o.cfg, client: mgr.GetClient(), live: mgr.GetAPIReader(),
		events: mgr.GetEventRecorder(FieldOwner), log: o.cfg.Logger,
	}
	for _, setUp := range []func(context.Context, manager.Manager) error{
		e.indexDevices,
		(&requests{env: e}).setUp,
		(&devices{env: e}).setUp,
		(&workloads{env: e}).setUp,
		(&configs{env: e}).setUp,
		e.addHealth,
	} {
		if err := setUp(ctx, mgr); err != nil {
			return fmt.Errorf("set up operator: %w", err)
		}
	}
	if o.cfg.Registerer != nil {
		c := newCollector(mgr.GetClient())
		if err := o.cfg.Registerer.Register(c); err != nil {
			return fmt.Errorf("register metrics: %w", err)
		}
		defer o.cfg.Registerer.Unregister(c)
	}
	if err := start(ctx, mgr); err != nil {
		return fmt.Errorf("run operator: %w", err)
	}
	return nil
}

// stopTimeout is longer than the framework lets controllers take to end.
const stopTimeout = 40 * time.Second

// start runs the manager. One that is told to end before it could read its
// objects never does (controller-runtime 0.25), and is left behind then.
func start(ctx context.Context, mgr manager.Manager) error {
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-ended:
		return err
	case <-time.After(stopTimeout):
		return fmt.Errorf("the controllers have not ended within %s", stopTimeout)
	}
}

func (o *Operator) manager() (manager.Manager, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	// Names of controllers are for metrics alone, and several operators may run
	// in one program.
	sameNames := true
	return manager.New(o.cfg.REST, manager.Options{
		Scheme:                        scheme,
		Logger:                        logr.FromSlogHandler(o.cfg.Logger.Handler()),
		Metrics:                       metricsserver.Options{BindAddress: o.cfg.MetricsAddr},
		HealthProbeBindAddress:        o.cfg.ProbeAddr,
		LeaderElection:                o.cfg.LeaderElection,
		LeaderElectionID:              leaderElectionID,
		LeaderElectionNamespace:       o.cfg.ControlNamespace,
		LeaderElectionReleaseOnCancel: true,
		Cache:                         cache.Options{DefaultTransform: slim},
		// Bucket claims have no Go type here, and are watched all the same.
		Client:     client.Options{Cache: &client.CacheOptions{Unstructured: true}},
		Controller: ctrlconfig.Controller{SkipNameValidation: &sameNames},
	})
}

// slim drops what the operator does not look at before an object is kept: of a
// fleet, the descriptions of the hardware are most of the memory.
func slim(object any) (any, error) {
	o, ok := object.(client.Object)
	if !ok {
		return object, nil
	}
	o.SetManagedFields(nil)
	switch o := o.(type) {
	case *v1alpha1.EdgeDevice:
		if o.Status.Hardware != nil {
			o.Status.Hardware = &v1alpha1.Hardware{} // that there is one tells that it registered
		}
	case *v1alpha1.EdgeDeviceSignedRequest:
		o.Spec.Features = nil
	case *v1alpha1.EdgeWorkload:
		o.Spec.Pod = nil
	}
	return object, nil
}

// env is what all controllers work with.
type env struct {
	cfg    Config
	client client.Client
	live   client.Reader // the API server itself, not the cache
	events events.EventRecorder
	log    *slog.Logger
}

// allowed reports whether devices may be in a namespace.
func (e env) allowed(namespace string) bool { return slices.Contains(e.cfg.Namespaces, namespace) }
