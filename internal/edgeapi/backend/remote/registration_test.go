package remote

import (
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
)

func TestWhoMayRegister(t *testing.T) {
	t.Parallel()
	tests := []struct {
		answer    string
		own       bool
		namespace string
		is        error
	}{
		{answer: `{"status":"unknown"}`, namespace: "site"},
		{answer: `{"status":"unknown","namespace":"other"}`, namespace: "other"},
		{answer: `{"status":"unknown","namespace":"other"}`, own: true, namespace: "other"},
		{answer: `{"status":"registered"}`, is: edgeapi.ErrForbidden},
		{answer: `{"status":"registered","namespace":"site"}`, own: true, namespace: "site"},
		{answer: `{"status":"unregistered"}`, is: edgeapi.ErrNotApproved},
		{answer: `{"status":"unregistered"}`, own: true, is: edgeapi.ErrNotApproved},
		{answer: `{"status":"unregistered","namespace":"other"}`, namespace: "other"},
		{answer: `{"status":"whatever"}`, is: edgeapi.ErrForbidden},
	}
	for _, tt := range tests {
		b := serve(t, always(200, tt.answer)).backend(t)
		d, err := b.RegistrationTarget(t.Context(), claim("key", tt.own))
		if !errors.Is(err, tt.is) || err == nil && d != (edgeapi.Device{Namespace: tt.namespace, ID: "dev1"}) {
			t.Errorf("%s, own %v: %v, %v", tt.answer, tt.own, d, err)
		}
	}
	_, err := serve(t, always(404, ``)).backend(t).RegistrationTarget(t.Context(), claim("key", false))
	if !errors.Is(err, edgeapi.ErrNotFound) {
		t.Errorf("404 gives %v", err)
	}
}

// registry is a service that knows whether the device is registered, and does
// not know with what.
type registry struct {
	mu         sync.Mutex
	registered bool
	put        int // status of the answer to PUT; 200 when zero
	lose       bool
}

func (g *registry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case r.Method == http.MethodGet && g.registered:
		says(w, 200, `{"status":"registered","namespace":"site"}`)
	case r.Method == http.MethodGet:
		says(w, 200, `{"status":"unknown","namespace":"site"}`)
	case g.put != 0:
		says(w, g.put, `{"message":"no"}`)
	default:
		g.registered = true
		if g.lose {
			panic(http.ErrAbortHandler)
		}
	}
}

func (g *registry) set(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
}

// TestRegisterCertificateCannotTakeOver: in flotta v0.2 it could, for every device.
func TestRegisterCertificateCannotTakeOver(t *testing.T) {
	t.Parallel()
	g := &registry{}
	s := serve(t, g.ServeHTTP)
	b := s.backend(t)
	must(t, b.CompleteRegistration(t.Context(), claim("first", false)))
	if err := b.CompleteRegistration(t.Context(), claim("thief", false)); !errors.Is(err, edgeapi.ErrForbidden) {
		t.Errorf("another key registers the device again: %v", err)
	}
	// The answer was lost on the way to the device, which asks again.
	must(t, b.CompleteRegistration(t.Context(), claim("first", false)))
	// Another process does not remember, and refuses.
	if err := s.backend(t).CompleteRegistration(t.Context(), claim("first", false)); !errors.Is(err, edgeapi.ErrForbidden) {
		t.Errorf("a process that certified nothing: %v", err)
	}
	// The device's own certificate renews, and then its new key is the one.
	must(t, b.CompleteRegistration(t.Context(), claim("second", true)))
	if err := b.CompleteRegistration(t.Context(), claim("first", false)); !errors.Is(err, edgeapi.ErrForbidden) {
		t.Errorf("the key before: %v", err)
	}
}

// TestLostAnswerToTheService: the service registered the device, and we never
// heard of it.
func TestLostAnswerOfTheService(t *testing.T) {
	t.Parallel()
	g := &registry{lose: true}
	b := serve(t, g.ServeHTTP).backend(t)
	if err := b.CompleteRegistration(t.Context(), claim("first", false)); err == nil {
		t.Fatal("no error")
	}
	g.set(func() { g.lose = false })
	if err := b.CompleteRegistration(t.Context(), claim("thief", false)); !errors.Is(err, edgeapi.ErrForbidden) {
		t.Errorf("another key: %v", err)
	}
	must(t, b.CompleteRegistration(t.Context(), claim("first", false)))
}

func TestRefusedRegistrationIsNotRemembered(t *testing.T) {
	t.Parallel()
	g := &registry{put: http.StatusConflict}
	b := serve(t, g.ServeHTTP).backend(t)
	if err := b.CompleteRegistration(t.Context(), claim("thief", false)); !errors.Is(err, edgeapi.ErrForbidden) {
		t.Errorf("409 gives %v", err)
	}
	g.set(func() { g.put, g.registered = 0, true }) // by another replica
	if err := b.CompleteRegistration(t.Context(), claim("thief", false)); !errors.Is(err, edgeapi.ErrForbidden) {
		t.Errorf("the refused key: %v", err)
	}
	g.set(func() { g.put, g.registered = http.StatusNotFound, false })
	if err := b.CompleteRegistration(t.Context(), claim("thief", false)); !errors.Is(err, edgeapi.ErrNotFound) {
		t.Errorf("404 gives %v", err)
	}
}

func TestTwoRegisterAtOnce(t *testing.T) {
	t.Parallel()
	b := serve(t, (&registry{}).ServeHTTP).backend(t)
	errs := make(chan error, 8)
	var wg sync.WaitGroup
	for i := range cap(errs) {
		wg.Go(func() { errs <- b.CompleteRegistration(t.Context(), claim(strings.Repeat("k", i+1), false)) })
	}
	wg.Wait()
	close(errs)
	won := 0
	for err := range errs {
		if err == nil {
			won++
		} else if !errors.Is(err, edgeapi.ErrForbidden) {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d keys were certified for one device, want 1", won)
	}
}

func TestDeviceMovesDuringRegistration(t *testing.T) {
	t.Parallel()
	b := serve(t, always(200, `{"status":"unknown","namespace":"elsewhere"}`)).backend(t)
	if err := b.CompleteRegistration(t.Context(), claim("key", false)); err == nil {
		t.Error("a certificate of the namespace before was completed")
	}
}
