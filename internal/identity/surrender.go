package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/project-flotta/flotta-agent/internal/pki"
)

// ErrNoRegisterCredential says that there is nothing to put in the place of the
// device's credential: an agent of flotta v0.2 kept none. Somebody has to
// deliver one.
var ErrNoRegisterCredential = errors.New("no register credential to go back to")

// Surrender gives the device's credential back: the register credential that it
// was delivered with takes its place, and its key is gone from the disk. It may
// be called again, also after a crash anywhere inside it. The caller holds the
// device (Config.Held) from before the call until what it clears away is gone.
// After ErrNoRegisterCredential all is as it was.
func (d *Device) Surrender() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	current, err := d.credential.load()
	if err == nil && current.names(pki.RegisterName) {
		return d.surrendered()
	}
	register, err := d.credential.registerPair()
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrNoRegisterCredential, d.credential.beside(registerName), err)
	}
	if time.Now().After(register.leaf.NotAfter) {
		d.cfg.Log.Warn("register credential has expired: deliver another one for the device to enrol again",
			slog.Time("not_after", register.leaf.NotAfter))
	}
	if err := d.credential.replace(register); err != nil {
		return fmt.Errorf("give credential back: %w", err)
	}
	d.cfg.Log.Info("device credential given back", slog.String("device", d.cfg.Settings.DeviceID))
	return d.surrendered()
}

// surrendered removes the key of a renewal that was under way, and has Run look
// at what is in place.
func (d *Device) surrendered() error {
	wake(d.changed)
	return d.credential.dropPending()
}

// registerPair reads the register credential that was kept.
func (c *credential) registerPair() (*pair, error) {
	text, err := os.ReadFile(c.beside(registerName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("none was kept")
	}
	if err != nil {
		return nil, err
	}
	p, err := newPair(text, text)
	if err != nil {
		return nil, err
	}
	if !p.names(pki.RegisterName) {
		return nil, fmt.Errorf("it is for %q", p.leaf.Subject.CommonName)
	}
	return p, nil
}
