//go:build integration

package logs

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
	"github.com/project-flotta/flotta-agent/test/testenv"
)

// rsyslog is a real receiver: it writes a JSON object for each message.
type rsyslog struct {
	t    *testing.T
	dir  string
	port int
	cmd  *exec.Cmd

	ca, cert, key, clientCert, clientKey []byte
}

// received is what rsyslog understood of a message.
type received struct {
	Pri      string `json:"pri"`
	Time     string `json:"time"`
	Host     string `json:"host"`
	App      string `json:"app"`
	Proc     string `json:"proc"`
	MsgID    string `json:"msgid"`
	SD       string `json:"sd"`
	Text     string `json:"text"`
	Protocol string `json:"protocol"`
}

const rsyslogHead = `
global(workDirectory="%[1]s" maxMessageSize="8k")
module(load="builtin:omfile")
template(name="json" type="list" option.jsonf="on") {
  property(outname="pri" name="pri" format="jsonf")
  property(outname="time" name="timereported" dateFormat="rfc3339" format="jsonf")
  property(outname="host" name="hostname" format="jsonf")
  property(outname="app" name="app-name" format="jsonf")
  property(outname="proc" name="procid" format="jsonf")
  property(outname="msgid" name="msgid" format="jsonf")
  property(outname="sd" name="structured-data" format="jsonf")
  property(outname="text" name="msg" format="jsonf")
  property(outname="protocol" name="protocol-version" format="jsonf")
}
*.* action(type="omfile" file="%[1]s/out" template="json" asyncWriting="off")
`

// newRsyslog prepares a receiver of one protocol; start starts it.
func newRsyslog(t *testing.T, kind string) *rsyslog {
	t.Helper()
	if _, err := exec.LookPath("rsyslogd"); err != nil {
		t.Fatal("rsyslogd is missing: install rsyslog and rsyslog-openssl (make setup)")
	}
	r := &rsyslog{t: t, dir: t.TempDir()}
	var err error
	if r.port, err = testenv.FreePort("127.0.0.1"); err != nil {
		t.Fatal(err)
	}
	conf := fmt.Sprintf(rsyslogHead, r.dir)
	switch kind {
	case "tcp":
		conf += fmt.Sprintf("module(load=\"imptcp\")\ninput(type=\"imptcp\" address=\"127.0.0.1\" port=\"%d\")\n", r.port)
	case "udp":
		conf += fmt.Sprintf("module(load=\"imudp\")\ninput(type=\"imudp\" address=\"127.0.0.1\" port=\"%d\")\n", r.port)
	case "tls":
		r.certificates()
		conf += fmt.Sprintf("global(defaultNetstreamDriverCAFile=%q defaultNetstreamDriverCertFile=%q defaultNetstreamDriverKeyFile=%q)\n",
			r.file("ca.pem"), r.file("cert.pem"), r.file("key.pem"))
		conf += fmt.Sprintf("module(load=\"imtcp\" streamDriver.name=\"ossl\" streamDriver.mode=\"1\" streamDriver.authMode=\"x509/certvalid\")\n"+
			"input(type=\"imtcp\" address=\"127.0.0.1\" port=\"%d\")\n", r.port)
	}
	if err := os.WriteFile(r.file("conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.kill()
		if said, _ := os.ReadFile(r.file("log")); t.Failed() && len(said) > 0 {
			t.Logf("rsyslogd says:\n%s", said)
		}
	})
	return r
}

func (r *rsyslog) file(name string) string { return filepath.Join(r.dir, name) }

func (r *rsyslog) address() string { return fmt.Sprintf("127.0.0.1:%d", r.port) }

func (r *rsyslog) start() {
	r.t.Helper()
	out, err := os.Create(r.file("log"))
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	r.cmd = exec.Command("rsyslogd", "-n", "-i", r.file("pid"), "-f", r.file("conf"))
	r.cmd.Stdout, r.cmd.Stderr = out, out
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	eventually(r.t, "rsyslogd writes its pid", func() bool {
		_, err := os.Stat(r.file("pid"))
		return err == nil
	})
}

// kill ends it at once, as a crash does.
func (r *rsyslog) kill() {
	if r.cmd == nil {
		return
	}
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait()
	r.cmd = nil
	_ = os.Remove(r.file("pid"))
}

// messages returns what arrived.
func (r *rsyslog) messages() []received {
	r.t.Helper()
	raw, err := os.ReadFile(r.file("out"))
	if err != nil && !os.IsNotExist(err) {
		r.t.Fatal(err)
	}
	var all []received
	for line := range bytes.Lines(raw) {
		if line[len(line)-1] != '\n' {
			break // being written, or cut by a kill
		}
		var m received
		if err := json.Unmarshal(line, &m); err != nil {
			// rsyslog was killed in the middle of this one and wrote on behind it.
			continue
		}
		if strings.HasPrefix(m.SD, "[flotta@") {
			all = append(all, m)
		}
	}
	return all
}

func (r *rsyslog) target(kind string) protocol.LogsCollectionInformation {
	c := &protocol.SyslogConfig{Address: r.address(), Protocol: kind}
	if kind == "tls" {
		c.CACert, c.ClientCert, c.ClientKey = string(r.ca), string(r.clientCert), string(r.clientKey)
	}
	return protocol.LogsCollectionInformation{Kind: "syslog", SyslogConfig: c}
}

// certificates makes an authority, and certificates of the receiver and of a
// device.
func (r *rsyslog) certificates() {
	r.t.Helper()
	caKey, caTemplate := newKey(r.t), template("authority", 1)
	caTemplate.IsCA, caTemplate.BasicConstraintsValid, caTemplate.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, caTemplate, caTemplate, caKey.Public(), caKey)
	if err != nil {
		r.t.Fatal(err)
	}
	r.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	issue := func(name string, serial int64, usage x509.ExtKeyUsage) (cert, key []byte) {
		k, c := newKey(r.t), template(name, serial)
		c.IPAddresses, c.ExtKeyUsage, c.KeyUsage = []net.IP{net.IPv4(127, 0, 0, 1)}, []x509.ExtKeyUsage{usage}, x509.KeyUsageDigitalSignature
		der, err := x509.CreateCertificate(rand.Reader, c, caTemplate, k.Public(), caKey)
		if err != nil {
			r.t.Fatal(err)
		}
		raw, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			r.t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
	}
	r.cert, r.key = issue("receiver", 2, x509.ExtKeyUsageServerAuth)
	r.clientCert, r.clientKey = issue("device", 3, x509.ExtKeyUsageClientAuth)
	for name, content := range map[string][]byte{"ca.pem": r.ca, "cert.pem": r.cert, "key.pem": r.key} {
		if err := os.WriteFile(r.file(name), content, 0o600); err != nil {
			r.t.Fatal(err)
		}
	}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func template(name string, serial int64) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
}
