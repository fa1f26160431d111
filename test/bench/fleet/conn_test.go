package fleet

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The generator understands what Go's own server says, whatever the status and
// the size, and is understood.
func TestConnSpeaksHTTP(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		status, err := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
		if err != nil {
			t.Error(err)
		}
		w.WriteHeader(status)
		if status != http.StatusNotModified {
			_, _ = fmt.Fprintf(w, "%s %s %s %d ", r.Method, r.Host, r.Header.Get("If-None-Match"), len(body))
			_, _ = w.Write(bytes.Repeat([]byte("x"), 100*len(body)))
		}
	}))
	server.EnableHTTP2 = true
	server.TLS = &tls.Config{NextProtos: []string{string(HTTP2), string(HTTP1)}, MinVersion: tls.VersionTLS13}
	server.StartTLS()
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	for _, p := range []Protocol{HTTP1, HTTP2} {
		c, err := Dial(t.Context(), Target{
			Addresses: []string{server.Listener.Addr().String()}, ServerName: "example.com", Roots: roots, Protocol: p,
		}, 7, tls.Certificate{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		for round := range 3 {
			for _, status := range []int{200, 208, 304, 400, 401, 403, 404, 409, 422, 500, 503, 567} {
				for _, size := range []int{-1, 0, 1, 126, 127, 5000, maxBody} {
					var body []byte
					method := "GET"
					if size >= 0 {
						body, method = make([]byte, size), "POST"
					}
					etag := `"` + strings.Repeat("v", max(size, 0)%300) + `"`
					got, answer, err := c.Do(NewRequest(p, "example.com", fmt.Sprintf("/%d", status), etag, body))
					if err != nil {
						t.Fatalf("%s, status %d, body of %d, round %d: %v", p, status, size, round, err)
					}
					want := fmt.Sprintf("%s example.com %s %d ", method, etag, len(body)) + strings.Repeat("x", 100*len(body))
					if status == 304 {
						want = ""
					}
					if got != status || string(answer) != want {
						t.Errorf("%s, status %d, body of %d: status %d, answer of %d bytes", p, status, size, got, len(answer))
					}
				}
			}
		}
	}
}

func TestEveryStatusIsRead(t *testing.T) {
	t.Parallel()
	for status := 100; status < 1000; status++ {
		text := strconv.Itoa(status)
		var bits uint64
		n := 0
		for _, c := range text {
			if c <= '2' {
				bits, n = bits<<5|uint64(c-'0'), n+5
			} else {
				bits, n = bits<<6|uint64(c-'3')+0x19, n+6
			}
		}
		for n%8 != 0 {
			bits, n = bits<<1|1, n+1
		}
		var packed []byte
		for ; n > 0; n -= 8 {
			packed = append(packed, byte(bits>>(n-8)))
		}
		block := append([]byte{0x20, 0x0e, 0x80 | byte(len(packed))}, packed...)
		if got, err := readStatus(block); err != nil || got != status {
			t.Errorf("status %d is read as %d, %v", status, got, err)
		}
	}
}

func FuzzReadStatus(f *testing.F) {
	f.Add([]byte{0x88})
	f.Add([]byte{0x20, 0x0e, 0x82, 0x10, 0x1e})
	f.Add([]byte{0x08, 0x03, '4', '0', '9'})
	f.Fuzz(func(t *testing.T, block []byte) {
		if status, err := readStatus(block); err == nil && (status < 0 || status > 999) {
			t.Errorf("status %d", status)
		}
	})
}

// A latency counts from when the exchange was due: one that stalls is charged
// for those that came meanwhile.
func TestArriveChargesAStall(t *testing.T) {
	t.Parallel()
	const stall = 200 * time.Millisecond
	r, err := Arrive(t.Context(), 1, 100, 500*time.Millisecond, func(_, n int) error {
		if n == 10 {
			time.Sleep(stall)
		}
		return nil
	})
	if err != nil || r.Count() != 50 {
		t.Fatalf("%d exchanges, %v", r.Count(), err)
	}
	// Of the 20 that came during the stall, 10 waited at least half of it.
	if got := r.Quantile(.82); got < stall/2 {
		t.Errorf("the slowest 10 of 50 took %s or more, want at least %s", got, stall/2)
	}
}

func TestSaturateAndEach(t *testing.T) {
	t.Parallel()
	seen := make([]int, 10)
	r, err := Each(t.Context(), len(seen), 3, func(number, _ int) error { seen[number]++; return nil })
	if err != nil || r.Count() != len(seen) {
		t.Errorf("%d exchanges, %v", r.Count(), err)
	}
	for number, n := range seen {
		if n != 1 {
			t.Errorf("device %d had %d exchanges", number, n)
		}
	}
	r, err = Saturate(t.Context(), 2, 32, 20*time.Millisecond, func(int, int) error { time.Sleep(time.Millisecond); return nil })
	if err != nil || r.Count() == 0 || r.Rate() > 2000 {
		t.Errorf("%d exchanges at %.0f a second, %v", r.Count(), r.Rate(), err)
	}
	if _, err := Saturate(t.Context(), 2, 2, time.Minute, func(int, int) error { return io.EOF }); err == nil {
		t.Error("an error is not returned")
	}
}
