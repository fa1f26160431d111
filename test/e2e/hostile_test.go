//go:build device

package e2e

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/pki"
	"github.com/project-flotta/flotta-agent/test/site"
)

// hostileKeys are what no honest store holds below to-device/: their paths lead
// out of the folder that they are downloaded to, or are none.
var hostileKeys = []string{
	"to-device/../../../../../../etc/flotta-was-here",
	"to-device/../flotta-was-here",
	"to-device//etc/flotta-was-here",
	"to-device/a/./flotta-was-here",
	"to-device/" + strings.Repeat("x", 300),
}

// hostileStore is an S3 store that lists such keys. The real servers refuse to
// store them, so a small one has to play the attacker.
func hostileStore(t *testing.T) (ca []byte, port int) {
	t.Helper()
	authority, err := pki.NewAuthority(time.Now())
	must(t, err)
	pair, err := authority.IssueServer(pki.ServerProfile{DNSNames: []string{site.S3Name}}, time.Now())
	must(t, err)
	cert, err := tls.X509KeyPair(pair.CertPEM, pair.KeyPEM)
	must(t, err)
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "0.0.0.0:0")
	must(t, err)
	server := &http.Server{
		Handler: http.HandlerFunc(serveHostile), ReadHeaderTimeout: 10 * time.Second,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
	}
	go func() { _ = server.ServeTLS(l, "", "") }()
	t.Cleanup(func() { _ = server.Close() })
	addr, _ := l.Addr().(*net.TCPAddr)
	return authority.CertificatePEM(), addr.Port
}

func serveHostile(w http.ResponseWriter, r *http.Request) {
	const etag = `"d41d8cd98f00b204e9800998ecf8427e"`
	if r.URL.Query().Get("list-type") != "2" {
		w.Header().Set("ETag", etag)
		_, _ = io.WriteString(w, "x")
		return
	}
	w.Header().Set("Content-Type", "application/xml")
	_, _ = io.WriteString(w, `<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated>`)
	for _, key := range append([]string{"to-device/honest"}, hostileKeys...) {
		_, _ = fmt.Fprintf(w, `<Contents><Key>%s</Key><ETag>&quot;d41d8cd98f00b204e9800998ecf8427e&quot;</ETag>`+
			`<Size>1</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>`, key)
	}
	_, _ = io.WriteString(w, `</ListBucketResult>`)
}

func TestKeysThatLeadOutOfTheVolumeAreRefused(t *testing.T) {
	t.Parallel()
	ca, port := hostileStore(t)
	r := newRig(t, site.EdgeConfig{})
	r.save("storage-configmap.yaml", fmt.Sprintf(`apiVersion: v1
kind: ConfigMap
metadata: {name: storage}
data: {BUCKET_NAME: b, BUCKET_HOST: %s, BUCKET_PORT: "%d", BUCKET_REGION: us-east-1}
`, site.S3Name, port))
	r.save("storage-secret.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: storage}\nstringData:\n"+
		"  AWS_ACCESS_KEY_ID: a\n  AWS_SECRET_ACCESS_KEY: b\n  tls.crt: |\n"+indent(string(ca), 4))
	r.save("w.yaml", r.workload("courier", "args: [sleep]", "data: {ingress: [{source: to-device, target: in}]}"))
	r.arrives("in/honest", []byte("x"))
	for _, key := range hostileKeys[:4] {
		r.until("the key "+key+" is reported", func() error {
			if events := r.site.Events(r.edge.ID()); !strings.Contains(events, key) {
				return fmt.Errorf("events: %s", events)
			}
			return nil
		})
	}
	out, err := r.edge.Run(r.ctx, "find", "/etc", "/var/local", "/var/home", "-name", "flotta-was-here")
	if out.Stdout != "" || err != nil {
		t.Errorf("a hostile key was downloaded: %s %v", out.Stdout, err)
	}
	entries, err := os.ReadDir(r.export("in"))
	must(t, err)
	if len(entries) != 1 {
		t.Errorf("the target holds %v, want the honest file alone", entries)
	}
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	const state = "/var/local/yggdrasil"
	r := newRig(t, site.EdgeConfig{Limits: map[string]int64{state: 64 << 20}})
	r.save("w.yaml", r.pod("steady", "18080", "before"))
	r.answers("18080", "/env?name=ROUND", "before")
	r.phase("steady", "Running")
	id := r.running("steady", "app")

	must(t, r.edge.FillDisk(r.ctx, state))
	r.save("w.yaml", r.pod("steady", "18080", "after"))
	hold(t, 12*time.Second, func() error { // two polls of yggd
		now, err := r.edge.Container(r.ctx, "steady", "app")
		if err == nil && now != id {
			err = fmt.Errorf("the workload was touched with a full disk")
		}
		return err
	})
	must(t, r.edge.Kill(r.ctx, "KILL", "^/usr/bin/flotta-agent"))
	must(t, r.edge.FreeDisk(r.ctx, state))
	r.answers("18080", "/env?name=ROUND", "after")
	r.phase("steady", "Running")
}
