package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/transport"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// inbox takes what the control plane sends down.
type inbox struct {
	store *desired.Store
	wake  func() // tells the control plane how it went
	leave func() // begins the departure
	log   *slog.Logger
}

// Receive puts a configuration into force.
func (i *inbox) Receive(_ context.Context, m transport.Message) error {
	if m.Directive != "" && m.Directive != protocol.DirectiveDevice {
		i.log.Warn("message ignored: unknown directive", "directive", m.Directive)
		return fmt.Errorf("directive %q is unknown", m.Directive)
	}
	before := i.store.Current()
	err := i.store.Accept(m.Content)
	if errors.Is(err, desired.ErrLeaving) {
		i.log.Debug("configuration not accepted", "err", err) // it is sent again
		return err
	}
	if err != nil {
		i.log.Error("configuration not accepted", "err", err)
		i.wake()
		return err
	}
	if now := i.store.Current(); now.Digest() != before.Digest() {
		i.log.Info("configuration accepted", "version", now.State().Version)
		i.wake()
	}
	return nil
}

// Disconnected ends the management of this device: on disk when it returns, and
// in deed by and by.
func (i *inbox) Disconnected(context.Context) { i.leave() }
