package syslog

import (
	"strings"
	"testing"
)

func TestTarget(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ address, protocol, want, refused string }{
		{"logs.example.com", "", "tcp logs.example.com:514", ""},
		{" logs.example.com:601 ", "TCP", "tcp logs.example.com:601", ""},
		{"10.0.0.1", "udp", "udp 10.0.0.1:514", ""},
		{"logs.example.com", "tls", "tls logs.example.com:6514", ""},
		{"2001:db8::1", "tcp", "tcp [2001:db8::1]:514", ""},
		{"[2001:db8::1]", "tls", "tls [2001:db8::1]:6514", ""},
		{"[fe80::1%eth0]:514", "udp", "udp [fe80::1%eth0]:514", ""},
		{"", "tcp", "", "is empty"},
		{":514", "tcp", "", "no host"},
		{"a:0", "tcp", "", "no port"},
		{"a:70000", "tcp", "", "no port"},
		{"a:syslog", "tcp", "", "no port"},
		{"a:b:c", "tcp", "", "not host:port"},
		{"tcp://a:514", "tcp", "", "not host:port"},
		{"[a", "tcp", "", "no host"},
		{"a b", "tcp", "", "not host:port"},
		{"a", "relp", "", "none of tcp, udp, tls"},
	} {
		got, err := Settings{Address: c.address, Protocol: c.protocol}.Target()
		switch {
		case c.refused == "" && err != nil:
			t.Errorf("%q by %q: %v", c.address, c.protocol, err)
		case c.refused == "" && string(got.Protocol)+" "+got.Address != c.want:
			t.Errorf("%q by %q is %s %s, want %s", c.address, c.protocol, got.Protocol, got.Address, c.want)
		case c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)):
			t.Errorf("%q by %q: %v, want an error with %q", c.address, c.protocol, err, c.refused)
		}
	}
}

func TestCertificatesOfATarget(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		s       Settings
		refused string
	}{
		{Settings{Address: "a", Protocol: "tcp", CA: []byte("x")}, "set it to tls"},
		{Settings{Address: "a", Protocol: "tls", CA: []byte("secret")}, "no certificate"},
		{Settings{Address: "a", Protocol: "tls", Cert: []byte("secret")}, "do not fit"},
		{Settings{Address: "a", Protocol: "tls", Key: []byte("secret")}, "do not fit"},
	} {
		_, err := c.s.Target()
		if err == nil || !strings.Contains(err.Error(), c.refused) || strings.Contains(err.Error(), "secret") {
			t.Errorf("error %v, want one with %q", err, c.refused)
		}
	}
}

func FuzzTarget(f *testing.F) {
	for _, s := range []string{"a", "a:1", "[::1]:514", "::1", "[", "]:1", "a%b:1"} {
		f.Add(s, "tcp")
	}
	f.Fuzz(func(t *testing.T, address, protocol string) {
		got, err := Settings{Address: address, Protocol: protocol}.Target()
		if err != nil {
			return
		}
		again, err := Settings{Address: got.Address, Protocol: string(got.Protocol)}.Target()
		if err != nil || again.Address != got.Address {
			t.Errorf("%q became %q, and that %q: %v", address, got.Address, again.Address, err)
		}
	})
}
