package s3

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/project-flotta/flotta-agent/internal/secret"
)

func TestEndpoint(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		config Config
		want   string
	}{
		{Config{Host: "store.example.com"}, "https://store.example.com:443/bucket"},
		{Config{Host: "store", Port: 9000, PlainHTTP: true}, "http://store:9000/bucket"},
		{Config{Host: "store", PlainHTTP: true}, "http://store:80/bucket"},
		{Config{Host: "2001:db8::1"}, "https://[2001:db8::1]:443/bucket"},
		{Config{Host: "s3.eu-west-1.amazonaws.com"}, "https://bucket.s3.eu-west-1.amazonaws.com:443"},
		{Config{Host: "S3.CN-North-1.AmazonAWS.com.cn."}, "https://bucket.S3.CN-North-1.AmazonAWS.com.cn.:443"},
		{Config{Host: "s3.eu-west-1.amazonaws.com", Bucket: "a.b"}, "https://s3.eu-west-1.amazonaws.com:443/a.b"},
		{Config{Host: "amazonaws.com.example.net"}, "https://amazonaws.com.example.net:443/bucket"},
		{Config{Host: "store", VirtualHost: true}, "https://bucket.store:443"},
		{Config{Host: "store", VirtualHost: true, PlainHTTP: true, Bucket: "a.b"}, "http://a.b.store:80"},
	} {
		if c.config.Bucket == "" {
			c.config.Bucket = "bucket"
		}
		at := newEndpoint(c.config.withDefaults())
		if got := at.base.String(); got != c.want {
			t.Errorf("%+v: %s, want %s", c.config, got, c.want)
		}
	}
	for _, host := range []string{"", "h/", "https://h", "h:443", "[::1]", "u@h", "h?x", "h\n", "::1%eth0/x"} {
		_, err := New(Config{Host: host, Bucket: "b", AccessKeyID: secret.New("k"), SecretAccessKey: secret.New("s")})
		if err == nil || !strings.Contains(err.Error(), "Host") {
			t.Errorf("host %q: %v", host, err)
		}
	}
}

// TestVirtualHostOnTheWire looks at what a store gets to see.
func TestVirtualHostOnTheWire(t *testing.T) {
	t.Parallel()
	type seen struct{ host, path, region string }
	got := make(chan seen, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		scope := strings.Split(r.Header.Get("Authorization"), "/")
		got <- seen{r.Host, r.URL.EscapedPath(), scope[2]}
	}))
	t.Cleanup(server.Close)
	at, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	port, _ := strconv.Atoi(at.Port())
	for _, c := range []struct {
		virtual bool
		region  string
		want    seen
	}{
		{true, "", seen{net.JoinHostPort("bucket.store.invalid", at.Port()), "/a%20b/%2B%25", "us-east-1"}},
		{false, "ignore", seen{net.JoinHostPort("store.invalid", at.Port()), "/bucket/a%20b/%2B%25", "ignore"}},
	} {
		client, err := New(Config{
			Host: "store.invalid", Port: port, PlainHTTP: true, VirtualHost: c.virtual, Bucket: "bucket", Region: c.region,
			AccessKeyID: secret.New("k"), SecretAccessKey: secret.New("s"),
			Wrap: func(next http.RoundTripper) http.RoundTripper { return elsewhere{next, at.Host} },
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(client.Close)
		if _, err := client.Head(t.Context(), "a b/+%"); err != nil {
			t.Fatal(err)
		}
		if s := <-got; s != c.want {
			t.Errorf("%+v, want %+v", s, c.want)
		}
	}
}

// elsewhere sends all requests to one address, whatever host they are for.
type elsewhere struct {
	http.RoundTripper

	address string
}

func (e elsewhere) RoundTrip(r *http.Request) (*http.Response, error) {
	to := r.Clone(r.Context())
	if to.Host == "" {
		to.Host = to.URL.Host
	}
	to.URL.Host = e.address
	return e.RoundTripper.RoundTrip(to)
}

func TestWrongChecksumOfAResponse(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		checksum string
		fails    bool
	}{"right": {crcOf("data"), false}, "wrong": {crcOf("atad"), true}, "none": {"", false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := fake(t, nil, func(w http.ResponseWriter, _ *http.Request) {
				if c.checksum != "" {
					w.Header().Set("x-amz-checksum-crc32", c.checksum)
				}
				_, _ = io.WriteString(w, "data")
			})
			_, body, err := client.Get(t.Context(), "k")
			if err != nil {
				t.Fatal(err)
			}
			defer body.Close()
			if _, err = io.ReadAll(body); (err != nil) != c.fails {
				t.Errorf("read: %v", err)
			}
		})
	}
}

func crcOf(data string) string {
	h := crc32.NewIEEE()
	_, _ = io.WriteString(h, data)
	return base64.StdEncoding.EncodeToString(h.Sum(nil))
}

func TestCertificateThatChanged(t *testing.T) {
	t.Parallel()
	client := fake(t, func(c *Config) { c.CABundle, c.Attempts = nil, 3 }, func(http.ResponseWriter, *http.Request) {})
	_, err := client.Head(t.Context(), "k")
	if !errors.Is(err, ErrCertificate) || !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

// TestUnreadableFileIsNotTheStoresFault takes a file that ends early.
func TestUnreadableFileIsNotTheStoresFault(t *testing.T) {
	t.Parallel()
	var requests atomic.Int64 // the server may be at it when the client has given up
	client := fake(t, func(c *Config) { c.Attempts = 3 }, func(_ http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		_, _ = io.Copy(io.Discard, r.Body)
	})
	u := upload("k", strings.Repeat("x", 1<<20))
	u.Body = bytes.NewReader(make([]byte, 1000))
	_, err := client.Put(t.Context(), u)
	if err == nil || errors.Is(err, ErrUnavailable) || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("put: %v", err)
	}
	client.Close()
	if n := requests.Load(); n > 1 {
		t.Errorf("%d requests", n)
	}
}

func TestMovedCountsWhatTravelsOnce(t *testing.T) {
	t.Parallel()
	attempts := 0
	client := fake(t, func(c *Config) { c.Attempts = 3 }, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if attempts++; attempts == 1 {
			refuse(w, 503, "SlowDown")
			return
		}
		w.Header().Set("ETag", `"e"`)
	})
	var moved int64
	u := upload("k", strings.Repeat("x", 100_000))
	u.Moved = func(n int64) { moved += n }
	if _, err := client.Put(t.Context(), u); err != nil || moved != 100_000 || attempts != 2 {
		t.Errorf("%d bytes in %d attempts (err %v)", moved, attempts, err)
	}
}

func TestRefusalsLaterAreNotTheChecksums(t *testing.T) {
	t.Parallel()
	n := 0
	client := fake(t, nil, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if n++; n > 1 {
			refuse(w, 400, "InvalidArgument")
		}
	})
	if _, err := client.Put(t.Context(), upload("a", "x")); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Put(t.Context(), upload("b", "x")); !errors.Is(err, ErrRefused) || n != 2 {
		t.Errorf("%d requests, err %v", n, err)
	}
}

func TestTooLargeForTheProtocol(t *testing.T) {
	t.Parallel()
	client := fake(t, nil, func(http.ResponseWriter, *http.Request) { t.Error("a request") })
	sum := sha256.Sum256(nil)
	_, err := client.Put(t.Context(), Upload{Key: "k", Size: maxObjectBytes + 1, SHA256: sum[:]})
	if !errors.Is(err, ErrRefused) {
		t.Errorf("put: %v", err)
	}
}
