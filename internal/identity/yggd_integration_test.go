//go:build integration

package identity

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/pki"
	"github.com/project-flotta/flotta-agent/internal/transport"
	"github.com/project-flotta/flotta-agent/internal/transport/yggdrasil"
	"github.com/project-flotta/flotta-agent/internal/transport/yggdrasil/yggdtest"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

type nobody struct{}

func (nobody) Receive(context.Context, transport.Message) error { return nil }
func (nobody) Disconnected(context.Context)                     {}

// TestYggdTakesTheNewCredential enrols and registers through the real yggd and
// watches, from the server's side, which certificate yggd presents.
func TestYggdTakesTheNewCredential(t *testing.T) {
	t.Parallel()
	var server *yggdtest.Server
	var enrolments atomic.Int32
	server = yggdtest.NewServer(t, func(s yggdtest.Seen) yggdtest.Answer {
		switch {
		case s.Message.Directive == protocol.DirectiveEnrolment && enrolments.Add(1) == 1:
			return yggdtest.Answer{Status: http.StatusOK}
		case s.Message.Directive == protocol.DirectiveEnrolment:
			return yggdtest.Answer{Status: http.StatusAlreadyReported}
		case s.Message.Directive == protocol.DirectiveRegistration:
			return yggdtest.Answer{Status: http.StatusOK, Body: registration(t, server.CA, s.Message)}
		}
		return yggdtest.Answer{Status: http.StatusNotFound}
	})
	d := yggdtest.NewDaemon(t, yggdtest.Config{Server: server, ClientID: "dev1"})
	d.Start()
	log := slog.New(slog.DiscardHandler)
	w := must[*yggdrasil.Worker](t)(yggdrasil.New(yggdrasil.Config{SocketAddr: d.Socket, Log: log}))
	settings := must[transport.Settings](t)(w.Settings(t.Context()))
	device := must[*Device](t)(New(Config{Settings: settings, Sender: w, Log: log, Retry: 200 * time.Millisecond}))

	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- w.Run(ctx, nobody{}) }()
	go func() { done <- device.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		for range cap(done) {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		_ = w.Close()
	})
	polled := func(name string) func() bool {
		return func() bool {
			return len(server.Seen(func(s yggdtest.Seen) bool {
				return s.Peer == name && strings.HasSuffix(s.Path, "/data/dev1/in")
			})) > 0
		}
	}
	yggdtest.Eventually(t, time.Minute, "poll with the register certificate", polled(pki.RegisterName))
	<-device.Registered()
	yggdtest.Eventually(t, time.Minute, "poll with the device certificate", polled("dev1"))

	// The same yggd takes a second and a third one. The names are not the
	// device's, so that they can be told apart.
	s := &site{ca: server.CA, settings: settings}
	for _, name := range []string{"second", "third"} {
		if err := s.credential().replace(s.issue(t, name)); err != nil {
			t.Fatal(err)
		}
		yggdtest.Eventually(t, time.Minute, "poll with the "+name+" certificate", polled(name))
	}
	// And the next yggd starts with what is in place, and takes a fourth.
	d.Kill()
	d.Start()
	yggdtest.Eventually(t, time.Minute, "yggd up again", func() bool { return strings.Count(d.Log(), "worker registered") == 2 })
	if err := s.credential().replace(s.issue(t, "fourth")); err != nil {
		t.Fatal(err)
	}
	yggdtest.Eventually(t, time.Minute, "poll with the fourth certificate", polled("fourth"))
	for _, bad := range []string{"cannot create TLS config", "cannot parse certificate", "cannot update transporter"} {
		if strings.Contains(d.Log(), bad) {
			t.Errorf("yggd logged %q", bad)
		}
	}
}

// TestYggdTakesManyCredentials changes the credential without pause while yggd
// reads it again each time.
func TestYggdTakesManyCredentials(t *testing.T) {
	t.Parallel()
	server := yggdtest.NewServer(t, nil)
	d := yggdtest.NewDaemon(t, yggdtest.Config{Server: server, ClientID: "dev1"})
	d.Start()
	yggdtest.Eventually(t, time.Minute, "yggd up", func() bool { return strings.Contains(d.Log(), "listening on socket") })
	s := &site{ca: server.CA, settings: transport.Settings{CertFile: d.CertFile, KeyFile: d.KeyFile, CAFiles: []string{d.CAFile}}}
	var last string
	for n := range 10 {
		last = fmt.Sprint("dev-", n)
		reloads := strings.Count(d.Log(), "dispatcher HTTP client updated")
		if err := s.credential().replace(s.issue(t, last)); err != nil {
			t.Fatal(err)
		}
		yggdtest.Eventually(t, time.Minute, "reload", func() bool { return strings.Count(d.Log(), "dispatcher HTTP client updated") > reloads })
	}
	yggdtest.Eventually(t, time.Minute, "poll with the last certificate", func() bool {
		return len(server.Seen(func(s yggdtest.Seen) bool { return s.Peer == last })) > 0
	})
}

func registration(t *testing.T, ca *pki.Authority, m protocol.Message) protocol.MessageResponse {
	var info protocol.RegistrationInfo
	if err := json.Unmarshal(m.Content, &info); err != nil {
		t.Error(err)
	}
	request, err := pki.ParseRequest([]byte(info.CertificateRequest))
	if err != nil {
		t.Error(err)
		return protocol.MessageResponse{}
	}
	certPEM, err := ca.IssueDevice(request, pki.DeviceProfile{ID: "dev1", Namespace: "default"}, time.Now())
	if err != nil {
		t.Error(err)
	}
	content, _ := json.Marshal(protocol.RegistrationResponse{Certificate: string(certPEM)})
	return protocol.MessageResponse{Directive: m.Directive, MessageID: m.MessageID, Content: content}
}
