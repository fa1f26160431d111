package doctor

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"
)

// registerName is what the certificate of a device that was never registered is
// for.
const registerName = "register"

// certificate looks at what the device proves with who it is.
func (d *doctor) certificate(context.Context) Finding {
	c := d.Credential
	if c.CertFile == "" {
		return fail("", "no certificate is configured", "set cert-file and key-file where the connection is configured")
	}
	subject := c.CertFile
	pair, err := d.pair()
	switch {
	case errors.Is(err, fs.ErrPermission):
		return warn(subject, "cannot be read: "+err.Error(), "run this as root")
	case err != nil:
		return fail(subject, "certificate and key are of no use: "+err.Error(), "put a registration certificate and its key there and restart "+d.Service+": the device registers anew")
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return fail(subject, err.Error(), "put a registration certificate and its key there and restart "+d.Service+": the device registers anew")
	}
	if f, open := d.openKey(subject); open {
		return f
	}
	return d.validity(subject, leaf)
}

func (d *doctor) validity(subject string, leaf *x509.Certificate) Finding {
	now, until := d.now(), leaf.NotAfter.UTC().Format(time.DateTime)+" UTC"
	found := fmt.Sprintf("%q, until %s", leaf.Subject.CommonName, until)
	switch left := leaf.NotAfter.Sub(now); {
	case now.Before(leaf.NotBefore):
		return fail(subject, found+", not yet valid", "the clock is wrong: "+setClock)
	case left <= 0 && strings.EqualFold(leaf.Subject.CommonName, registerName):
		return fail(subject, found+", expired", "put a new registration certificate and its key there and restart "+d.Service)
	case left <= 0:
		return fail(subject, found+", expired", "look at the clock first; if it is right, the device renews with the expired certificate where the control plane allows that, or else needs a new registration certificate")
	case strings.EqualFold(leaf.Subject.CommonName, registerName):
		return warn(subject, found+": the device is not registered yet", "approve it in the control plane; `journalctl -u "+d.Service+"` says what it waits for")
	case !d.issued(leaf):
		return warn(subject, found+", of an issuer that is none of the configured CAs", "compare the configured CAs (ca-root of yggdrasil, server.ca-files of the agent) with the CA of the control plane")
	case left < leaf.NotAfter.Sub(leaf.NotBefore)/5:
		return warn(subject, found+", should have been renewed by now", "`flotta-agent status` says why renewal fails; the device has to reach the control plane before the end")
	}
	return ok(subject, found)
}

// openKey looks whether others can read the key; true: they can.
func (d *doctor) openKey(subject string) (Finding, bool) {
	info, err := fs.Stat(d.Files, strings.TrimPrefix(d.Credential.KeyFile, "/"))
	if err != nil || info.Mode().Perm()&0o007 == 0 {
		return Finding{}, false
	}
	return warn(subject, fmt.Sprintf("everybody can read the key %s", d.Credential.KeyFile), "chmod 600 "+d.Credential.KeyFile), true
}

// issued reports whether the certificate comes from one of the configured CAs, or
// there are none to compare with.
func (d *doctor) issued(leaf *x509.Certificate) bool {
	roots, some := x509.NewCertPool(), false
	for _, path := range d.Credential.CAFiles {
		if text, err := d.text(path); err == nil && roots.AppendCertsFromPEM([]byte(text)) {
			some = true
		}
	}
	if !some {
		return true
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: d.now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err == nil
}
