package testenv

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"golang.org/x/sys/unix"

	"github.com/project-flotta/flotta-agent/internal/pki"
)

// S3Config says where an S3 server keeps its data and listens.
type S3Config struct {
	// Dir is an existing folder for everything the server writes.
	Dir string
	// Host is the address to listen on, 127.0.0.1 when empty. The server's
	// certificate holds for it, for 127.0.0.1 and for the name "localhost".
	Host string
	// Port is a free one when zero.
	Port int
	// Names are further DNS names that the certificate holds for.
	Names []string
	// Log receives what the server prints; may be nil.
	Log io.Writer
}

// S3Server is a running S3 server that speaks TLS with a certificate of an
// authority of its own.
type S3Server struct {
	// Host and Port are where it listens.
	Host string
	Port int
	// CA is the certificate of the authority, PEM.
	CA []byte
	// AccessKey and SecretKey are the only account.
	AccessKey string
	SecretKey string
	// Region is what requests are signed for.
	Region string
	// Dir holds a folder for every bucket, in it a plain file for every object,
	// so a test can see what arrived without asking the server.
	Dir string

	proc      *process
	transport *http.Transport
}

// s3Ready is how long the server may take to answer: it takes 100 ms.
const s3Ready = 30 * time.Second

// S3 starts an S3 server on a free loopback port for one test.
func S3(tb testing.TB) *S3Server {
	tb.Helper()
	server, err := StartS3(context.WithoutCancel(tb.Context()), S3Config{Dir: tb.TempDir()})
	if err != nil {
		tb.Fatalf("start S3 server: %v", err)
	}
	tb.Cleanup(server.Stop)
	return server
}

// StartS3 starts an S3 server and returns when it answers. The server runs
// until Stop is called or ctx ends.
func StartS3(ctx context.Context, cfg S3Config) (*S3Server, error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("start S3 server: %w", err)
	}
	cfg.Dir = dir
	if cfg.Host == "" {
		cfg.Host = "127.0.0.1"
	}
	// A free port may be taken by somebody else before the server listens on it.
	const attempts = 5
	for attempt := 1; ; attempt++ {
		server, err := startS3Once(ctx, cfg)
		if err == nil || cfg.Port != 0 || attempt == attempts || ctx.Err() != nil {
			return server, err
		}
	}
}

func startS3Once(ctx context.Context, cfg S3Config) (*S3Server, error) {
	path, err := FindTool("versitygw")
	if err != nil {
		return nil, err
	}
	server := &S3Server{
		Host: cfg.Host, Port: cfg.Port, Region: "us-east-1", Dir: filepath.Join(cfg.Dir, "buckets"),
		AccessKey: rand.Text(), SecretKey: rand.Text(),
	}
	if server.Port == 0 {
		if server.Port, err = FreePort(cfg.Host); err != nil {
			return nil, err
		}
	}
	if err := server.writeCertificate(cfg); err != nil {
		return nil, err
	}
	args, err := server.arguments(cfg.Dir)
	if err != nil {
		return nil, err
	}
	server.proc, err = startProcess(ctx, cfg.Log, path, args, func(cmd *exec.Cmd) {
		cmd.Dir = cfg.Dir
		cmd.Env = []string{"ROOT_ACCESS_KEY=" + server.AccessKey, "ROOT_SECRET_KEY=" + server.SecretKey}
	})
	if err != nil {
		return nil, err
	}
	if err := server.proc.wait(ctx, s3Ready, server.probe); err != nil {
		return nil, err
	}
	return server, nil
}

// arguments makes the server's folders and its command line.
func (s *S3Server) arguments(dir string) ([]string, error) {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("start S3 server: %w", err)
	}
	args := []string{
		// Uploads over TLS need keep-alive, or a retried request finds the connection closed.
		"--keep-alive", "--quiet", "--region", s.Region, "--health", "/health",
		"--port", net.JoinHostPort(s.Host, strconv.Itoa(s.Port)),
		"--cert", filepath.Join(dir, "server.pem"), "--key", filepath.Join(dir, "server.key"),
		"posix",
	}
	// ETags live in extended attributes, which tmpfs has only since Linux 6.6.
	if err := unix.Setxattr(s.Dir, "user.flotta-probe", []byte("1"), 0); err != nil {
		side := filepath.Join(dir, "sidecar")
		if err := os.MkdirAll(side, 0o700); err != nil {
			return nil, fmt.Errorf("start S3 server: %w", err)
		}
		args = append(args, "--sidecar", side)
	}
	return append(args, s.Dir), nil
}

func (s *S3Server) writeCertificate(cfg S3Config) error {
	now := time.Now()
	authority, err := pki.NewAuthority(now)
	if err != nil {
		return err
	}
	ips := []net.IP{net.IPv4(127, 0, 0, 1)}
	names := append([]string{"localhost"}, cfg.Names...)
	if ip := net.ParseIP(cfg.Host); ip != nil {
		ips = append(ips, ip)
	} else {
		names = append(names, cfg.Host)
	}
	pair, err := authority.IssueServer(pki.ServerProfile{DNSNames: names, IPs: ips}, now)
	if err != nil {
		return err
	}
	s.CA = authority.CertificatePEM()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(s.CA) {
		return errors.New("start S3 server: authority has no certificate")
	}
	s.transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	for name, text := range map[string][]byte{"server.pem": pair.CertPEM, "server.key": pair.KeyPEM} {
		if err := os.WriteFile(filepath.Join(cfg.Dir, name), text, 0o600); err != nil {
			return fmt.Errorf("start S3 server: %w", err)
		}
	}
	return nil
}

// probe asks the server for its health, with its own authority: another server
// that took the port meanwhile does not pass.
func (s *S3Server) probe(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Endpoint()+"/health", nil)
	if err != nil {
		return err
	}
	answer, err := s.transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("health: %s", answer.Status)
	}
	return nil
}

// Endpoint returns the URL of the server.
func (s *S3Server) Endpoint() string {
	return "https://" + net.JoinHostPort(s.Host, strconv.Itoa(s.Port))
}

// Client returns a client of the AWS SDK that trusts the server.
func (s *S3Server) Client() *s3.Client {
	return s3.New(s3.Options{
		BaseEndpoint: aws.String(s.Endpoint()),
		Region:       s.Region,
		UsePathStyle: true,
		Credentials:  credentials.NewStaticCredentialsProvider(s.AccessKey, s.SecretKey, ""),
		HTTPClient:   &http.Client{Transport: s.transport},
	})
}

// CreateBucket makes a bucket. It is an error when it exists.
func (s *S3Server) CreateBucket(ctx context.Context, name string) error {
	if _, err := s.Client().CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &name}); err != nil {
		return fmt.Errorf("create bucket %s: %w", name, err)
	}
	return nil
}

// Stop ends the server and waits for it. It may be called more than once; the
// data stays in Dir.
func (s *S3Server) Stop() {
	s.proc.Stop()
	s.transport.CloseIdleConnections()
}

// FreePort returns a TCP port of the given address that nobody listens on. It
// may be taken by the time it is used, so the caller tries again when it is.
func FreePort(host string) (int, error) {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return 0, fmt.Errorf("find free port: %w", err)
	}
	defer func() { _ = l.Close() }()
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return 0, fmt.Errorf("find free port: address %s is not TCP", l.Addr())
	}
	return addr.Port, nil
}
