package edgeapi

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/project-flotta/flotta-agent/internal/pki"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// identity is who a verified leaf certificate says is asking.
type identity struct {
	register bool   // holder of a register certificate: nobody in particular
	id       string // of the device, lower case; empty for register
	ns       string // of the device; empty for register
	key      string // fingerprint of the certificate's key; empty for register
	expired  bool   // the certificate was good once
}

// identify verifies the leaf of a connection and reads who it names. The other
// certificates that the client sent are not looked at: they are public, so they
// prove nothing about whoever holds the leaf's key.
func identify(state *tls.ConnectionState, authority *pki.Authority, now time.Time) (identity, error) {
	if state == nil || len(state.PeerCertificates) == 0 {
		return identity{}, errors.New("no client certificate")
	}
	leaf := state.PeerCertificates[0]
	err := authority.Verify(leaf, x509.ExtKeyUsageClientAuth, now)
	expired := errors.Is(err, pki.ErrExpired)
	if err != nil && !expired {
		return identity{}, err
	}
	who := identity{id: strings.ToLower(leaf.Subject.CommonName), key: pki.Fingerprint(leaf), expired: expired}
	if len(leaf.Subject.OrganizationalUnit) > 0 {
		who.ns = leaf.Subject.OrganizationalUnit[0]
	}
	switch {
	case who.id == pki.RegisterName && who.ns == "":
		return identity{register: true, expired: expired}, nil
	case who.id == pki.RegisterName:
		// A device of that name would pass for any device that has none yet.
		return identity{}, fmt.Errorf("device certificate with the reserved name %q", pki.RegisterName)
	case who.id == "" || who.ns == "":
		return identity{}, errors.New("certificate names no device")
	}
	return who, nil
}

// owns reports whether this is the device's own certificate. Identifiers are
// compared without case, as flotta v0.2 does.
func (i identity) owns(id string) bool { return !i.register && i.id == strings.ToLower(id) }

// mayPoll is the rule of the endpoints that only a device itself may use. It
// returns the status to refuse with, or 0.
func (i identity) mayPoll(id string) int {
	switch {
	case i.register || i.expired:
		return http.StatusUnauthorized
	case !i.owns(id):
		return http.StatusForbidden
	}
	return 0
}

// maySend is the rule of data/out, by directive. It returns the status to refuse
// with, or 0.
func (i identity) maySend(directive, id string) int {
	switch {
	case directive == protocol.DirectiveRegistration && i.owns(id):
		// An expired certificate still proves who its holder was told to be: it
		// renews itself, or a device that was switched off for a month would be
		// lost for good.
		return 0
	case i.expired:
		return http.StatusUnauthorized
	case i.register && (directive == protocol.DirectiveEnrolment || directive == protocol.DirectiveRegistration):
		return 0
	case !i.owns(id):
		return http.StatusForbidden
	}
	return 0
}

// checkDeviceID returns what makes id impossible as the name of a device.
func checkDeviceID(id string) error {
	if id == pki.RegisterName {
		return fmt.Errorf("device identifier %q is reserved", id)
	}
	// 63, because the identifier is also the value of labels.
	if len(id) > validation.LabelValueMaxLength {
		return fmt.Errorf("device identifier of %d bytes, at most %d are possible", len(id), validation.LabelValueMaxLength)
	}
	if msgs := validation.IsDNS1123Subdomain(id); len(msgs) > 0 {
		return fmt.Errorf("device identifier %q: %s", id, msgs[0])
	}
	return nil
}
