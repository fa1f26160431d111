package direct

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/project-flotta/flotta-agent/internal/transport"
)

// link is the way to the server with one credential.
type link struct {
	http *http.Client
	seen [sha256.Size]byte // of the files that it was made from
	name string            // common name of the certificate
}

// device reports whether the credential is the device's own. With a register
// certificate there is nothing to ask for yet.
func (l *link) device(id string) bool { return strings.EqualFold(l.name, id) }

type rootsFunc func() (*x509.CertPool, error)

// maxCredentialBytes is far more than certificates and keys have.
const maxCredentialBytes = 1 << 20

// link returns the way to the server with the credential that is on the disk. The
// error wraps transport.ErrUnavailable.
func (c *Client) link() (*link, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	next, err := c.read()
	if err == nil {
		if next != c.current && c.current != nil {
			c.current.http.CloseIdleConnections()
			c.cfg.Log.Info("another credential is in place", "name", next.name)
		}
		c.current, c.told = next, nil
		return next, nil
	}
	// It may be in the middle of being exchanged.
	if c.told == nil || c.told.Error() != err.Error() {
		c.cfg.Log.Warn("credential not read", "err", err, "last_one_stays", c.current != nil)
	}
	c.told = err
	if c.current == nil {
		return nil, fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
	}
	return c.current, nil
}

// read returns the current link if the files are those that it was made from, and
// a new one if they are not. The caller holds mu.
func (c *Client) read() (*link, error) {
	s := c.cfg.Settings
	hash := sha256.New()
	var texts [][]byte
	for _, path := range slices.Concat([]string{s.CertFile, s.KeyFile}, s.CAFiles) {
		text, err := readFile(path)
		if err != nil {
			return nil, err
		}
		_, _ = fmt.Fprintf(hash, "%d\n", len(text)) // never fails
		_, _ = hash.Write(text)
		texts = append(texts, text)
	}
	seen := [sha256.Size]byte(hash.Sum(nil))
	if c.current != nil && c.current.seen == seen {
		return c.current, nil
	}
	pair, err := tls.X509KeyPair(texts[0], texts[1])
	if err != nil {
		return nil, fmt.Errorf("credential %s and %s: %w", s.CertFile, s.KeyFile, err)
	}
	client, err := c.client(&pair, func() (*x509.CertPool, error) { return authorities(s.CAFiles, texts[2:]) })
	if err != nil {
		return nil, err
	}
	return &link{http: client, seen: seen, name: pair.Leaf.Subject.CommonName}, nil
}

func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxCredentialBytes {
		return nil, fmt.Errorf("%s: is not a file of at most %d bytes", path, maxCredentialBytes)
	}
	return os.ReadFile(path)
}

// authorities returns those of the system and those in the files.
func authorities(paths []string, texts [][]byte) (*x509.CertPool, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // a host may have none
	}
	for i, text := range texts {
		if !pool.AppendCertsFromPEM(text) {
			return nil, errors.New(paths[i] + ": holds no certificate of an authority in PEM")
		}
	}
	return pool, nil
}
