package agent

import (
	"errors"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/transport"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// box is an inbox with what it told others.
type box struct {
	*inbox
	wakes  int
	leaves int
}

func newBox(t *testing.T) *box {
	t.Helper()
	store, err := desired.Open(filepath.Join(t.TempDir(), "desired.json"), "dev", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	b := &box{}
	b.inbox = &inbox{
		store: store, log: slog.New(slog.DiscardHandler),
		wake:  func() { b.wakes++ },
		leave: func() { b.leaves++ },
	}
	return b
}

func configuration(text string) transport.Message {
	return transport.Message{Directive: protocol.DirectiveDevice, Content: []byte(text)}
}

const (
	oneWorkload = `{"device_id":"dev","version":"1","configuration":{"mounts":[]},"workloads":[{"name":"w","specification":"containers: []"}]}`
	noWorkload  = `{"device_id":"dev","version":"2","configuration":{"mounts":[]}}`
)

func TestInboxPutsAConfigurationIntoForceOnce(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	for range 3 {
		if err := b.Receive(t.Context(), configuration(oneWorkload)); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(b.store.Current().State().Workloads); n != 1 || b.wakes != 1 {
		t.Errorf("%d workloads in force and %d wakes after the same message three times, want 1 and 1", n, b.wakes)
	}
	if err := b.Receive(t.Context(), configuration(noWorkload)); err != nil {
		t.Fatal(err)
	}
	if n := len(b.store.Current().State().Workloads); n != 0 || b.wakes != 2 {
		t.Errorf("%d workloads and %d wakes after the next configuration, want 0 and 2", n, b.wakes)
	}
}

func TestInboxKeepsTheLastGoodConfiguration(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	if err := b.Receive(t.Context(), configuration(oneWorkload)); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "null", "{}", `{"configuration":`, `{"device_id":"other","configuration":{}}`} {
		var rejected *desired.RejectedError
		if err := b.Receive(t.Context(), configuration(bad)); !errors.As(err, &rejected) {
			t.Errorf("message %q: %v, want it rejected", bad, err)
		}
	}
	if err := b.Receive(t.Context(), transport.Message{Directive: "other", Content: []byte(noWorkload)}); err == nil {
		t.Error("a message of an unknown directive was taken")
	}
	if n := len(b.store.Current().State().Workloads); n != 1 {
		t.Errorf("%d workloads in force, want the one of the last good configuration", n)
	}
}

func TestInboxPassesADisconnectOn(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.Disconnected(t.Context())
	if b.leaves != 1 {
		t.Errorf("the departure began %d times, want once", b.leaves)
	}
}

func TestInboxTakesNothingFromADeviceThatLeaves(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	if err := b.Receive(t.Context(), configuration(oneWorkload)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.store.Leave(); err != nil {
		t.Fatal(err)
	}
	wakes := b.wakes
	if err := b.Receive(t.Context(), configuration(noWorkload)); !errors.Is(err, desired.ErrLeaving) {
		t.Errorf("configuration of a device that leaves: %v, want ErrLeaving", err)
	}
	if state := b.store.Current().State(); !state.Leaving || len(state.Workloads) != 1 || b.wakes != wakes {
		t.Errorf("state %+v with %d wakes, want what was in force and none", state, b.wakes-wakes)
	}
}
