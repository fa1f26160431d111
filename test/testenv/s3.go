package testenv

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
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
	// Plain makes the server speak http.
	Plain bool
	// AccessLog is a file that gets a line for every request; empty: none.
	AccessLog string
	// Log receives what the server prints; may be nil.
	Log io.Writer
}

// S3Server is a running S3 server. It speaks TLS with a certificate of an
// authority of its own, unless it was told to speak plain http.
type S3Server struct {
	// Host and Port are where it listens.
	Host string
	Port int
	// CA is the certificate of the authority, PEM; empty when it speaks http.
	CA []byte
	// AccessKey and SecretKey are the only account.
	AccessKey string
	SecretKey string
	// Region is what requests are signed for.
	Region string
	// Dir holds a folder for every bucket, in it a plain file for every object,
	// so a test can see what arrived without asking the server. MinIO has a
	// format of its own there.
	Dir string

	proc      *process
	health    string // URL that answers 200 when the server is ready
	transport *http.Transport
}

// s3Ready is how long the server may take to answer: it takes 100 ms.
const s3Ready = 30 * time.Second

// S3ServerEnv names the environment variable that decides what S3 starts:
// "minio", or versitygw by default.
const S3ServerEnv = "FLOTTA_S3_SERVER"

// S3 starts an S3 server on a free loopback port for one test.
func S3(tb testing.TB) *S3Server {
	tb.Helper()
	if os.Getenv(S3ServerEnv) == "minio" {
		return MinIO(tb)
	}
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
	return startOnFreePort(ctx, cfg, startS3Once)
}

func startOnFreePort(
	ctx context.Context, cfg S3Config, start func(context.Context, S3Config) (*S3Server, error),
) (*S3Server, error) {
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
		server, err := start(ctx, cfg)
		if err == nil || cfg.Port != 0 || attempt == attempts || ctx.Err() != nil {
			return server, err
		}
	}
}

// newS3Server decides where a server listens and who may use it.
func newS3Server(cfg S3Config) (server *S3Server, err error) {
	server = &S3Server{
		Host: cfg.Host, Port: cfg.Port, Region: "us-east-1", Dir: filepath.Join(cfg.Dir, "buckets"),
		AccessKey: rand.Text(), SecretKey: rand.Text(),
	}
	if server.Port == 0 {
		server.Port, err = FreePort(cfg.Host)
	}
	return server, err
}

func startS3Once(ctx context.Context, cfg S3Config) (*S3Server, error) {
	path, err := FindTool("versitygw")
	if err != nil {
		return nil, err
	}
	server, err := newS3Server(cfg)
	if err != nil {
		return nil, err
	}
	server.transport = &http.Transport{}
	if !cfg.Plain {
		if err := server.writeCertificate(cfg); err != nil {
			return nil, err
		}
	}
	server.health = server.Endpoint() + "/health"
	args, err := server.arguments(cfg)
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
func (s *S3Server) arguments(cfg S3Config) ([]string, error) {
	dir := cfg.Dir
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("start S3 server: %w", err)
	}
	args := []string{
		// Uploads over TLS need keep-alive, or a retried request finds the connection closed.
		"--keep-alive", "--quiet", "--region", s.Region, "--health", "/health",
		"--port", s.address(),
	}
	if len(s.CA) > 0 {
		args = append(args, "--cert", filepath.Join(dir, "server.pem"), "--key", filepath.Join(dir, "server.key"))
	}
	if cfg.AccessLog != "" {
		args = append(args, "--access-log", cfg.AccessLog)
	}
	args = append(args, "posix")
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
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.health, nil)
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
	scheme := "https://"
	if len(s.CA) == 0 {
		scheme = "http://"
	}
	return scheme + s.address()
}

func (s *S3Server) address() string { return net.JoinHostPort(s.Host, strconv.Itoa(s.Port)) }

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

// The ports of FreePort. The kernel gives none of them to a connection or to a
// listener that asks for any port.
const firstPort, lastPort = 20000, 32000

// FreePort returns a TCP port of the given address that nobody listens on, for a
// program that has to be told one. It is drawn at random, so that two callers
// hardly ever get the same one before they use it.
func FreePort(host string) (int, error) {
	var err error
	for range 100 {
		port := firstPort + mathrand.IntN(lastPort-firstPort)
		var l net.Listener
		if l, err = new(net.ListenConfig).Listen(context.Background(), "tcp", net.JoinHostPort(host, strconv.Itoa(port))); err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("find free port: %w", err)
}
