package remote

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/time/rate"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Names of the calls, in errors and metrics.
const (
	callStatus        = "registration_status"
	callRegister      = "registration"
	callEnrol         = "enrolment"
	callConfiguration = "configuration"
	callHeartbeat     = "heartbeat"
	callPlaybooks     = "playbooks"
)

// Suffixes of the paths.
const (
	pathRegistration  = "/registration"
	pathEnrolment     = "/enrolment"
	pathConfiguration = "/configuration"
	pathHeartbeat     = "/heartbeat"
	pathPlaybooks     = "/playbookexecutions"
)

// Backend answers from the user's service.
type Backend struct {
	client    *client
	certified *certified
	told      *lru[edgeapi.Device, told]
}

// New checks the configuration. It reads the system's certificates and does not
// talk to the service.
func New(cfg Config) (*Backend, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	base, err := cfg.check()
	if err != nil {
		return nil, fmt.Errorf("configure remote backend: %w", err)
	}
	transport, err := cfg.transport()
	if err != nil {
		return nil, fmt.Errorf("configure remote backend: %w", err)
	}
	circuit := newCircuit(cfg.Logger)
	metrics, err := newMetrics(cfg.Registerer, circuit)
	if err != nil {
		return nil, fmt.Errorf("configure remote backend: %w", err)
	}
	if base.Scheme == "http" {
		cfg.Logger.Warn("remote backend is reached without TLS: anybody on the way can read and change what devices are told")
	}
	return &Backend{
		client: &client{
			http: &http.Client{
				Transport:     transport,
				CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			},
			base: base.String(), timeout: cfg.Timeout, circuit: circuit, metrics: metrics, log: cfg.Logger,
			denials: rate.NewLimiter(rate.Every(time.Minute), 4),
		},
		certified: newCertified(),
		told:      newLRU[edgeapi.Device, told](maxTold),
	}, nil
}

var _ edgeapi.Backend = (*Backend)(nil)

// placed returns d with the namespace in which the service is asked for it.
func placed(d edgeapi.Device) edgeapi.Device {
	if d.Namespace == "" {
		d.Namespace = edgeapi.DefaultNamespace
	}
	return d
}

// send makes a call that carries something of the device's.
func (b *Backend) send(ctx context.Context, q request, content any) (response, error) {
	var err error
	if q.body, err = json.Marshal(content); err != nil {
		return response{}, fmt.Errorf("%s: encode: %w", q.call, err)
	}
	q.device = placed(q.device)
	resp, err := b.client.do(ctx, q)
	if err != nil {
		return response{}, err
	}
	if !resp.success() {
		return resp, fmt.Errorf("%s: %w", q.call, resp.failure(true))
	}
	return resp, nil
}

// Enrol implements edgeapi.Backend. The service decides whether the device may
// be managed: 200 says that it exists, and any other success that the request is
// recorded.
func (b *Backend) Enrol(ctx context.Context, d edgeapi.Device, info protocol.EnrolmentInfo) (bool, error) {
	resp, err := b.send(ctx, request{call: callEnrol, method: http.MethodPost, device: d, suffix: pathEnrolment}, info)
	return err == nil && resp.status == http.StatusOK, err
}

// Authorise implements edgeapi.Backend. The service knows no keys, so every
// certificate that names the device may speak for it.
func (b *Backend) Authorise(context.Context, edgeapi.Device, string) error { return nil }

// Heartbeat implements edgeapi.Backend.
func (b *Backend) Heartbeat(ctx context.Context, d edgeapi.Device, report protocol.Heartbeat) error {
	_, err := b.send(ctx, request{
		call: callHeartbeat, method: http.MethodPut, device: d, suffix: pathHeartbeat, idempotent: true,
	}, report)
	return err
}

// Managed implements edgeapi.Backend. Only the status "unregistered" says no: a
// 404 is as likely a wrong path, and would end the whole fleet.
func (b *Backend) Managed(ctx context.Context, d edgeapi.Device) (bool, error) {
	resp, err := b.fetch(ctx, request{call: callStatus, device: d, suffix: pathRegistration})
	if err != nil {
		return false, err
	}
	if resp.status != http.StatusOK {
		return false, fmt.Errorf("%s: %w", callStatus, resp.refusal())
	}
	s, err := decodeStatus(resp)
	if err != nil {
		return false, b.nonsense(callStatus, err)
	}
	return s.Status != statusUnregistered, nil
}

// fetch makes a call that reads, and returns any answer.
func (b *Backend) fetch(ctx context.Context, q request) (response, error) {
	q.method, q.idempotent, q.device = http.MethodGet, true, placed(q.device)
	return b.client.do(ctx, q)
}

// nonsense counts an answer that could not be understood.
func (b *Backend) nonsense(call string, err error) error {
	b.client.metrics.nonsense.WithLabelValues(call).Inc()
	return fmt.Errorf("%s: %w", call, err)
}

// Playbooks implements edgeapi.Backend.
func (b *Backend) Playbooks(ctx context.Context, d edgeapi.Device) ([]protocol.PlaybookExecution, error) {
	resp, err := b.fetch(ctx, request{call: callPlaybooks, device: d, suffix: pathPlaybooks, long: true})
	if err != nil {
		return nil, err
	}
	if resp.status != http.StatusOK {
		return nil, fmt.Errorf("%s: %w", callPlaybooks, resp.failure(false))
	}
	list, err := decodePlaybooks(resp)
	if err != nil {
		return nil, b.nonsense(callPlaybooks, err)
	}
	return list, nil
}

// Ready implements edgeapi.Backend: it fails while the service is left alone.
// When the pause is over it asks the service itself, because a server that is not
// ready may get no calls of devices that would find out.
func (b *Backend) Ready(ctx context.Context) error {
	s := b.client.circuit.state()
	if !s.open {
		return nil
	}
	if s.due {
		s.err = b.client.probe(ctx)
	}
	if s.err != nil {
		return fmt.Errorf("remote backend: %w", s.err)
	}
	return nil
}
