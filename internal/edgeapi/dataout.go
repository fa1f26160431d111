package edgeapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/project-flotta/flotta-agent/internal/pki"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// dataOut is POST data/{id}/out. Who may send depends on the directive, so the
// envelope is read before the decision, and its content after it.
func (s *Server) dataOut(w http.ResponseWriter, r *http.Request, who identity, d Device) answer {
	m, err := readMessage(w, r, s.cfg.MaxBodyBytes)
	if err != nil {
		return explained(opDataOut, err)
	}
	operation := opDataOut
	switch m.Directive {
	case protocol.DirectiveEnrolment, protocol.DirectiveRegistration, protocol.DirectiveHeartbeat, protocol.DirectiveAnsible:
		operation = m.Directive
	}
	if status := who.maySend(m.Directive, d.ID); status != 0 {
		return s.refused(operation, status, who.refusal())
	}
	if m.Directive != protocol.DirectiveEnrolment && m.Directive != protocol.DirectiveRegistration {
		if err := s.cfg.Backend.Authorise(r.Context(), d, who.key); err != nil {
			return s.unauthorised(operation, err)
		}
	}
	switch m.Directive {
	case protocol.DirectiveEnrolment:
		return s.enrol(r.Context(), m, d)
	case protocol.DirectiveRegistration:
		return s.register(r.Context(), m, who, d)
	case protocol.DirectiveHeartbeat:
		return s.heartbeat(r.Context(), m, d)
	case protocol.DirectiveAnsible:
		return s.ansible(r.Context(), m, d)
	}
	return answer{operation: operation, status: http.StatusBadRequest, err: fmt.Errorf("unknown directive %q", m.Directive)}
}

// enrol answers 208 when the device exists and 200 while it does not: the agent
// asks until it reads exactly 208.
func (s *Server) enrol(ctx context.Context, m protocol.Message, d Device) answer {
	bad := answer{operation: m.Directive, status: http.StatusBadRequest}
	if bad.err = checkDeviceID(d.ID); bad.err != nil {
		return bad
	}
	var info protocol.EnrolmentInfo
	if bad.err = decodeContent(m, &info); bad.err != nil {
		return bad
	}
	d.Namespace = DefaultNamespace
	if info.TargetNamespace != nil && *info.TargetNamespace != "" {
		d.Namespace = *info.TargetNamespace
	}
	if !slices.Contains(s.cfg.Namespaces, d.Namespace) {
		// The device chooses, so the administrator says among what.
		return failed(m.Directive, fmt.Errorf("namespace %q is not one that devices may ask for: %w", d.Namespace, ErrForbidden))
	}
	exists, err := s.cfg.Backend.Enrol(ctx, d, info)
	if err != nil {
		return failed(m.Directive, fmt.Errorf("enrol %s: %w", d, err))
	}
	a := answer{operation: m.Directive, status: http.StatusOK}
	if exists {
		a.status = http.StatusAlreadyReported
	}
	return a
}

// register issues a certificate. The backend is asked twice: where the device
// belongs, which is part of the certificate, and, with the certificate in hand,
// to record it; between the two another one may have registered.
func (s *Server) register(ctx context.Context, m protocol.Message, who identity, d Device) answer {
	a := s.tryRegister(ctx, m, who, d)
	switch {
	case a.status == http.StatusOK:
		s.metrics.registered.Inc()
	case a.err != nil && a.status != http.StatusNotFound:
		s.metrics.regFailed.Inc()
	}
	return a
}

func (s *Server) tryRegister(ctx context.Context, m protocol.Message, who identity, d Device) answer {
	bad := answer{operation: m.Directive, status: http.StatusBadRequest}
	if bad.err = checkDeviceID(d.ID); bad.err != nil {
		return bad
	}
	var info protocol.RegistrationInfo
	if bad.err = decodeContent(m, &info); bad.err != nil {
		return bad
	}
	request, err := pki.ParseRequest([]byte(info.CertificateRequest))
	if err != nil {
		bad.err = err
		return bad
	}
	reg := Registration{
		Device: d, Own: who.owns(d.ID),
		KeyFingerprint: request.Fingerprint(), PresentedKey: who.key,
		CertificateRequest: info.CertificateRequest, Hardware: info.Hardware,
	}
	if reg.Device, err = s.cfg.Backend.RegistrationTarget(ctx, reg); err != nil {
		return failed(m.Directive, fmt.Errorf("register %s: %w", d.ID, err))
	}
	certPEM, err := s.cfg.Authority.IssueDevice(request, pki.DeviceProfile{
		ID: reg.Device.ID, Namespace: reg.Device.Namespace, Lifetime: s.cfg.DeviceLifetime,
	}, time.Now())
	if err != nil {
		return failed(m.Directive, fmt.Errorf("register %s: %w", reg.Device, err))
	}
	content, err := json.Marshal(protocol.RegistrationResponse{Certificate: string(certPEM)})
	if err != nil {
		return failed(m.Directive, fmt.Errorf("register %s: %w", reg.Device, err))
	}
	if err := s.cfg.Backend.CompleteRegistration(ctx, reg); err != nil {
		return failed(m.Directive, fmt.Errorf("complete registration of %s: %w", reg.Device, err))
	}
	s.log.Info("device registered", "device", reg.Device.String(), "renewal", reg.Own, "key", reg.KeyFingerprint)
	return respond(m, content, nil)
}

// heartbeat takes in a report.
func (s *Server) heartbeat(ctx context.Context, m protocol.Message, d Device) answer {
	var report protocol.Heartbeat
	if err := decodeContent(m, &report); err != nil {
		return answer{operation: m.Directive, status: http.StatusBadRequest, err: err}
	}
	if err := s.cfg.Backend.Heartbeat(ctx, d, report); err != nil {
		return failed(m.Directive, fmt.Errorf("take in heartbeat of %s: %w", d, err))
	}
	s.metrics.heartbeats.Inc()
	return answer{operation: m.Directive, status: http.StatusOK}
}

// ansible answers with the device's playbooks: a JSON text in a JSON string.
func (s *Server) ansible(ctx context.Context, m protocol.Message, d Device) answer {
	playbooks, err := s.cfg.Backend.Playbooks(ctx, d)
	if err != nil {
		return failed(m.Directive, fmt.Errorf("list playbooks of %s: %w", d, err))
	}
	if playbooks == nil {
		playbooks = []protocol.PlaybookExecution{} // the agent cannot read null
	}
	list, err := json.Marshal(playbooks)
	if err != nil {
		return failed(m.Directive, fmt.Errorf("encode playbooks of %s: %w", d, err))
	}
	content, err := json.Marshal(string(list))
	if err != nil {
		return failed(m.Directive, fmt.Errorf("encode playbooks of %s: %w", d, err))
	}
	return respond(m, content, map[string]any{
		"message-id": uuid.NewString(),
		// Agents of flotta v0.2 refuse an answer without these two; nothing reads them.
		"crc_dispatcher_correlation_id": "fake-crc-id",
		"return_url":                    "return_url",
	})
}

// respond answers a message with another.
func respond(m protocol.Message, content json.RawMessage, metadata map[string]any) answer {
	body, err := json.Marshal(protocol.MessageResponse{
		MessageID: m.MessageID, Directive: m.Directive, Content: content, Metadata: metadata,
	})
	if err != nil {
		return failed(m.Directive, fmt.Errorf("encode answer to %s: %w", m.Directive, err))
	}
	return answer{operation: m.Directive, status: http.StatusOK, body: body}
}
