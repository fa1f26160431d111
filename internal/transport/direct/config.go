package direct

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/project-flotta/flotta-agent/internal/transport"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Limits and defaults.
const (
	defaultPoll     = 5 * time.Second // yggd's
	defaultMaxPause = time.Minute
	// refusedPause is how long a configuration that the handler refused is not
	// asked for: sending it again does not make it better, but a full disk may
	// have.
	refusedPause = time.Minute
	// requestTimeout bounds one request with its answer. It is long because the
	// link may be slow; a dead peer is noticed far earlier.
	requestTimeout = 10 * time.Minute
	headerTimeout  = 30 * time.Second
	dialTimeout    = 15 * time.Second
	// A configuration carries its ConfigMaps and Secrets.
	maxAnswerBytes = 64 << 20
)

// Config says where the control plane is and who asks it.
type Config struct {
	// Settings names the server as host:port, the device, and the files of its
	// credential, which may be exchanged at any time. The authorities in CAFiles
	// are trusted besides the system's.
	Settings transport.Settings
	BasePath string        // of the Edge API; default protocol.BasePath
	Poll     time.Duration // between two questions, before jitter; default 5 s
	MaxPause time.Duration // longest one while nobody answers; default 1 min
	// Proxy returns the proxy of a request, or nil; default is what HTTPS_PROXY
	// and NO_PROXY in the environment say.
	Proxy     func(*http.Request) (*url.URL, error)
	UserAgent string
	Log       *slog.Logger
}

func (c Config) validate() error {
	s := c.Settings
	host, port, err := net.SplitHostPort(s.Server)
	switch {
	case err != nil || host == "" || port == "":
		return fmt.Errorf("server %q: want a host and a port, such as edge.example.com:8043", s.Server)
	case s.DeviceID == "" || s.DeviceID != url.PathEscape(s.DeviceID):
		return fmt.Errorf("device id %q: missing, or cannot be part of an address", s.DeviceID)
	case s.CertFile == "" || s.KeyFile == "":
		return errors.New("credential: no certificate or key file is configured")
	case c.Poll < 0 || c.MaxPause < 0:
		return errors.New("poll: a duration is negative")
	case c.Log == nil:
		return errors.New("log: missing")
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.BasePath == "" {
		c.BasePath = protocol.BasePath
	}
	if c.Poll == 0 {
		c.Poll = defaultPoll
	}
	if c.MaxPause == 0 {
		c.MaxPause = defaultMaxPause
	}
	c.MaxPause = max(c.MaxPause, c.Poll)
	if c.Proxy == nil {
		c.Proxy = http.ProxyFromEnvironment
	}
	return c
}

// Client is a transport over HTTPS. Its methods may be called from any goroutine;
// Run once only.
type Client struct {
	cfg  Config
	base string // https://server/base path

	mu      sync.Mutex
	current *link // nil until a credential could be read
	told    error // why the last one could not be

	poll poll // only Run's
}

var _ transport.Transport = (*Client)(nil)

// New checks c. It touches no file and makes no connection.
func New(c Config) (*Client, error) {
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("direct transport: %w", err)
	}
	c = c.withDefaults()
	return &Client{cfg: c, base: "https://" + c.Settings.Server + "/" + strings.Trim(c.BasePath, "/")}, nil
}

// Close closes the connections that nobody uses.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current != nil {
		c.current.http.CloseIdleConnections()
	}
	return nil
}

// address is where the messages of one channel and direction go.
func (c *Client) address(channel, direction string) string {
	return c.base + "/" + channel + "/" + c.cfg.Settings.DeviceID + "/" + direction
}

// client returns an HTTP client for a credential.
func (c *Client) client(pair *tls.Certificate, roots rootsFunc) (*http.Client, error) {
	pool, err := roots()
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: dialTimeout}
	return &http.Client{
		Transport: &http.Transport{
			Proxy: c.cfg.Proxy, DialContext: dialer.DialContext,
			TLSClientConfig: &tls.Config{
				MinVersion: tls.VersionTLS13, RootCAs: pool,
				// Whatever authorities the server names: it has only one to choose from.
				GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair, nil },
			},
			TLSHandshakeTimeout: dialTimeout, ResponseHeaderTimeout: headerTimeout,
			MaxIdleConns: 2, IdleConnTimeout: 2 * time.Minute,
		},
		// The Edge API never sends one elsewhere, and a credential is not for
		// whoever a redirect names.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}
