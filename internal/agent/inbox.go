package agent

import (
	"context"
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
	event func(protocol.EventInfo)
	log   *slog.Logger
}

// Receive puts a configuration into force.
func (i *inbox) Receive(_ context.Context, m transport.Message) error {
	if m.Directive != "" && m.Directive != protocol.DirectiveDevice {
		i.log.Warn("message ignored: unknown directive", "directive", m.Directive)
		return fmt.Errorf("directive %q is unknown", m.Directive)
	}
	before := i.store.Current()
	if err := i.store.Accept(m.Content); err != nil {
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

// Disconnected ends the management of this device.
func (i *inbox) Disconnected(context.Context) {
	i.log.Warn("the control plane no longer manages this device")
	i.event(protocol.EventInfo{Type: protocol.EventInfoType, Reason: "Disconnected", Message: "the control plane no longer manages this device"})
	if err := i.store.Withdraw(); err != nil {
		i.log.Error("withdraw the desired state", "err", err)
	}
}
