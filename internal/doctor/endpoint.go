package doctor

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"time"
)

// ending is how long before its end a certificate is worth a word.
const ending = 14 * 24 * time.Hour

// endpoint looks whether a server can be found and connected to, and whether the
// two sides trust each other.
func (d *doctor) endpoint(ctx context.Context, e Endpoint) Finding {
	subject := e.Name + " " + e.Address
	host, _, err := net.SplitHostPort(e.Address)
	if err != nil {
		return fail(subject, "not an address: "+err.Error(), "correct it in the configuration of this device: it must be host:port")
	}
	if f, found := d.resolves(ctx, subject, host); !found {
		return f
	}
	if e.Network == "udp" {
		return ok(subject, "the name is known; nobody answers over UDP, so no more can be checked")
	}
	began := time.Now()
	conn, err := d.Dial(ctx, e.Network, e.Address)
	if err != nil {
		return unreachable(subject, err)
	}
	defer func() { _ = conn.Close() }() // nothing is left to be sent
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline) // without one the check as a whole is bounded
	}
	took := time.Since(began).Round(time.Millisecond)
	if !e.TLS {
		return ok(subject, fmt.Sprintf("connected in %s, without TLS", took))
	}
	return d.handshake(ctx, subject, host, e, conn)
}

// resolves looks for the addresses of a host; false: it has none.
func (d *doctor) resolves(ctx context.Context, subject, host string) (Finding, bool) {
	if _, err := netip.ParseAddr(host); err == nil {
		return Finding{}, true
	}
	addresses, err := d.Lookup(ctx, host)
	if err == nil && len(addresses) > 0 {
		return Finding{}, true
	}
	found := fmt.Sprintf("the name %s is not known", host)
	if err != nil {
		found += ": " + err.Error()
	}
	return fail(subject, found, "look at /etc/resolv.conf and `resolvectl status`; without a network that is to be expected, and the device goes on as it is"), false
}

// unreachable says why nobody could be connected to.
func unreachable(subject string, err error) Finding {
	advice := "look at `ip route` and at the firewalls on the way"
	switch timeout, ok := errors.AsType[net.Error](err); {
	case errors.Is(err, syscall.ECONNREFUSED):
		advice = "the machine is there and nobody listens at that port: is the service running, is the port right, does a firewall reject it?"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		advice = "there is no way to it: look at `ip address` and `ip route`; without a network that is to be expected, and the device goes on as it is"
	case ok && timeout.Timeout():
		advice = "nobody answers: a firewall that drops silently looks like this, and so does a wrong address"
	}
	return fail(subject, "cannot connect: "+err.Error(), advice)
}

// handshake looks whether the two sides trust each other.
func (d *doctor) handshake(ctx context.Context, subject, host string, e Endpoint, conn net.Conn) Finding {
	cfg, f, usable := d.tlsConfig(subject, host, e)
	if !usable {
		return f
	}
	client := tls.Client(conn, cfg)
	if err := client.HandshakeContext(ctx); err != nil {
		return distrust(subject, err)
	}
	state := client.ConnectionState()
	if e.Device {
		// Whether a server takes the device's certificate shows only when it
		// answers to something.
		if err := greet(client, host); err != nil {
			return distrust(subject, err)
		}
	} else if err := settled(client); err != nil {
		return distrust(subject, err)
	}
	leaf := state.PeerCertificates[0]
	found := fmt.Sprintf("%s, the server's certificate is good until %s", tls.VersionName(state.Version), leaf.NotAfter.UTC().Format(time.DateOnly))
	if leaf.NotAfter.Sub(d.now()) < ending {
		return warn(subject, found, "whoever runs the server has to renew its certificate")
	}
	return ok(subject, found)
}

// tlsConfig is how the agent would connect; false: it could not.
func (d *doctor) tlsConfig(subject, host string, e Endpoint) (*tls.Config, Finding, bool) {
	cfg := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12, Time: d.now}
	if !e.Device {
		if len(e.Roots) > 0 {
			cfg.RootCAs = x509.NewCertPool()
			if !cfg.RootCAs.AppendCertsFromPEM(e.Roots) {
				return nil, fail(subject, "the CA configured for it holds no certificate", "correct it in the configuration of this device: it must be PEM"), false
			}
		}
		if e.Pair != nil {
			pair, err := e.Pair()
			if err != nil {
				return nil, fail(subject, "the certificate configured for it is of no use: "+err.Error(), "correct it in the configuration of this device: certificate and key must be PEM, and belong together"), false
			}
			cfg.Certificates = []tls.Certificate{pair}
		}
		return cfg, Finding{}, true
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	for _, path := range d.Credential.CAFiles {
		text, err := d.text(path)
		if err != nil {
			return nil, fail(subject, "read CA: "+err.Error(), "restore the file, or correct its name: ca-root of yggdrasil, or server.ca-files of the agent"), false
		}
		pool.AppendCertsFromPEM([]byte(text))
	}
	cfg.RootCAs = pool
	if pair, err := d.pair(); err == nil { // or else the check of the certificate says why not
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, Finding{}, true
}

// objection is how long a server has to break off that does not like the
// certificate of its client, or wanted one: since TLS 1.3 it says so only after
// the handshake.
const objection = 300 * time.Millisecond

// settled returns an error if the server breaks off. That it says nothing, or
// something, is no error.
func settled(conn net.Conn) error {
	if err := conn.SetReadDeadline(time.Now().Add(objection)); err != nil {
		return err
	}
	_, err := conn.Read(make([]byte, 1))
	if remoteAlert(err) {
		return err
	}
	return nil
}

// greet makes a request that asks for nothing.
func greet(conn net.Conn, host string) error {
	request, err := http.NewRequest(http.MethodHead, "https://"+host+"/", nil) //nolint:noctx // the connection has a deadline
	if err != nil {
		return err
	}
	if err := request.Write(conn); err != nil {
		return err
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), request)
	if err != nil {
		return err
	}
	return response.Body.Close()
}

// distrust says why the two sides do not trust each other.
func distrust(subject string, err error) Finding {
	unknown, isUnknown := errors.AsType[x509.UnknownAuthorityError](err)
	wrong, isWrong := errors.AsType[x509.HostnameError](err)
	invalid, isInvalid := errors.AsType[x509.CertificateInvalidError](err)
	advice := "is it a TLS server that listens at that port?"
	switch {
	case isUnknown:
		advice = "the CA in the configuration of this device is not the one that signed the server's certificate"
		if unknown.Cert != nil {
			advice += ", which is of " + unknown.Cert.Issuer.String()
		}
		advice += ". A proxy that looks into TLS connections looks like this, too"
	case isWrong:
		advice = fmt.Sprintf("the certificate is for %s: use one of these names, or renew it with this one in it", strings.Join(wrong.Certificate.DNSNames, ", "))
	case isInvalid && invalid.Reason == x509.Expired:
		advice = "look at the clock first; if it is right, whoever runs the server has to renew its certificate"
	case remoteAlert(err):
		advice = "the server does not accept this device's certificate, or wants one: look at what is configured for it or at the check of the device's certificate, and whether the server trusts the CA that issued it"
	}
	return fail(subject, "no trust: "+err.Error(), advice)
}

// remoteAlert reports whether the other side broke off.
func remoteAlert(err error) bool {
	_, alert := errors.AsType[tls.AlertError](err)
	var op *net.OpError
	return alert || errors.As(err, &op) && op.Op == "remote error"
}

func (d *doctor) now() time.Time {
	c, _ := d.Clock() // the time is there also when its quality is not
	return c.Now
}

// pair is the device's credential.
func (d *doctor) pair() (tls.Certificate, error) {
	if d.Credential.CertFile == "" || d.Credential.KeyFile == "" {
		return tls.Certificate{}, fs.ErrNotExist
	}
	certificate, err := d.text(d.Credential.CertFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := d.text(d.Credential.KeyFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair([]byte(certificate), []byte(key))
}
