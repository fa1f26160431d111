package edgeapi

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/project-flotta/flotta-agent/internal/pki"
)

// DefaultNamespace is where devices go that name no namespace.
const DefaultNamespace = "default"

// Disabled as an address turns a listener off.
const Disabled = "0"

// Config is what a Server is made of. Authority, Certificate, Backend and
// Logger are required; the zero value of everything else means its default.
type Config struct {
	// Addr is where devices connect. Default :8043.
	Addr string
	// MetricsAddr is where /metrics, /healthz and /readyz are served, without
	// TLS or authentication. Default 127.0.0.1:8080.
	MetricsAddr string
	// ProbeAddr is a second address for /healthz and /readyz. Default: none.
	ProbeAddr string

	// Authority issues and verifies the certificates of devices.
	Authority *pki.Authority
	// Certificate returns the server's certificate. It is called for every
	// connection, so that a renewed one is used without a restart.
	Certificate func() (*tls.Certificate, error)
	// Backend knows the devices.
	Backend Backend
	// Namespaces are the ones that a device may ask to be placed in. Default:
	// DefaultNamespace only.
	Namespaces []string
	// DeviceLifetime is how long device certificates are valid. Default 30 days.
	DeviceLifetime time.Duration

	// MaxBodyBytes bounds the body of a request. Default 1 MiB.
	MaxBodyBytes int64
	// ReadTimeout bounds the reading of a whole request. Default 60 s: a body of
	// 1 MiB over the slowest link that is still usable, 150 kbit/s.
	ReadTimeout time.Duration
	// HeaderTimeout bounds the reading of a request's header. Default 15 s.
	HeaderTimeout time.Duration
	// WriteTimeout bounds a request from its header to the end of the answer.
	// Default 120 s.
	WriteTimeout time.Duration
	// IdleTimeout is how long an unused connection is kept. Default 120 s: yggd
	// asks every 5 s, and a handshake costs more than a connection.
	IdleTimeout time.Duration
	// ShutdownTimeout is how long requests under way may take when the server
	// ends. Default 10 s.
	ShutdownTimeout time.Duration

	// Registry is what /metrics shows; the backend may have added to it. Default:
	// one of the server's own.
	Registry *prometheus.Registry
	Logger   *slog.Logger
}

func (c Config) withDefaults() Config {
	defaultTo(&c.Addr, ":8043")
	defaultTo(&c.MetricsAddr, "127.0.0.1:8080")
	defaultTo(&c.DeviceLifetime, pki.DefaultDeviceLifetime)
	defaultTo(&c.MaxBodyBytes, 1<<20)
	defaultTo(&c.ReadTimeout, 60*time.Second)
	defaultTo(&c.HeaderTimeout, 15*time.Second)
	defaultTo(&c.WriteTimeout, 120*time.Second)
	defaultTo(&c.IdleTimeout, 120*time.Second)
	defaultTo(&c.ShutdownTimeout, 10*time.Second)
	if c.Registry == nil {
		c.Registry = prometheus.NewRegistry()
	}
	if len(c.Namespaces) == 0 {
		c.Namespaces = []string{DefaultNamespace}
	}
	return c
}

func defaultTo[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate returns all that is wrong with the configuration.
func (c Config) Validate() error {
	var errs []error
	require := func(ok bool, field string) {
		if !ok {
			errs = append(errs, fmt.Errorf("field %s is required", field))
		}
	}
	require(c.Authority != nil, "Authority")
	require(c.Certificate != nil, "Certificate")
	require(c.Backend != nil, "Backend")
	require(c.Logger != nil, "Logger")
	for _, ns := range c.Namespaces {
		if msgs := validation.IsDNS1123Label(ns); len(msgs) > 0 {
			errs = append(errs, fmt.Errorf("field Namespaces: %q: %s", ns, msgs[0]))
		}
	}
	for _, d := range []struct {
		field string
		value time.Duration
	}{
		{"DeviceLifetime", c.DeviceLifetime},
		{"ReadTimeout", c.ReadTimeout},
		{"HeaderTimeout", c.HeaderTimeout},
		{"WriteTimeout", c.WriteTimeout},
		{"IdleTimeout", c.IdleTimeout},
		{"ShutdownTimeout", c.ShutdownTimeout},
	} {
		if d.value < 0 {
			errs = append(errs, fmt.Errorf("field %s: %s is negative", d.field, d.value))
		}
	}
	if c.MaxBodyBytes < 0 {
		errs = append(errs, fmt.Errorf("field MaxBodyBytes: %d is negative", c.MaxBodyBytes))
	}
	return errors.Join(errs...)
}
