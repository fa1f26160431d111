package syslog

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// Protocol is how messages travel.
type Protocol string

// The protocols.
const (
	TCP Protocol = "tcp"
	UDP Protocol = "udp"
	TLS Protocol = "tls"
)

// The ports of receivers that name none.
const (
	defaultPort    = "514"  // RFC 5426; for tcp by convention
	defaultPortTLS = "6514" // RFC 5425
)

// Target is a receiver.
type Target struct {
	Protocol Protocol
	Address  string // host:port
	// TLS is nil but for the protocol TLS.
	TLS *tls.Config
}

// Settings are a receiver as somebody configured it.
type Settings struct {
	// Address is a name or an IP address, with or without ":port"; an IPv6
	// address with a port stands in brackets. Names are resolved anew for each
	// connection.
	Address string
	// Protocol is tcp, udp or tls, in any case; "": tcp.
	Protocol string
	// CA is PEM of the certificates that the receiver's has to come from; empty:
	// the system's. Only for tls, like the next two.
	CA []byte
	// Cert and Key are PEM of the certificate that the device shows, if the
	// receiver asks for one; both or none.
	Cert, Key []byte
}

// Target checks s. The error names what is wrong, and holds no key.
func (s Settings) Target() (Target, error) {
	t := Target{Protocol: Protocol(strings.ToLower(strings.TrimSpace(s.Protocol)))}
	switch t.Protocol {
	case TCP, UDP, TLS:
	case "":
		t.Protocol = TCP
	default:
		return Target{}, fmt.Errorf("protocol %q is none of tcp, udp, tls", s.Protocol)
	}
	host, port, err := splitAddress(strings.TrimSpace(s.Address))
	if err != nil {
		return Target{}, err
	}
	if port == "" {
		port = defaultPort
		if t.Protocol == TLS {
			port = defaultPortTLS
		}
	}
	t.Address = net.JoinHostPort(host, port)
	if t.Protocol != TLS {
		if len(s.CA)+len(s.Cert)+len(s.Key) > 0 {
			return Target{}, fmt.Errorf("certificates are configured, but the protocol is %s: set it to tls", t.Protocol)
		}
		return t, nil
	}
	if t.TLS, err = s.tls(host); err != nil {
		return Target{}, err
	}
	return t, nil
}

func (s Settings) tls(host string) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if len(s.CA) > 0 {
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(s.CA) {
			return nil, errors.New("the CA holds no certificate in PEM")
		}
	}
	if len(s.Cert)+len(s.Key) == 0 {
		return cfg, nil
	}
	pair, err := tls.X509KeyPair(s.Cert, s.Key)
	if err != nil {
		return nil, fmt.Errorf("client certificate and key do not fit: %w", err)
	}
	cfg.Certificates = []tls.Certificate{pair}
	return cfg, nil
}

// splitAddress returns the host without brackets, and the port or "".
func splitAddress(address string) (host, port string, err error) {
	switch {
	case address == "":
		return "", "", errors.New("the address is empty")
	case strings.ContainsAny(address, " \t\r\n/\x00"):
		return "", "", fmt.Errorf("address %q is not host:port", address)
	case net.ParseIP(address) != nil: // an IPv6 address has colons but no port
		return address, "", nil
	case strings.HasPrefix(address, "[") && strings.HasSuffix(address, "]"):
		host = address[1 : len(address)-1]
	case !strings.Contains(address, ":"):
		host = address
	default:
		if host, port, err = net.SplitHostPort(address); err != nil {
			return "", "", fmt.Errorf("address %q is not host:port", address)
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return "", "", fmt.Errorf("address %q has no port between 1 and 65535", address)
		}
	}
	if host == "" || strings.ContainsAny(host, "[]") {
		return "", "", fmt.Errorf("address %q has no host", address)
	}
	if strings.Contains(host, ":") && net.ParseIP(host) == nil && !strings.Contains(host, "%") {
		return "", "", fmt.Errorf("address %q is not host:port", address)
	}
	return host, port, nil
}
