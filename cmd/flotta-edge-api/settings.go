package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
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
	autoApprove    bool
}

// environment reads variables and collects what is wrong with them.
type environment struct {
	lookup func(string) string
	errs   []error
}

// read returns a variable, converted; an unset one is its fallback.
func read[T any](e *environment, name, fallback string, convert func(string) (T, error)) T {
	text := strings.TrimSpace(e.lookup(name))
	if text == "" {
		text = fallback
	}
	value, err := convert(text)
	if err != nil {
		e.errs = append(e.errs, fmt.Errorf("%s=%q: %w", name, text, err))
	}
	return value
}

// readSettings reads the environment and names all that is wrong with it.
func readSettings(lookup func(string) string) (settings, error) {
	e := &environment{lookup: lookup}
	s := settings{
		port:           read(e, "HTTPS_PORT", "8043", number(0, 65535)),
		domain:         read(e, "DOMAIN", "project-flotta.io", domain),
		localhost:      read(e, "TLS_LOCALHOST_ENABLED", "true", boolean),
		ips:            read(e, "TLS_IPS", "", addresses),
		metricsAddr:    read(e, "METRICS_ADDR", "127.0.0.1:8080", listenAddress),
		probeAddr:      read(e, "PROBE_ADDR", "", listenAddress),
		logLevel:       read(e, "LOG_LEVEL", "info", level),
		deviceLifetime: time.Duration(read(e, "CLIENT_CERT_EXPIRATION_DAYS", "30", number(1, 3650))) * 24 * time.Hour,
		maxBodyBytes:   int64(read(e, "MAX_BODY_BYTES", "1048576", number(1024, 1<<30))),
		namespaces:     read(e, "ALLOWED_NAMESPACES", "default", namespaces),
		autoApprove:    read(e, "AUTO_APPROVAL_PROCESS", "false", boolean),
		dir:            backendDir(lookup),
	}
	read(e, "BACKEND", backendCRD, backend)
	if err := errors.Join(e.errs...); err != nil {
		return settings{}, fmt.Errorf("read environment: %w", err)
	}
	return s, nil
}

func backendDir(lookup func(string) string) string {
	if dir := lookup("FILE_BACKEND_DIR"); dir != "" {
		return dir
	}
	return defaultBackendDir
}

// names returns what the server's certificate is to vouch for.
func (s settings) names() (dns []string, ips []net.IP) {
	if ip := net.ParseIP(s.domain); ip != nil {
		ips = append(ips, ip)
	} else {
		dns = append(dns, s.domain)
	}
	if s.localhost {
		dns = append(dns, "localhost")
		ips = append(ips, net.IPv4(127, 0, 0, 1), net.IPv6loopback)
	}
	return dns, append(ips, s.ips...)
}

func number(low, high int) func(string) (int, error) {
	return func(text string) (int, error) {
		n, err := strconv.Atoi(text)
		if err != nil || n < low || n > high {
			return 0, fmt.Errorf("want a number from %d to %d", low, high)
		}
		return n, nil
	}
}

func boolean(text string) (bool, error) {
	b, err := strconv.ParseBool(text)
	if err != nil {
		return false, errors.New("want true or false")
	}
	return b, nil
}

func domain(text string) (string, error) {
	if net.ParseIP(text) == nil && len(validation.IsDNS1123Subdomain(text)) > 0 && len(validation.IsWildcardDNS1123Subdomain(text)) > 0 {
		return "", errors.New("want a host name or an address")
	}
	return text, nil
}

func addresses(text string) ([]net.IP, error) {
	var ips []net.IP
	for _, part := range list(text) {
		ip := net.ParseIP(part)
		if ip == nil {
			return nil, fmt.Errorf("%q is not an IP address", part)
		}
		ips = append(ips, ip)
	}
	return ips, nil
}

func listenAddress(text string) (string, error) {
	if text == "" || text == "0" {
		return text, nil
	}
	if _, _, err := net.SplitHostPort(text); err != nil {
		return "", fmt.Errorf("want host:port: %w", err)
	}
	return text, nil
}

func level(text string) (slog.Level, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(text)); err != nil {
		return 0, errors.New("want debug, info, warn or error")
	}
	return l, nil
}

func namespaces(text string) ([]string, error) {
	names := list(text)
	for _, name := range names {
		if msgs := validation.IsDNS1123Label(name); len(msgs) > 0 {
			return nil, fmt.Errorf("namespace %q: %s", name, msgs[0])
		}
	}
	return names, nil
}

func list(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
}

func backend(text string) (string, error) {
	switch text {
	case backendFile:
		return text, nil
	case backendCRD, backendRemote:
		return "", fmt.Errorf("this backend is not there yet; set BACKEND=%s", backendFile)
	}
	return "", fmt.Errorf("unknown backend, want %s", backendFile)
}
