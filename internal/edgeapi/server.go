package edgeapi

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
)

// maxHeaderBytes bounds the header of a request; what yggd sends is below 1 KiB.
const maxHeaderBytes = 16 << 10

// Server answers devices.
type Server struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	// refusals bounds the log of what anybody can cause, every 5 s and forever.
	refusals *rate.Limiter

	device net.Listener
	admin  []net.Listener // metrics, then probes
}

// New checks the configuration and returns a server that is not listening yet.
func New(cfg Config) (*Server, error) {
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("configure edge api: %w", err)
	}
	return &Server{
		cfg: cfg, log: cfg.Logger, metrics: newMetrics(cfg.Registry),
		refusals: rate.NewLimiter(rate.Every(5*time.Second), 20),
	}, nil
}

// Open starts listening, so that an address that cannot be had is found out
// before anything else is started. Run, or Close, ends it. Not to be called
// twice or concurrently.
func (s *Server) Open(ctx context.Context) error {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", s.cfg.Addr)
	if err != nil {
		return fmt.Errorf("listen for devices: %w", err)
	}
	s.device = ln
	for _, addr := range []string{s.cfg.MetricsAddr, s.cfg.ProbeAddr} {
		if addr == "" || addr == Disabled {
			continue
		}
		ln, err := lc.Listen(ctx, "tcp", addr)
		if err != nil {
			return errors.Join(fmt.Errorf("listen for metrics and probes: %w", err), s.Close())
		}
		s.admin = append(s.admin, ln)
	}
	return nil
}

// Addr returns the address that devices connect to, once Open returned.
func (s *Server) Addr() net.Addr { return s.device.Addr() }

// AdminAddrs returns the addresses of metrics and probes, once Open returned.
func (s *Server) AdminAddrs() []net.Addr {
	addrs := make([]net.Addr, len(s.admin))
	for i, ln := range s.admin {
		addrs[i] = ln.Addr()
	}
	return addrs
}

// Close stops listening without having run.
func (s *Server) Close() error {
	var errs []error
	for _, ln := range append([]net.Listener{s.device}, s.admin...) {
		if ln == nil {
			continue
		}
		if err := ln.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, fmt.Errorf("close listener: %w", err))
		}
	}
	return errors.Join(errs...)
}

// Run serves until ctx ends, then lets requests under way finish for at most
// ShutdownTimeout. It opens the listeners if Open did not.
func (s *Server) Run(ctx context.Context) error {
	if s.device == nil {
		if err := s.Open(ctx); err != nil {
			return err
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	s.serve(ctx, group, tls.NewListener(s.device, s.tlsConfig()), s)
	for _, ln := range s.admin {
		s.serve(ctx, group, ln, s.adminHandler())
	}
	s.log.Info("serving devices", "address", s.device.Addr().String())
	return group.Wait()
}

// serve runs one HTTP server in the group.
func (s *Server) serve(ctx context.Context, group *errgroup.Group, ln net.Listener, h http.Handler) {
	srv := &http.Server{
		Handler:           h,
		ReadTimeout:       s.cfg.ReadTimeout,
		ReadHeaderTimeout: s.cfg.HeaderTimeout,
		WriteTimeout:      s.cfg.WriteTimeout,
		IdleTimeout:       s.cfg.IdleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ConnContext:       withConnection,
		// Failed handshakes: anybody can cause them.
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	group.Go(func() error {
		if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve %s: %w", ln.Addr(), err)
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.ShutdownTimeout)
		defer cancel()
		if err := srv.Shutdown(grace); err != nil {
			s.log.Warn("requests cut off by the shutdown", "address", ln.Addr().String(), "err", err)
			// What Close could say is that a connection was closed already.
			_ = srv.Close()
		}
		return nil
	})
}

// tlsConfig demands a certificate and verifies nothing: who holds it is decided
// by request, because the rule depends on what is asked, and a connection may
// outlive its certificate.
func (s *Server) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ClientAuth: tls.RequireAnyClientCert,
		NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return s.cfg.Certificate()
		},
	}
}

// adminHandler serves metrics and probes.
func (s *Server) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.metrics.handler())
	mux.Handle("GET /healthz", s.probe(s.alive))
	mux.Handle("GET /readyz", s.probe(s.ready))
	return mux
}

// probe answers 200 or, with the reason, 503.
func (s *Server) probe(check func(context.Context) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
		defer cancel()
		if err := check(ctx); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
}
