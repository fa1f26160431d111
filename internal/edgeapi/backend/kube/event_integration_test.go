//go:build integration

package kube

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Events of a device are Events, once, also when the report comes twice and to
// two replicas, and whatever is in them.
func TestEvents(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	other := r.run()
	d := r.device("dev1", nil, other)
	h := report("")
	h.Events = []protocol.EventInfo{
		{Type: "warn", Reason: "Failed", Message: "it\x1b[31m \xff broke"},
		{Type: "info", Reason: "Started", Message: strings.Repeat("é", 2000)},
		{Type: "whatever", Reason: strings.Repeat("r", 300)},
		{},
	}
	// Not across the change of a minute, which is part of a name.
	if left := time.Until(time.Now().Truncate(time.Minute).Add(time.Minute)); left < 5*time.Second {
		time.Sleep(left)
	}
	for _, b := range []*Backend{r.backend, r.backend, other} {
		if err := b.Heartbeat(t.Context(), d, h); err != nil {
			t.Fatal(err)
		}
	}
	list := r.events(d)
	if len(list) != len(h.Events) {
		t.Fatalf("%d events, want %d", len(list), len(h.Events))
	}
	types := map[string]int{}
	for _, e := range list {
		types[e.Type]++
		if e.InvolvedObject.Kind != "EdgeDevice" || e.InvolvedObject.UID != r.get(d).UID || e.Source.Component != "flotta-edge-api" {
			t.Errorf("event %+v", e)
		}
		if strings.ContainsAny(e.Message, "\x1b\n") || len(e.Message) > 1024 || len(e.Reason) > 128 {
			t.Errorf("reason %q, message %q", e.Reason, e.Message)
		}
	}
	if types[corev1.EventTypeWarning] != 1 || types[corev1.EventTypeNormal] != 3 {
		t.Errorf("types %v", types)
	}
	h.Events = make([]protocol.EventInfo, 150)
	for i := range h.Events {
		h.Events[i] = protocol.EventInfo{Reason: "Many", Message: fmt.Sprint(i)}
	}
	r.heartbeat(d, h)
	if n := len(r.events(d)); n != 4+maxEvents+1 {
		t.Errorf("%d events", n)
	}
}
