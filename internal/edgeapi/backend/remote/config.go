package remote

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// BasePath is the path of the Edge Configuration API. It is added to a URL that
// has none.
const BasePath = "/api/flotta-backend/v1"

// DefaultTimeout is how long one attempt of a call may take.
const DefaultTimeout = 5 * time.Second

// Config is where the service is and how it is spoken to. URL and Logger are
// required, and ClientCertificate when the URL is https.
type Config struct {
	// URL is where the service is. BasePath is added when it has no path;
	// otherwise the path is used as it is.
	URL string
	// Timeout bounds one attempt of a call, from connecting to the end of the
	// answer. Default DefaultTimeout.
	Timeout time.Duration
	// ClientCertificate returns the certificate to show. It is called for every
	// handshake, so that a renewed one is used without a restart.
	ClientCertificate func() (*tls.Certificate, error)
	// RootCAs are PEM certificates that the service's may be signed by, beside
	// the system's.
	RootCAs []byte
	// Registerer takes the metrics. Default: none.
	Registerer prometheus.Registerer
	Logger     *slog.Logger
}

// check returns the address of the API and all that is wrong with the
// configuration.
func (c Config) check() (*url.URL, error) {
	base, err := parseURL(c.URL)
	errs := []error{err}
	if c.Timeout < 0 {
		errs = append(errs, fmt.Errorf("field Timeout: %s is negative", c.Timeout))
	}
	if c.Logger == nil {
		errs = append(errs, errors.New("field Logger is required"))
	}
	if base != nil && base.Scheme == "https" && c.ClientCertificate == nil {
		errs = append(errs, errors.New("field ClientCertificate is required with https"))
	}
	return base, errors.Join(errs...)
}

// parseURL reads the address of the API. Errors do not repeat it, because it may
// hold a password.
func parseURL(text string) (*url.URL, error) {
	if text == "" {
		return nil, errors.New("url: is required")
	}
	u, err := url.Parse(text)
	if err != nil {
		if wrapped := new(url.Error); errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return nil, fmt.Errorf("url: %w", err)
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("url: scheme %q, want https or http", u.Scheme)
	case u.User != nil:
		return nil, errors.New("url: has a user name, but the service knows us by the certificate")
	case u.Opaque != "" || u.Hostname() == "":
		return nil, errors.New("url: names no host")
	case u.RawQuery != "" || u.ForceQuery:
		return nil, errors.New("url: has a query, which the API does not know")
	case u.Fragment != "":
		return nil, errors.New("url: has a fragment, which is never sent")
	}
	path := strings.TrimRight(u.EscapedPath(), "/")
	if path == "" {
		path = BasePath
	}
	base, err := url.Parse(u.Scheme + "://" + u.Host + path)
	if err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	return base, nil
}

const (
	// idleConnections are kept open: calls come at the pace of the devices' polls,
	// and a handshake costs more than the call.
	idleConnections = 64
	// maxConnections bounds what a slow HTTP/1.1 service can pile up here; calls
	// beyond wait, within their time.
	maxConnections = 256
)

// transport returns how the service is connected to.
func (c Config) transport() (*http.Transport, error) {
	roots, err := x509.SystemCertPool()
	if err != nil {
		// A container without the system's roots: ours are what counts.
		roots = x509.NewCertPool()
	}
	if len(c.RootCAs) > 0 && !roots.AppendCertsFromPEM(c.RootCAs) {
		return nil, errors.New("field RootCAs: no certificate in it")
	}
	t := &http.Transport{
		Proxy:       http.ProxyFromEnvironment,
		DialContext: (&net.Dialer{Timeout: c.Timeout}).DialContext,
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS12,
			RootCAs:    roots,
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				cert, err := c.ClientCertificate()
				if err != nil {
					return nil, fmt.Errorf("client certificate: %w", err)
				}
				return cert, nil
			},
		},
		ForceAttemptHTTP2:      true,
		MaxIdleConns:           idleConnections,
		MaxIdleConnsPerHost:    idleConnections,
		MaxConnsPerHost:        maxConnections,
		IdleConnTimeout:        90 * time.Second,
		TLSHandshakeTimeout:    c.Timeout,
		MaxResponseHeaderBytes: 64 << 10,
	}
	// A peer that vanished without a word would keep its connection in use.
	t.HTTP2 = &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: c.Timeout}
	return t, nil
}
