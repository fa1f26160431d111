package edgeapi

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// alive returns why the process should be restarted: devices cannot connect to
// a listener that is supposed to be open.
func (s *Server) alive(ctx context.Context) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", s.device.Addr().String())
	if err != nil {
		return fmt.Errorf("connect to own listener: %w", err)
	}
	return conn.Close()
}

// ready returns why requests of devices cannot be answered now.
func (s *Server) ready(ctx context.Context) error {
	now := time.Now()
	errs := []error{s.cfg.Authority.CheckValidity(now), s.cfg.Backend.Ready(ctx)}
	cert, err := s.cfg.Certificate()
	if err != nil {
		return errors.Join(append(errs, fmt.Errorf("server certificate: %w", err))...)
	}
	leaf := cert.Leaf
	if leaf == nil && len(cert.Certificate) > 0 {
		leaf, err = x509.ParseCertificate(cert.Certificate[0])
		errs = append(errs, err)
	}
	if leaf != nil && (now.Before(leaf.NotBefore) || now.After(leaf.NotAfter)) {
		errs = append(errs, fmt.Errorf("server certificate is valid from %s to %s only",
			leaf.NotBefore.Format(time.RFC3339), leaf.NotAfter.Format(time.RFC3339)))
	}
	return errors.Join(errs...)
}

// handler serves the registry.
func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry})
}
