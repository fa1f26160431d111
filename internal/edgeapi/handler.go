package edgeapi

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// envelopeVersion is the version of the envelope that this server speaks.
const envelopeVersion = 1

// answer is what a request is answered with, and what is recorded of it.
type answer struct {
	status    int
	body      []byte
	etag      string
	allow     string
	operation string
	err       error // why status is not a success
	expected  bool  // err happens in normal operation
}

// ServeHTTP answers one request of a device. It expects a TLS connection with a
// client certificate; without one every request is refused.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	a := answer{operation: opNone, status: http.StatusInternalServerError}
	defer func() {
		if p := recover(); p != nil {
			if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(p) // net/http's own way to cut a connection
			}
			s.metrics.panics.Inc()
			s.log.Error("request panicked", "panic", fmt.Sprint(p), "method", r.Method, "path", r.URL.Path, "stack", string(debug.Stack()))
			a = answer{operation: a.operation, status: http.StatusInternalServerError}
		}
		write(w, a)
		took := time.Since(start)
		s.metrics.observe(a, r, took)
		s.logRequest(r, a, took)
	}()
	a = s.answer(w, r)
}

func write(w http.ResponseWriter, a answer) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	if a.etag != "" {
		h.Set("ETag", a.etag)
	}
	if a.allow != "" {
		h.Set("Allow", a.allow)
	}
	w.WriteHeader(a.status)
	if len(a.body) > 0 {
		// The peer went away: there is nobody left to tell.
		_, _ = w.Write(a.body)
	}
}

func (s *Server) logRequest(r *http.Request, a answer, took time.Duration) {
	log := s.log.With(
		"operation", a.operation, "method", r.Method, "path", r.URL.Path,
		"status", a.status, "duration", took, "remote", r.RemoteAddr,
	)
	ctx := r.Context()
	switch {
	case a.err == nil:
		log.DebugContext(ctx, "request")
	case a.status >= http.StatusInternalServerError:
		log.ErrorContext(ctx, "request failed", "err", a.err)
	case !a.expected && !errors.Is(a.err, ErrNotApproved) && s.refusals.Allow():
		log.WarnContext(ctx, "request refused", "err", a.err)
	default:
		log.DebugContext(ctx, "request refused", "err", a.err)
	}
}

// answer decides: the endpoint, then who asks, then whether they may.
func (s *Server) answer(w http.ResponseWriter, r *http.Request) answer {
	e, err := findEndpoint(r)
	if err != nil {
		return explained(e.operation, err)
	}
	who, err := connectionOf(r.Context()).identify(r.TLS, s.cfg.Authority, time.Now())
	if err != nil {
		return s.refused(e.operation, http.StatusUnauthorized, err)
	}
	d := Device{Namespace: who.ns, ID: e.device}
	if e.operation == opDataOut {
		return s.dataOut(w, r, who, d)
	}
	if status := who.mayPoll(d.ID); status != 0 {
		a := s.refused(e.operation, status, who.refusal())
		// yggd polls from its start on, also while it has no certificate yet.
		a.expected = who.register
		return a
	}
	if err := s.cfg.Backend.Authorise(r.Context(), d, who.key); err != nil {
		return s.unauthorised(e.operation, err)
	}
	switch e.operation {
	case opDataIn:
		return s.dataIn(r, d)
	case opControlIn:
		return s.controlIn(r.Context(), d)
	default:
		return s.controlOut(w, r)
	}
}

// refusal says in the log who was refused.
func (i identity) refusal() error {
	switch {
	case i.register:
		return errors.New("not with a register certificate")
	case i.expired:
		return fmt.Errorf("certificate of device %s/%s expired", i.ns, i.id)
	}
	return fmt.Errorf("certificate is the one of device %s/%s", i.ns, i.id)
}

// dataIn is GET data/{id}/in. The envelope is made from the configuration alone,
// so that equal ETags are equal bytes.
func (s *Server) dataIn(r *http.Request, d Device) answer {
	c, err := s.cfg.Backend.Configuration(r.Context(), d)
	if err != nil {
		return failed(opDataIn, err)
	}
	a := answer{operation: opDataIn, status: http.StatusOK, etag: `"` + c.Version + `"`}
	if matchesETag(r.Header.Values("If-None-Match"), a.etag) {
		a.status = http.StatusNotModified
		return a
	}
	sent := protocol.NewTime(c.At)
	a.body, err = json.Marshal(protocol.Message{
		Type: protocol.TypeData, Version: envelopeVersion, Directive: protocol.DirectiveDevice,
		MessageID: configurationID(d, c.Version), Sent: &sent, Content: c.JSON,
	})
	if err != nil {
		return failed(opDataIn, fmt.Errorf("encode configuration of %s: %w", d, err))
	}
	return a
}

// configurationID is the message identifier of one version of one device's
// configuration.
func configurationID(d Device, version string) string {
	return uuid.NewHash(sha256.New(), uuid.NameSpaceOID, []byte(d.String()+"\x00"+version), 8).String()
}

// matchesETag implements If-None-Match.
func matchesETag(headers []string, etag string) bool {
	for _, header := range headers {
		for candidate := range strings.SplitSeq(header, ",") {
			candidate = strings.TrimSpace(candidate)
			if candidate == "*" || strings.TrimPrefix(candidate, "W/") == etag {
				return true
			}
		}
	}
	return false
}

// controlIn is GET control/{id}/in.
func (s *Server) controlIn(ctx context.Context, d Device) answer {
	managed, err := s.cfg.Backend.Managed(ctx, d)
	if err != nil {
		return failed(opControlIn, err)
	}
	if s.metrics.managed(d, managed) {
		s.log.Info("device told to disconnect", "device", d.String())
	}
	a := answer{operation: opControlIn, status: http.StatusOK}
	if managed {
		return a
	}
	content, err := json.Marshal(protocol.Command{Command: protocol.CommandDisconnect})
	if err != nil {
		return failed(opControlIn, fmt.Errorf("encode command: %w", err))
	}
	sent := protocol.NewTime(time.Now())
	a.body, err = json.Marshal(protocol.Message{
		Type: protocol.TypeCommand, Version: envelopeVersion,
		MessageID: uuid.NewString(), Sent: &sent, Content: content,
	})
	if err != nil {
		return failed(opControlIn, fmt.Errorf("encode command: %w", err))
	}
	return a
}

// controlOut is POST control/{id}/out: yggd tells that it is connected. Nothing
// is done with it.
func (s *Server) controlOut(w http.ResponseWriter, r *http.Request) answer {
	if _, err := readMessage(w, r, s.cfg.MaxBodyBytes); err != nil {
		return explained(opControlOut, err)
	}
	return answer{operation: opControlOut, status: http.StatusOK}
}

// explained answers to a request that is wrong as HTTP or JSON.
func explained(operation string, err error) answer {
	a := answer{operation: operation, status: http.StatusBadRequest, err: err}
	if problem := new(requestError); errors.As(err, &problem) {
		a.status, a.body = problem.status, problem.body()
		a.allow = problem.allow
	}
	return a
}

// refused answers to somebody who may not.
func (s *Server) refused(operation string, status int, err error) answer {
	if status == http.StatusUnauthorized {
		s.metrics.authFailed.Inc()
	} else {
		s.metrics.wrongOwner.Inc()
	}
	return answer{operation: operation, status: status, err: err}
}

// unauthorised answers when a backend does not let a device speak.
func (s *Server) unauthorised(operation string, err error) answer {
	if errors.Is(err, ErrUnauthorised) {
		return s.refused(operation, http.StatusUnauthorized, err)
	}
	return failed(operation, err)
}

// failed answers to an error of the backend.
func failed(operation string, err error) answer {
	status := http.StatusInternalServerError
	switch {
	case errors.Is(err, ErrNotFound), errors.Is(err, ErrNotApproved):
		status = http.StatusNotFound
	case errors.Is(err, ErrForbidden):
		status = http.StatusForbidden
	case errors.Is(err, ErrInvalid):
		status = http.StatusBadRequest
	}
	return answer{operation: operation, status: status, err: err}
}
