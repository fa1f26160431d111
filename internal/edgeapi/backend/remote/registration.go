package remote

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net/http"
	"time"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

const (
	// certifiedFor is how long a device may repeat a registration whose answer it
	// did not get.
	certifiedFor = time.Hour
	// maxCertified bounds how many registrations are remembered: with 100 of them
	// a second, those of the last ten minutes; 20 MiB.
	maxCertified = 60_000
	// lanes is how many registrations run at once; those of one device never do.
	lanes = 64
)

// certified remembers which key a device's certificate was last issued for.
type certified struct {
	keys  *lru[edgeapi.Device, certifiedKey]
	seed  maphash.Seed
	lanes [lanes]chan struct{}
}

type certifiedKey struct {
	fingerprint string
	at          time.Time
}

func newCertified() *certified {
	c := &certified{keys: newLRU[edgeapi.Device, certifiedKey](maxCertified), seed: maphash.MakeSeed()}
	for i := range c.lanes {
		c.lanes[i] = make(chan struct{}, 1)
	}
	return c
}

// lock keeps other registrations of the device out until unlock is called.
func (c *certified) lock(ctx context.Context, d edgeapi.Device) (unlock func(), err error) {
	lane := c.lanes[maphash.String(c.seed, d.ID)%lanes]
	select {
	case lane <- struct{}{}:
		return func() { <-lane }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (c *certified) has(d edgeapi.Device, fingerprint string) bool {
	k, ok := c.keys.get(d)
	return ok && k.fingerprint == fingerprint && time.Since(k.at) < certifiedFor
}

// add remembers a key, and returns how to take that back.
func (c *certified) add(d edgeapi.Device, fingerprint string) (undo func()) {
	var before certifiedKey
	c.keys.update(d, func(old certifiedKey) (certifiedKey, int) {
		before = old
		return certifiedKey{fingerprint: fingerprint, at: time.Now()}, 1
	})
	return func() {
		if before == (certifiedKey{}) {
			c.keys.remove(d)
			return
		}
		c.keys.update(d, func(certifiedKey) (certifiedKey, int) { return before, 1 })
	}
}

// RegistrationTarget implements edgeapi.Backend.
func (b *Backend) RegistrationTarget(ctx context.Context, r edgeapi.Registration) (edgeapi.Device, error) {
	d := placed(r.Device)
	resp, err := b.fetch(ctx, request{call: callStatus, device: d, suffix: pathRegistration})
	if err != nil {
		return edgeapi.Device{}, err
	}
	if resp.status != http.StatusOK {
		return edgeapi.Device{}, fmt.Errorf("%s: %w", callStatus, resp.failure(false))
	}
	s, err := decodeStatus(resp)
	if err != nil {
		return edgeapi.Device{}, b.nonsense(callStatus, err)
	}
	if s.Namespace != "" {
		d.Namespace = s.Namespace
	}
	return d, b.mayRegister(d, s, r)
}

// mayRegister is the rule: see the package's documentation. A device that is
// unregistered may register only when the service says where it is to be placed,
// which services of flotta v0.2 do that have no other word for a device which
// waits for its first certificate.
func (b *Backend) mayRegister(d edgeapi.Device, s registrationStatus, r edgeapi.Registration) error {
	switch {
	case s.Status == statusUnregistered && s.Namespace == "":
		return fmt.Errorf("service says %s: %w", s.Status, edgeapi.ErrNotApproved)
	case s.Status == statusUnknown, s.Status == statusUnregistered, r.Own, b.certified.has(d, r.KeyFingerprint):
		return nil
	case s.Status == statusRegistered:
		return fmt.Errorf("device is registered and this is not its certificate: %w", edgeapi.ErrForbidden)
	}
	return fmt.Errorf("service says %.80q, and this is not the device's own certificate: %w", s.Status, edgeapi.ErrForbidden)
}

// CompleteRegistration implements edgeapi.Backend. Registrations of one device
// follow one another here; between replicas the service has the last word.
func (b *Backend) CompleteRegistration(ctx context.Context, r edgeapi.Registration) error {
	d := placed(r.Device)
	unlock, err := b.certified.lock(ctx, d)
	if err != nil {
		return err
	}
	defer unlock()
	target, err := b.RegistrationTarget(ctx, r)
	if err != nil {
		return err
	}
	if target != d {
		return fmt.Errorf("device moved to namespace %q meanwhile", target.Namespace)
	}
	// Before the call: it may succeed and its answer be lost, and then the device
	// comes again.
	undo := b.certified.add(d, r.KeyFingerprint)
	resp, err := b.send(ctx, request{
		call: callRegister, method: http.MethodPut, device: d, suffix: pathRegistration, idempotent: true,
	}, protocol.RegistrationInfo{Hardware: r.Hardware, CertificateRequest: r.CertificateRequest})
	switch {
	case err == nil:
		return nil
	case resp.status == http.StatusConflict:
		err = errors.Join(edgeapi.ErrForbidden, err)
	}
	if resp.status >= 400 && resp.status < 500 {
		undo() // it certainly did not succeed
	}
	return err
}
