package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
)

const (
	// liveRate bounds the questions about single objects to the API server, by
	// the second: a tenth of what it answers with one processor.
	liveRate = 100
	// liveTTL is how long an answer counts: devices ask every 5 s, twice.
	liveTTL = 5 * time.Second
	// maxLive bounds the answers that are kept.
	maxLive = 1 << 14
	// lateWatch is how long a request waits for a watch to tell what the API
	// server says already.
	lateWatch = 2 * time.Second
)

// errBusy: devices asked more than the API server is to be asked.
var errBusy = errors.New("too many questions about devices that are not known")

// liveReads are reads of single objects, bounded.
type liveReads struct {
	limiter *rate.Limiter

	mu      sync.Mutex
	answers map[edgeapi.Device]liveAnswer
}

type liveAnswer struct {
	at     time.Time
	object *v1alpha1.EdgeDevice // nil: there is none
}

func (l *liveReads) init() {
	l.limiter = rate.NewLimiter(liveRate, liveRate)
	l.answers = make(map[edgeapi.Device]liveAnswer)
}

func (l *liveReads) forget(d edgeapi.Device) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.answers, d)
}

func (l *liveReads) answer(d edgeapi.Device) (liveAnswer, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a, ok := l.answers[d]
	return a, ok && time.Since(a.at) < liveTTL
}

func (l *liveReads) store(d edgeapi.Device, a liveAnswer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.answers) >= maxLive {
		clear(l.answers)
	}
	l.answers[d] = a
}

// confirm asks the API server for a device, and returns nil when there is none.
// The answer may be some seconds old. An error is never a no.
func (b *Backend) confirm(ctx context.Context, d edgeapi.Device) (*v1alpha1.EdgeDevice, error) {
	if a, ok := b.live.answer(d); ok {
		return a.object, nil
	}
	if !b.live.limiter.Allow() {
		return nil, fmt.Errorf("confirm device %s: %w", d, errBusy)
	}
	asked := time.Now()
	object, err := b.client.device(ctx, d.Namespace, d.ID)
	switch {
	case isMissing(err, edgeDevices, d.ID):
		object = nil
	case err != nil:
		return nil, fmt.Errorf("confirm device %s: %w", d, err)
	default:
		b.devices.adopt(object)
	}
	b.live.store(d, liveAnswer{at: asked, object: object})
	return object, nil
}

// isMissing reports whether the API server said that the object of ours with
// that name does not exist. An API server that starts may not know the kind yet,
// and says that in nearly the same words.
func isMissing(err error, resource, name string) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return false
	}
	s := status.Status()
	return s.Reason == metav1.StatusReasonNotFound && s.Details != nil &&
		s.Details.Group == v1alpha1.Group && s.Details.Kind == resource && s.Details.Name == name &&
		!slices.ContainsFunc(s.Details.Causes, func(c metav1.StatusCause) bool {
			return c.Type == metav1.CauseTypeUnexpectedServerResponse
		})
}

func isNotFound(err error) bool { return errors.Is(err, edgeapi.ErrNotFound) }

// known returns a device. ErrNotFound is what the API server says; any other
// error is doubt, and so is all that is said before everything was read once: a
// configuration without the workloads that are still to be read would have the
// device remove them.
func (b *Backend) known(ctx context.Context, name edgeapi.Device) (*device, error) {
	if err := b.Ready(ctx); err != nil {
		return nil, err
	}
	if d := b.devices.find(name); d != nil {
		return d, nil
	}
	object, err := b.confirm(ctx, name)
	if err != nil {
		return nil, err
	}
	if object == nil {
		return nil, fmt.Errorf("device %s: %w", name, edgeapi.ErrNotFound)
	}
	// It exists, and the watch has not told yet.
	ctx, cancel := context.WithTimeout(ctx, lateWatch)
	defer cancel()
	ticker := time.NewTicker(lateWatch / 100)
	defer ticker.Stop()
	for {
		if d := b.devices.find(name); d != nil {
			return d, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("device %s is not read yet", name)
		case <-ticker.C:
		}
	}
}

// Managed implements edgeapi.Backend.
func (b *Backend) Managed(ctx context.Context, name edgeapi.Device) (bool, error) {
	if d := b.devices.find(name); d != nil && d.state().object.DeletionTimestamp == nil {
		return true, nil
	}
	object, err := b.confirm(ctx, name)
	if err != nil {
		return false, err
	}
	return object != nil && object.DeletionTimestamp == nil, nil
}

// Authorise implements edgeapi.Backend.
func (b *Backend) Authorise(ctx context.Context, name edgeapi.Device, fingerprint string) error {
	d := b.devices.find(name)
	if d == nil || fleet.MaySpeak(d.state().object, fingerprint) {
		return nil
	}
	// It may have registered a moment ago, through another replica.
	object, err := b.confirm(ctx, name)
	if err != nil {
		return err
	}
	if object == nil || fleet.MaySpeak(object, fingerprint) {
		return nil
	}
	return fmt.Errorf("device %s registered with another key: %w", name, edgeapi.ErrUnauthorised)
}
