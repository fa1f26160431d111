package testenv

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/pki"
)

// FaultProxy stands between a client and an S3 server and makes a part of the
// requests fail. Both ends speak TLS; its own certificate is of an authority of
// its own, which can be changed.
type FaultProxy struct {
	// Host and Port are where it listens.
	Host string
	Port int
	// StallFor is how long FaultStall holds a request. It is set before use.
	StallFor time.Duration
	// StaleBelow is the prefix of the listings that FaultStaleList makes old; "":
	// all. It is set before use.
	StaleBelow string

	target    *S3Server
	server    *http.Server
	transport *http.Transport

	requests, received, sent atomic.Int64
	serving                  sync.WaitGroup
	turns                    sync.Map // by path: the *sync.Mutex of who changes the object

	mu       sync.Mutex
	random   *rand.Rand
	rate     float64
	kinds    []Fault
	injected map[Fault]int
	ca       []byte
	identity tls.Certificate
	listings map[string][]listing // former answers by query
	conns    map[net.Conn]bool
}

// NewFaultProxy starts a proxy before a server for one test. Nothing fails until
// Inject is called.
func NewFaultProxy(tb testing.TB, server *S3Server, seed uint64) *FaultProxy {
	tb.Helper()
	p := &FaultProxy{
		Host: "127.0.0.1", StallFor: 30 * time.Second, target: server,
		transport: &http.Transport{
			TLSClientConfig: server.transport.TLSClientConfig, DisableCompression: true, MaxIdleConnsPerHost: 64,
		},
		random: rand.New(rand.NewPCG(seed, 7)), injected: map[Fault]int{},
		listings: map[string][]listing{}, conns: map[net.Conn]bool{},
	}
	if err := p.NewAuthority(); err != nil {
		tb.Fatalf("start fault proxy: %v", err)
	}
	l, err := net.Listen("tcp", net.JoinHostPort(p.Host, "0"))
	if err != nil {
		tb.Fatalf("start fault proxy: %v", err)
	}
	p.Port = l.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // it is what was asked for.
	p.server = &http.Server{
		Handler:  http.HandlerFunc(p.serve),
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), // broken connections are what this is for
		ConnState: func(c net.Conn, s http.ConnState) {
			p.mu.Lock()
			defer p.mu.Unlock()
			switch s {
			case http.StateNew:
				p.conns[c] = true
			case http.StateClosed, http.StateHijacked:
				delete(p.conns, c)
			default:
			}
		},
		ReadHeaderTimeout: time.Minute,
	}
	tlsListener := tls.NewListener(l, &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			p.mu.Lock()
			defer p.mu.Unlock()
			identity := p.identity
			return &identity, nil
		},
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = p.server.Serve(tlsListener)
	}()
	tb.Cleanup(func() {
		_ = p.server.Close()
		<-done
		p.serving.Wait()
		p.transport.CloseIdleConnections()
	})
	return p
}

// NewAuthority gives the proxy a certificate of a new authority, and ends all
// connections that were made with the former one.
func (p *FaultProxy) NewAuthority() error {
	now := time.Now()
	authority, err := pki.NewAuthority(now)
	if err != nil {
		return err
	}
	pair, err := authority.IssueServer(pki.ServerProfile{DNSNames: []string{"localhost"}, IPs: []net.IP{net.ParseIP(p.Host)}}, now)
	if err != nil {
		return err
	}
	identity, err := tls.X509KeyPair(pair.CertPEM, pair.KeyPEM)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.ca, p.identity = authority.CertificatePEM(), identity
	p.mu.Unlock()
	p.Reset()
	return nil
}

// CA is the certificate of the proxy's authority, PEM.
func (p *FaultProxy) CA() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ca
}

// Pool trusts that authority alone.
func (p *FaultProxy) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(p.CA())
	return pool
}

// Inject makes that part of the requests fail (0 to 1) with one of these faults;
// none: with any.
func (p *FaultProxy) Inject(rate float64, kinds ...Fault) {
	if len(kinds) == 0 {
		kinds = Faults()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rate, p.kinds = rate, kinds
}

// Injected counts the faults that were made.
func (p *FaultProxy) Injected() map[Fault]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.injected)
}

// Requests is how many requests arrived; Received and Sent are the bytes of
// their bodies and of the answers'.
func (p *FaultProxy) Requests() int64 { return p.requests.Load() }

// Received is how many bytes of bodies clients sent.
func (p *FaultProxy) Received() int64 { return p.received.Load() }

// Sent is how many bytes of bodies clients got.
func (p *FaultProxy) Sent() int64 { return p.sent.Load() }

// Reset resets all connections.
func (p *FaultProxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		abort(c)
	}
}

// abort ends a connection without an orderly end.
func abort(c net.Conn) {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}

// pick decides what happens to a request.
func (p *FaultProxy) pick() Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rate == 0 || p.random.Float64() >= p.rate {
		return ""
	}
	return p.kinds[p.random.IntN(len(p.kinds))]
}

func (p *FaultProxy) below(n int64) int64 {
	if n <= 0 {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.random.Int64N(n)
}

func (p *FaultProxy) note(f Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.injected[f]++
}

func (p *FaultProxy) serve(w http.ResponseWriter, r *http.Request) {
	p.serving.Add(1)
	defer p.serving.Done()
	p.requests.Add(1)
	fault := p.pick()
	r.Body = io.NopCloser(countingReader{r.Body, &p.received})
	switch fault {
	case FaultInternal:
		p.refuse(w, fault, http.StatusInternalServerError, "InternalError")
		return
	case FaultSlowDown:
		p.refuse(w, fault, http.StatusServiceUnavailable, "SlowDown")
		return
	case FaultResetRequest:
		_, _ = io.CopyN(io.Discard, r.Body, p.below(r.ContentLength))
		p.note(fault)
		hijack(w)
		return
	case FaultSlow:
		p.note(fault)
		r.Body = io.NopCloser(slowReader{r.Body, time.Millisecond})
	}
	if !p.swallow(w, r) {
		return
	}
	if fault == FaultStall {
		p.note(fault)
		select {
		case <-time.After(p.StallFor):
		case <-r.Context().Done():
		}
	}
	answer, err := p.forward(r)
	if err != nil {
		hijack(w)
		return
	}
	defer func() { _ = answer.Body.Close() }()
	answer.Body = struct {
		io.Reader
		io.Closer
	}{countingReader{answer.Body, &p.sent}, answer.Body}
	p.answer(w, r, answer, fault)
}

// swallow reads a body that is not too large, because only then does the server
// notice that its client is gone.
func (p *FaultProxy) swallow(w http.ResponseWriter, r *http.Request) bool {
	const most = 16 << 20
	if r.ContentLength <= 0 || r.ContentLength > most {
		return true
	}
	body, err := io.ReadAll(r.Body)
	if err != nil || int64(len(body)) != r.ContentLength {
		hijack(w)
		return false
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return true
}

func (p *FaultProxy) refuse(w http.ResponseWriter, f Fault, status int, code string) {
	p.note(f)
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `<?xml version="1.0"?><Error><Code>%s</Code><Message>injected</Message></Error>`, code)
}

// forward asks the server what the client asked, byte by byte: the request is
// signed. What a client has given up must not reach the store after what it sends
// instead: no client could do anything about that. So changes of one object are
// made one after the other, and to their ends once they were begun.
func (p *FaultProxy) forward(r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		turn, _ := p.turns.LoadOrStore(r.URL.Path, &sync.Mutex{})
		turn.(*sync.Mutex).Lock()         //nolint:forcetypeassert // it holds nothing else.
		defer turn.(*sync.Mutex).Unlock() //nolint:forcetypeassert // as above.
		ctx = context.WithoutCancel(ctx)
	}
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	out := r.Clone(ctx)
	out.URL.Scheme, out.URL.Host = "https", p.target.address()
	out.RequestURI = ""
	if r.ContentLength == 0 {
		out.Body = http.NoBody
	}
	return p.transport.RoundTrip(out)
}

// answer passes the server's answer on, or what the fault makes of it.
func (p *FaultProxy) answer(w http.ResponseWriter, r *http.Request, answer *http.Response, fault Fault) {
	body := io.Reader(answer.Body)
	size := answer.ContentLength
	if r.Method == http.MethodGet && r.URL.Query().Has("list-type") && answer.StatusCode == http.StatusOK {
		body, size = p.list(r, answer, fault)
	}
	switch {
	case fault == FaultLostAnswer:
		p.note(fault)
		hijack(w)
		return
	case fault == FaultWrongETag && answer.Header.Get("ETag") != "":
		p.note(fault)
		answer.Header.Set("ETag", fmt.Sprintf(`"%032x"`, p.below(1<<62)))
	case fault == FaultSlow:
		body = slowReader{body, time.Millisecond}
	}
	maps.Copy(w.Header(), answer.Header)
	if size >= 0 {
		w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	}
	w.WriteHeader(answer.StatusCode)
	cut := (fault == FaultTruncate || fault == FaultResetResponse) && r.Method == http.MethodGet && size > 1
	if !cut {
		if _, err := io.Copy(w, body); err != nil {
			panic(http.ErrAbortHandler) // the client must not take it for the whole
		}
		return
	}
	p.note(fault)
	_, _ = io.CopyN(w, body, p.below(size))
	_ = http.NewResponseController(w).Flush()
	if fault == FaultTruncate {
		panic(http.ErrAbortHandler)
	}
	hijack(w)
}

// hijack resets the connection that a request came on.
func hijack(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		if errors.Is(err, http.ErrNotSupported) {
			panic(err)
		}
		panic(http.ErrAbortHandler)
	}
	abort(conn)
}
