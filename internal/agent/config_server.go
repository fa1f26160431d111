package agent

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"time"

	"github.com/project-flotta/flotta-agent/internal/transport"
)

// ServerConfig says where the control plane is, for an agent that asks there by
// itself. One that yggdrasil started takes all this from yggdrasil.
type ServerConfig struct {
	Address  string   `toml:"address"`   // of the Edge API, as host:port
	CertFile string   `toml:"cert-file"` // PEM; default /etc/flotta/pki/device.pem
	KeyFile  string   `toml:"key-file"`  // PEM; default: CertFile holds the key, too
	CAFiles  []string `toml:"ca-files"`  // PEM; trusted for the Edge API besides the system's
	DeviceID string   `toml:"device-id"` // default: see deviceID
	Poll     Duration `toml:"poll"`      // between two questions; default 5s
	Proxy    string   `toml:"proxy"`     // URL; default: HTTPS_PROXY and NO_PROXY of the environment
}

// ErrNoServer says that the settings do not name a control plane.
var ErrNoServer = errors.New(`setting server.address: missing: write where the Edge API is, such as "edge.example.com:8043"`)

const (
	defaultCertFile = "/etc/flotta/pki/device.pem"
	minPoll         = time.Second // less is a mistake, and a burden on the server
)

func (c ServerConfig) withDefaults() ServerConfig {
	setDefault(&c.CertFile, defaultCertFile)
	setDefault(&c.KeyFile, c.CertFile)
	setDefault(&c.Poll, Duration(5*time.Second))
	return c
}

func (c ServerConfig) validate() error {
	if c.Address != "" {
		if host, port, err := net.SplitHostPort(c.Address); err != nil || host == "" || port == "" {
			return fmt.Errorf("server.address %q: must be a host and a port, such as edge.example.com:8043", c.Address)
		}
	}
	if !filepath.IsAbs(c.CertFile) {
		return fmt.Errorf("server.cert-file %q: must be an absolute path", c.CertFile)
	}
	if !filepath.IsAbs(c.KeyFile) {
		return fmt.Errorf("server.key-file %q: must be an absolute path", c.KeyFile)
	}
	for _, path := range c.CAFiles {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("server.ca-files %q: must be absolute paths", path)
		}
	}
	if c.DeviceID != "" && !validDeviceID(c.DeviceID) {
		return fmt.Errorf("server.device-id %q: must be lower-case letters, digits, hyphens and dots, 64 at most", c.DeviceID)
	}
	if d := time.Duration(c.Poll); d < minPoll {
		return fmt.Errorf("server.poll %s: must be at least %s", d, minPoll)
	}
	_, err := c.proxy()
	return err
}

// validDeviceID reports whether an object can have that name, and a certificate.
func validDeviceID(id string) bool {
	if len(id) > 64 {
		return false
	}
	for i, c := range id {
		inner := i > 0 && i < len(id)-1
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		case inner && (c == '-' || c == '.'):
		default:
			return false
		}
	}
	return id != ""
}

// proxy returns what chooses the proxy of a request; nil: the environment.
func (c ServerConfig) proxy() (func(*http.Request) (*url.URL, error), error) {
	if c.Proxy == "" {
		return nil, nil //nolint:nilnil // documented
	}
	u, err := url.Parse(c.Proxy)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "socks5" {
		// Not the text itself: it may hold a password.
		return nil, errors.New("server.proxy: must be a URL such as http://proxy.example.com:3128")
	}
	return http.ProxyURL(u), nil
}

// settings are those of the connection.
func (c ServerConfig) settings(id string) transport.Settings {
	return transport.Settings{DeviceID: id, Server: c.Address, CertFile: c.CertFile, KeyFile: c.KeyFile, CAFiles: c.CAFiles}
}
