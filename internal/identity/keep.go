package identity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/project-flotta/flotta-agent/internal/transport"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// errHeld ends what would ask for a certificate while the device may not.
var errHeld = errors.New("the device is leaving")

// keep renews the device's certificate whenever that is due, until ctx ends or
// something else than the device's certificate is in place.
func (d *Device) keep(ctx context.Context) {
	for ctx.Err() == nil {
		current, err := d.credential.load()
		if err != nil || !current.names(d.cfg.Settings.DeviceID) {
			return // whoever comes next tells
		}
		if !d.due(ctx, current) {
			continue
		}
		next, err := d.renew(ctx)
		switch {
		case ctx.Err() != nil || errors.Is(err, errHeld):
		case err != nil:
			d.renewalFailed(current, err)
		default:
			d.renewed(ctx, next)
		}
	}
}

// due waits a while and reports whether current is to be renewed now.
func (d *Device) due(ctx context.Context, current *pair) bool {
	wait := d.renewal.wait(time.Now(), current.leaf, d.cfg.RenewAt)
	if d.cfg.Held() {
		wait = d.cfg.Retry
	}
	timer := time.NewTimer(max(1, wait))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-d.changed:
		return false
	case <-d.refused:
		return !d.cfg.Held() && d.renewal.refused(time.Now())
	case <-timer.C:
		return !d.cfg.Held() && d.renewal.wait(time.Now(), current.leaf, d.cfg.RenewAt) == 0
	}
}

// renew asks for a certificate for a new key, with the certificate in place,
// and puts it there. It may be called again after any error and after a crash
// anywhere inside it.
func (d *Device) renew(ctx context.Context) (*pair, error) {
	if err := d.credential.checkFolders(); err != nil {
		return nil, err
	}
	return d.certify(ctx)
}

// certify gets a certificate for the pending key and puts it in place.
func (d *Device) certify(ctx context.Context) (*pair, error) {
	roots, err := d.authorities()
	if err != nil {
		return nil, err
	}
	key, err := d.credential.pendingKey()
	if err != nil {
		return nil, err
	}
	certPEM, err := d.register(ctx, key)
	if err != nil {
		return nil, err
	}
	next, err := d.accept(certPEM, key, roots)
	if err != nil {
		return nil, fmt.Errorf("check issued certificate: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cfg.Held() { // since the question was asked
		return nil, errHeld
	}
	if err := d.credential.replace(next); err != nil {
		return nil, fmt.Errorf("replace credential: %w", err)
	}
	return next, nil
}

func (d *Device) renewed(ctx context.Context, next *pair) {
	d.renewal.succeeded(time.Now(), next.leaf)
	d.problem.Store(nil)
	d.news("renewal", nil)
	d.cfg.Log.Info("device certificate renewed", slog.String("device", d.cfg.Settings.DeviceID), slog.Time("not_after", next.leaf.NotAfter))
	d.cfg.Event(protocol.EventInfo{
		Reason: "CertificateRenewed", Type: protocol.EventInfoType,
		Message: "device certificate renewed, valid until " + next.leaf.NotAfter.UTC().Format(time.RFC3339),
	})
	if len(d.cfg.Settings.CAFiles) == 0 {
		d.cfg.Unnoticed(ctx)
	}
}

func (d *Device) renewalFailed(current *pair, err error) {
	now := time.Now()
	d.renewal.failed(now, current.leaf, vary)
	text := fmt.Sprintf("device certificate, valid until %s, is not renewed: %v", current.leaf.NotAfter.UTC().Format(time.RFC3339), err)
	d.problem.Store(&text)
	if !d.news("renewal", err) {
		return
	}
	d.cfg.Log.Warn("device certificate not renewed, will try again", slog.Time("not_after", current.leaf.NotAfter),
		slog.Duration("pause", d.renewal.retry.Sub(now)), slog.Any("err", err))
	if !errors.Is(err, transport.ErrUnavailable) { // being offline is no news
		d.cfg.Event(protocol.EventInfo{Reason: "CertificateNotRenewed", Type: protocol.EventWarnType, Message: text})
	}
}

// vary returns d, give or take a quarter.
func vary(d time.Duration) time.Duration { return d*3/4 + rand.N(d/2+1) }
