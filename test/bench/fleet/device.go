package fleet

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/project-flotta/flotta-agent/internal/pki"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Device is a simulated device. It is used by one goroutine at a time.
type Device struct {
	ID        string
	Namespace string
	Number    int

	cert tls.Certificate
	conn *Conn
}

// NewDevice returns the device of that number, which has no certificate yet.
func NewDevice(prefix, namespace string, number int) *Device {
	return &Device{ID: fmt.Sprintf("%s-%05d", prefix, number), Namespace: namespace, Number: number}
}

// Path is an endpoint of the device, such as "data" and "in".
func (d *Device) Path(channel, direction string) string {
	return protocol.BasePath + "/" + channel + "/" + d.ID + "/" + direction
}

// Message returns a data message as a device sends it.
func Message(directive string, content any) ([]byte, error) {
	raw, err := json.Marshal(content)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", directive, err)
	}
	sent := protocol.NewTime(time.Now())
	return json.Marshal(protocol.Message{
		Type: protocol.TypeData, MessageID: "3d4a0a7e-5f3b-4c62-9a55-6d5e8d0a4f11", Version: protocol.MessageVersion,
		Sent: &sent, Directive: directive, Content: raw,
	})
}

// enrolPoll is how often a device asks whether it was approved: much more often
// than a real one, because the time until then is part of what is measured.
const enrolPoll = 25 * time.Millisecond

// Join lets a device in as a factory-new one: with the register certificate it
// enrols, asks until it is approved, and registers. It keeps the certificate and
// the connection is closed.
func (d *Device) Join(ctx context.Context, t Target, register tls.Certificate, hardware *protocol.HardwareInfo) (err error) {
	enrolment, err := Message(protocol.DirectiveEnrolment, protocol.EnrolmentInfo{
		TargetNamespace: &d.Namespace, Features: &protocol.DeviceFeatures{ModelName: "simulated", Hardware: hardware},
	})
	if err != nil {
		return err
	}
	key, request, err := newKey(d.ID)
	if err != nil {
		return err
	}
	registration, err := Message(protocol.DirectiveRegistration, protocol.RegistrationInfo{CertificateRequest: string(request), Hardware: hardware})
	if err != nil {
		return err
	}
	conn, err := Dial(ctx, t, d.Number, register)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	enrol := NewRequest(t.Protocol, t.ServerName, d.Path("data", "out"), "", enrolment)
	for {
		status, _, err := conn.Do(enrol)
		switch {
		case err != nil:
			return fmt.Errorf("enrol: %w", err)
		case status == http.StatusOK:
			time.Sleep(enrolPoll)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			continue
		case status != http.StatusAlreadyReported:
			return fmt.Errorf("enrol: status %d", status)
		}
		break
	}
	status, answer, err := conn.Do(NewRequest(t.Protocol, t.ServerName, d.Path("data", "out"), "", registration))
	if err != nil || status != http.StatusOK {
		return errors.Join(fmt.Errorf("register: status %d", status), err)
	}
	return d.keep(answer, key)
}

func newKey(id string) (*ecdsa.PrivateKey, []byte, error) {
	key, err := pki.NewKey()
	if err != nil {
		return nil, nil, err
	}
	request, err := pki.CertificateRequest(key, id)
	return key, request, err
}

// keep reads the certificate out of the answer to a registration.
func (d *Device) keep(answer []byte, key crypto.PrivateKey) error {
	var m protocol.MessageResponse
	if err := json.Unmarshal(answer, &m); err != nil {
		return fmt.Errorf("decode registration: %w", err)
	}
	var content protocol.RegistrationResponse
	if err := json.Unmarshal(m.Content, &content); err != nil {
		return fmt.Errorf("decode registration: %w", err)
	}
	return d.adopt([]byte(content.Certificate), key)
}

func (d *Device) adopt(certPEM []byte, key crypto.PrivateKey) error {
	block, _ := pem.Decode(certPEM)
	if block == nil {
		return errors.New("registration without a certificate")
	}
	d.cert = tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key}
	return nil
}

// Certify gives the device a certificate without asking the server, and returns
// the fingerprint of its key.
func (d *Device) Certify(authority *pki.Authority) (fingerprint string, err error) {
	key, text, err := newKey(d.ID)
	if err != nil {
		return "", err
	}
	request, err := pki.ParseRequest(text)
	if err != nil {
		return "", err
	}
	certPEM, err := authority.IssueDevice(request, pki.DeviceProfile{ID: d.ID, Namespace: d.Namespace}, time.Now())
	if err != nil {
		return "", err
	}
	return request.Fingerprint(), d.adopt(certPEM, key)
}

// Connect opens the device's own connection, if it has none.
func (d *Device) Connect(ctx context.Context, t Target) (err error) {
	if d.conn == nil {
		d.conn, err = Dial(ctx, t, d.Number, d.cert)
	}
	return err
}

// Close ends the device's connection.
func (d *Device) Close() {
	if d.conn != nil {
		_ = d.conn.Close() // nothing is under way
		d.conn = nil
	}
}

// Do sends a request and demands a status. The body is good until the next call.
func (d *Device) Do(r Request, want int) ([]byte, error) {
	status, body, err := d.conn.Do(r)
	if err == nil && status != want {
		err = fmt.Errorf("status %d %.200s, want %d", status, body, want)
	}
	return body, err
}
