package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/project-flotta/flotta-agent/internal/pki"
	"github.com/project-flotta/flotta-agent/internal/transport"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// errNotApproved says that the device is known and has to wait.
var errNotApproved = errors.New("enrolment is recorded, waiting for approval")

// Run makes the device registered, trying until it is, and then renews its
// certificate, until ctx ends. It returns nil.
func (d *Device) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := d.ensure(ctx)
		if err == nil {
			d.once.Do(func() { close(d.registered) })
			d.keep(ctx)
			continue
		}
		if ctx.Err() != nil {
			return nil
		}
		if d.news("registration", err) {
			d.report(err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(vary(d.cfg.Retry)):
		}
	}
	return nil
}

// news reports whether err is not nil and says something else about subject
// than the last time.
func (d *Device) news(subject string, err error) bool {
	if err == nil {
		delete(d.said, subject)
		return false
	}
	before := d.said[subject]
	d.said[subject] = err.Error()
	return before != err.Error()
}

// report logs why the device is not registered; it is called when that changes.
func (d *Device) report(err error) {
	if errors.Is(err, errHeld) {
		return
	}
	if errors.Is(err, errNotApproved) {
		d.cfg.Log.Info("device enrolled", slog.String("device", d.cfg.Settings.DeviceID), slog.String("state", err.Error()))
		return
	}
	d.cfg.Log.Warn("device not registered", slog.String("device", d.cfg.Settings.DeviceID), slog.Any("err", err))
}

// ensure returns nil when the device is registered. It may be called again
// after any error and after a crash anywhere inside it.
func (d *Device) ensure(ctx context.Context) error {
	current, err := d.credential.load()
	if d.news("credential", err) {
		// yggd goes on with what it read earlier, and so can registration.
		d.cfg.Log.Warn("credential in place is not usable", slog.Any("err", err))
	}
	if err == nil && current.names(d.cfg.Settings.DeviceID) {
		return d.credential.finish(current)
	}
	if d.cfg.Held() {
		return errHeld
	}
	if err := d.credential.checkFolders(); err != nil {
		return err
	}
	// Before the server is asked: what it issues could not be checked.
	if _, err := d.authorities(); err != nil {
		return err
	}
	if err := d.enrol(ctx); err != nil {
		return err
	}
	next, err := d.certify(ctx)
	if err != nil {
		return err
	}
	d.renewal.succeeded(time.Now(), next.leaf)
	d.cfg.Log.Info("device registered", slog.String("device", d.cfg.Settings.DeviceID), slog.Time("not_after", next.leaf.NotAfter))
	d.cfg.Event(protocol.EventInfo{
		Reason: "Registered", Type: protocol.EventInfoType,
		Message: "device certificate issued, valid until " + next.leaf.NotAfter.UTC().Format(time.RFC3339),
	})
	return nil
}

// enrol asks to be managed. It returns nil when the device may register.
func (d *Device) enrol(ctx context.Context) error {
	namespace := d.namespace()
	reply, err := d.send(ctx, protocol.DirectiveEnrolment, protocol.EnrolmentInfo{
		// Always there: the server of flotta v0.2 cannot do without.
		Features:        &protocol.DeviceFeatures{Hardware: d.cfg.Hardware()},
		TargetNamespace: &namespace,
	})
	switch {
	case err != nil:
		return fmt.Errorf("enrol: %w", err)
	case reply.Status == http.StatusAlreadyReported:
		return nil
	case reply.Status == http.StatusOK:
		return errNotApproved
	}
	return fmt.Errorf("enrol: %w", refusal(reply))
}

// register asks for a certificate for key.
func (d *Device) register(ctx context.Context, key key) (certPEM []byte, err error) {
	request, err := pki.CertificateRequest(key, d.cfg.Settings.DeviceID)
	if err != nil {
		return nil, fmt.Errorf("register: %w", err)
	}
	reply, err := d.send(ctx, protocol.DirectiveRegistration, protocol.RegistrationInfo{
		Hardware:           d.cfg.Hardware(),
		CertificateRequest: string(request),
	})
	if err != nil {
		return nil, fmt.Errorf("register: %w", err)
	}
	if reply.Status != http.StatusOK {
		return nil, fmt.Errorf("register: %w", refusal(reply))
	}
	certPEM, err = decodeRegistration(reply.Body)
	if err != nil {
		return nil, fmt.Errorf("register: %w", err)
	}
	return certPEM, nil
}

// decodeRegistration returns the certificate in the body of an answer.
func decodeRegistration(body []byte) ([]byte, error) {
	var answer protocol.MessageResponse
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("decode answer: %w", err)
	}
	var content protocol.RegistrationResponse
	if err := json.Unmarshal(answer.Content, &content); err != nil {
		return nil, fmt.Errorf("decode answer: %w", err)
	}
	if content.Certificate == "" {
		return nil, errors.New("decode answer: no certificate")
	}
	return []byte(content.Certificate), nil
}

func (d *Device) send(ctx context.Context, directive string, content any) (transport.Reply, error) {
	raw, err := json.Marshal(content)
	if err != nil {
		return transport.Reply{}, fmt.Errorf("encode %s: %w", directive, err)
	}
	return d.cfg.Sender.Send(ctx, transport.Message{Directive: directive, Content: raw})
}

// refusal describes a status that does not let the device go on. The body is
// the server's, so no more than its beginning is repeated.
func refusal(r transport.Reply) error {
	text := strings.TrimSpace(string(r.Body))
	if len(text) > 200 {
		text = text[:200]
	}
	if text == "" {
		return fmt.Errorf("refused with status %d", r.Status)
	}
	return fmt.Errorf("refused with status %d: %q", r.Status, text)
}
