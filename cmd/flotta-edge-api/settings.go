package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/project-flotta/flotta-agent/internal/environ"
)

// Backends that a configuration may name.
const (
	backendFile   = "file"
	backendCRD    = "crd"
	backendRemote = "remote"
)

const defaultBackendDir = "/var/lib/flotta-edge-api"

// settings is the environment, read and checked.
type settings struct {
	backend        string
	kubeconfig     string
	remoteURL      string
	remoteTimeout  time.Duration
	deprecated     []string // what should be said about names that are used
	port           int
	domain         string
	localhost      bool
	ips            []net.IP
	metricsAddr    string
	probeAddr      string
	logLevel       slog.Level
	deviceLifetime time.Duration
	maxBodyBytes   int64
	namespaces     []string
	dir            string
	dirSet         bool // dir was chosen, and is not the default
	autoApprove    bool
}

// readSettings reads the environment and names all that is wrong with it.
func readSettings(lookup func(string) string) (settings, error) {
	r := environ.New(lookup)
	s := settings{
		backend:        environ.Read(r, "BACKEND", backendCRD, backend),
		kubeconfig:     r.Text("KUBECONFIG"),
		port:           environ.Read(r, "HTTPS_PORT", "8043", environ.Number(0, 65535)),
		domain:         environ.Read(r, "DOMAIN", "project-flotta.io", domain),
		localhost:      environ.Read(r, "TLS_LOCALHOST_ENABLED", "true", environ.Boolean),
		ips:            environ.Read(r, "TLS_IPS", "", addresses),
		metricsAddr:    environ.Read(r, "METRICS_ADDR", "127.0.0.1:8080", environ.Listen),
		probeAddr:      environ.Read(r, "PROBE_ADDR", "", environ.Listen),
		logLevel:       environ.Read(r, "LOG_LEVEL", "info", environ.Level),
		deviceLifetime: time.Duration(environ.Read(r, "CLIENT_CERT_EXPIRATION_DAYS", "30", environ.Number(1, 3650))) * 24 * time.Hour,
		maxBodyBytes:   int64(environ.Read(r, "MAX_BODY_BYTES", "1048576", environ.Number(1024, 1<<30))),
		namespaces:     environ.Read(r, "ALLOWED_NAMESPACES", "default", environ.Namespaces),
		autoApprove:    environ.Read(r, "AUTO_APPROVAL_PROCESS", "false", environ.Boolean),
		dir:            backendDir(lookup),
		dirSet:         lookup("FILE_BACKEND_DIR") != "",
	}
	s.readRemote(r)
	if err := r.Err(); err != nil {
		return settings{}, err
	}
	return s, nil
}

// remoteTimeoutTypo is how one page of flotta v0.2's documentation spells the
// variable, so there are configurations that do.
const remoteTimeoutTypo = "REMOT_BACKEND_TIMEOUT"

func (s *settings) readRemote(r *environ.Reader) {
	name := "REMOTE_BACKEND_TIMEOUT"
	if r.Text(name) == "" && r.Text(remoteTimeoutTypo) != "" {
		s.deprecated = append(s.deprecated, remoteTimeoutTypo+" is deprecated: write "+name)
		name = remoteTimeoutTypo
	}
	s.remoteTimeout = environ.Read(r, name, "5s", environ.Duration(time.Millisecond))
	s.remoteURL = r.Text("REMOTE_BACKEND_URL")
	if s.backend == backendRemote && s.remoteURL == "" {
		r.Refuse(errors.New("REMOTE_BACKEND_URL is required with BACKEND=remote"))
	}
}

func backendDir(lookup func(string) string) string {
	if dir := lookup("FILE_BACKEND_DIR"); dir != "" {
		return dir
	}
	return defaultBackendDir
}

// hosts are names and addresses of the server. None leaves the certificate that
// there is alone.
type hosts struct {
	names     []string
	addresses []net.IP
}

// hosts returns what the server's certificate is to vouch for.
func (s settings) hosts() (h hosts) {
	if ip := net.ParseIP(s.domain); ip != nil {
		h.addresses = append(h.addresses, ip)
	} else {
		h.names = append(h.names, s.domain)
	}
	if s.localhost {
		h.names = append(h.names, "localhost")
		h.addresses = append(h.addresses, net.IPv4(127, 0, 0, 1), net.IPv6loopback)
	}
	h.addresses = append(h.addresses, s.ips...)
	return h
}

func domain(text string) (string, error) {
	if net.ParseIP(text) == nil && len(validation.IsDNS1123Subdomain(text)) > 0 && len(validation.IsWildcardDNS1123Subdomain(text)) > 0 {
		return "", errors.New("want a host name or an address")
	}
	return text, nil
}

func addresses(text string) ([]net.IP, error) {
	var ips []net.IP
	for _, part := range environ.List(text) {
		ip := net.ParseIP(part)
		if ip == nil {
			return nil, fmt.Errorf("%q is not an IP address", part)
		}
		ips = append(ips, ip)
	}
	return ips, nil
}

func backend(text string) (string, error) {
	switch text {
	case backendFile, backendCRD, backendRemote:
		return text, nil
	}
	return "", fmt.Errorf("unknown backend, want %s, %s or %s", backendCRD, backendRemote, backendFile)
}
