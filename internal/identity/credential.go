package identity

import (
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/internal/pki"
)

const (
	combinedName = "flotta-credentials.pem"
	pendingName  = "flotta-credentials-pending.pem"
	registerName = "flotta-credentials-register.pem"
	linkSuffix   = ".flotta-link" // of a symlink that is not in its place yet
	privateMode  = 0o600
)

// step names a point inside the replacement of a credential, for crash tests.
type step string

const (
	stepPinned       step = "pinned"
	stepRegisterKept step = "register-kept"
	stepOldCombined  step = "old-combined"
	stepCertLinked   step = "cert-linked"
	stepKeyLinked    step = "key-linked"
	stepReplaced     step = "replaced"
	stepWoken        step = "woken"
	stepDone         step = "done"
)

// credential is the certificate and key on disk, behind the two configured
// paths.
type credential struct {
	certPath, keyPath string
	caPaths           []string
	log               *slog.Logger
	step              func(step)
}

// beside returns the path of a file of ours, in the folder of the key.
func (c *credential) beside(name string) string {
	return filepath.Join(filepath.Dir(c.keyPath), name)
}

// combinedPath returns the file that both paths lead to, or will.
func (c *credential) combinedPath() string {
	if c.certPath == c.keyPath {
		return c.keyPath
	}
	path := c.beside(combinedName)
	if path == c.certPath || path == c.keyPath {
		// A link must not lead to itself.
		return c.beside("pair-" + combinedName)
	}
	return path
}

// load reads the pair in place.
func (c *credential) load() (*pair, error) {
	certText, err := os.ReadFile(c.certPath)
	if err != nil {
		return nil, fmt.Errorf("load credential: %w", err)
	}
	keyText, err := os.ReadFile(c.keyPath)
	if err != nil {
		return nil, fmt.Errorf("load credential: %w", err)
	}
	p, err := newPair(certText, keyText)
	if err != nil {
		return nil, fmt.Errorf("load credential %s, %s: %w", c.certPath, c.keyPath, err)
	}
	return p, nil
}

// checkFolders returns an error that names a folder in which nothing can be
// written. It is asked before the server is, because a certificate that cannot
// be kept may have been the only one there is.
func (c *credential) checkFolders() error {
	for _, dir := range []string{filepath.Dir(c.keyPath), filepath.Dir(c.certPath)} {
		if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
			return fmt.Errorf("credential folder %s has to be writable: %w", dir, err)
		}
	}
	return nil
}

// pendingKey returns the key that has no certificate yet, creating it if there
// is none. It is on disk when pendingKey returns.
func (c *credential) pendingKey() (key, error) {
	path := c.beside(pendingName)
	text, err := os.ReadFile(path)
	switch {
	case err == nil:
		pending, err := pki.ParseKey(text)
		if err == nil {
			return pending, nil
		}
		c.log.Warn("pending key is damaged and replaced", slog.String("path", path), slog.Any("err", err))
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("read pending key: %w", err)
	}
	fresh, err := pki.NewKey()
	if err != nil {
		return nil, err
	}
	if text, err = pki.EncodeKey(fresh); err != nil {
		return nil, err
	}
	if err := durable.WriteFile(path, text, privateMode); err != nil {
		return nil, fmt.Errorf("keep pending key: %w", err)
	}
	return fresh, nil
}

// replace puts next in place and wakes yggd. At every moment both paths lead to
// the old pair or both to the new one; see the package documentation.
func (c *credential) replace(next *pair) error {
	pins := c.pin()
	defer pins.release()
	c.step(stepPinned)
	if err := c.keepOld(); err != nil {
		return err
	}
	if err := durable.WriteFile(c.combinedPath(), next.text, privateMode); err != nil {
		return err
	}
	if err := c.link(); err != nil { // only when there was no usable old pair
		return err
	}
	c.step(stepReplaced)
	pins.release()
	c.step(stepWoken)
	if err := c.dropPending(); err != nil {
		return err
	}
	c.step(stepDone)
	return nil
}

// keepOld keeps a register credential, and makes both paths lead to one file
// that holds the old pair.
func (c *credential) keepOld() error {
	old, err := c.load()
	if err != nil {
		return nil //nolint:nilerr // nothing that could be kept; its reader has said so
	}
	if old.names(pki.RegisterName) {
		if err := durable.WriteFile(c.beside(registerName), old.text, privateMode); err != nil {
			return fmt.Errorf("keep register credential: %w", err)
		}
		c.step(stepRegisterKept)
	}
	if c.linked() {
		return nil
	}
	if err := durable.WriteFile(c.combinedPath(), old.text, privateMode); err != nil {
		return err
	}
	c.step(stepOldCombined)
	return c.link()
}

// linked reports whether both paths lead to the combined file.
func (c *credential) linked() bool {
	return c.certPath == c.keyPath || (c.leads(c.certPath) && c.leads(c.keyPath))
}

func (c *credential) leads(path string) bool {
	target, err := os.Readlink(path)
	return err == nil && target == c.target(path)
}

// target returns what a symlink at path says: a bare name when it can, so that
// the folder can be moved.
func (c *credential) target(path string) string {
	combined := c.combinedPath()
	if filepath.Dir(path) == filepath.Dir(combined) {
		return filepath.Base(combined)
	}
	return combined
}

// link makes both paths symlinks to the combined file, one after the other.
func (c *credential) link() error {
	if c.linked() {
		return nil
	}
	for _, l := range []struct {
		path string
		step step
	}{{c.certPath, stepCertLinked}, {c.keyPath, stepKeyLinked}} {
		if err := c.linkOne(l.path); err != nil {
			return fmt.Errorf("link %s to %s: %w", l.path, c.combinedPath(), err)
		}
		c.step(l.step)
	}
	return nil
}

func (c *credential) linkOne(path string) error {
	temp := path + linkSuffix
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(c.target(path), temp); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return durable.SyncDir(filepath.Dir(path))
}

// finish does what a crash between the replacement and its end left to do.
func (c *credential) finish(current *pair) error {
	text, err := os.ReadFile(c.beside(pendingName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read pending key: %w", err)
	}
	if pending, err := pki.ParseKey(text); err == nil && !isKeyOf(current, pending) {
		return nil // of a renewal
	}
	c.pin().release()
	return c.dropPending()
}

func isKeyOf(p *pair, k key) bool {
	public, ok := p.leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(k.Public())
}

func (c *credential) dropPending() error {
	path := c.beside(pendingName)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove pending key: %w", err)
	}
	return durable.SyncDir(filepath.Dir(path))
}

// pins are files held open for writing.
type pins struct{ files []*os.File }

// pin opens every file that yggd may watch. Closing them is what it notices.
func (c *credential) pin() *pins {
	p := &pins{}
	var unpinned []string
	for _, path := range append([]string{c.certPath, c.keyPath}, c.caPaths...) {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			unpinned = append(unpinned, err.Error())
			continue
		}
		p.files = append(p.files, f)
	}
	if len(unpinned) > 0 {
		c.log.Warn("yggd may not notice the new credential by these files", slog.String("err", strings.Join(unpinned, "; ")))
	}
	return p
}

// release closes the files. It may be called again.
func (p *pins) release() {
	for _, f := range p.files {
		_ = f.Close() // nothing was written
	}
	p.files = nil
}
