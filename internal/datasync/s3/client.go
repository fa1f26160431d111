package s3

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/logging"

	"github.com/project-flotta/flotta-agent/internal/secret"
)

// defaultRegion signs requests for stores that have no regions of their own.
const defaultRegion = "us-east-1"

// Config is one bucket.
type Config struct {
	Host            string // without scheme and port
	Port            int    // 0: 443
	Bucket          string
	Region          string // empty: us-east-1
	AccessKeyID     secret.Value
	SecretAccessKey secret.Value
	CABundle        []byte // PEM, trusted instead of the system's roots; empty: those

	// PartBytes is the size of the parts of an upload, and the size from which
	// an upload is made in parts. 0: 16 MiB; at least 5 MiB, which is the least
	// that stores accept.
	PartBytes int64

	// Attempts bounds how often one request is tried; 0: 3.
	Attempts int

	// Wrap, when set, is put around the transport of every request.
	Wrap func(http.RoundTripper) http.RoundTripper
}

const (
	minPartBytes     = 5 << 20
	defaultPartBytes = 16 << 20
)

func (c Config) withDefaults() Config {
	if c.Port == 0 {
		c.Port = 443
	}
	if c.Region == "" {
		c.Region = defaultRegion
	}
	if c.PartBytes == 0 {
		c.PartBytes = defaultPartBytes
	}
	if c.Attempts == 0 {
		c.Attempts = 3
	}
	return c
}

// Validate names the field that is missing or out of range.
func (c Config) Validate() error {
	switch {
	case c.Host == "":
		return errors.New("s3 config: Host is empty")
	case c.Port < 0 || c.Port > 65535:
		return fmt.Errorf("s3 config: Port %d is out of range", c.Port)
	case c.Bucket == "":
		return errors.New("s3 config: Bucket is empty")
	case c.AccessKeyID.Empty() || c.SecretAccessKey.Empty():
		return errors.New("s3 config: AccessKeyID or SecretAccessKey is empty")
	case c.PartBytes != 0 && c.PartBytes < minPartBytes:
		return fmt.Errorf("s3 config: PartBytes %d is below %d", c.PartBytes, minPartBytes)
	}
	return nil
}

// Client is one bucket. It is safe for concurrent use.
type Client struct {
	api       *awss3.Client
	transport *http.Transport
	bucket    string
	partBytes int64

	// plain is set once the store refused the SDK's checksums and took the
	// same request without them; from then on none are sent.
	plain atomic.Bool
}

// New returns a client of the bucket in cfg. It does no I/O.
func New(cfg Config) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	transport, err := newTransport(cfg.CABundle)
	if err != nil {
		return nil, err
	}
	var tripper http.RoundTripper = transport
	if cfg.Wrap != nil {
		tripper = cfg.Wrap(transport)
	}
	keys := aws.Credentials{
		AccessKeyID:     cfg.AccessKeyID.Reveal(),
		SecretAccessKey: cfg.SecretAccessKey.Reveal(),
	}
	api := awss3.New(awss3.Options{
		BaseEndpoint: aws.String("https://" + net.JoinHostPort(cfg.Host, strconv.Itoa(cfg.Port))),
		Region:       cfg.Region,
		UsePathStyle: true,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return keys, nil
		}),
		HTTPClient: &http.Client{Transport: tripper, CheckRedirect: noRedirect},
		Retryer: retry.NewStandard(func(o *retry.StandardOptions) {
			o.MaxAttempts = cfg.Attempts
			// The caller comes back by itself, so only short trouble is waited out.
			o.MaxBackoff = time.Second
			o.Retryables = append([]retry.IsErrorRetryable{
				retry.IsErrorRetryableFunc(certificateRefused),
			}, o.Retryables...)
		}),
		Logger:                     logging.Nop{},
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenSupported,
		ResponseChecksumValidation: aws.ResponseChecksumValidationWhenSupported,
		// Otherwise the SDK warns at each object of a store without checksums.
		DisableLogOutputChecksumValidationSkipped: true,
	})
	return &Client{api: api, transport: transport, bucket: cfg.Bucket, partBytes: cfg.PartBytes}, nil
}

// certificateRefused makes an end of a server that is not the one meant.
func certificateRefused(err error) aws.Ternary {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return aws.FalseTernary
	}
	return aws.UnknownTernary
}

// noRedirect hands redirections to the SDK: a signed request is never replayed
// to another host.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Close drops the idle connections. The client stays usable.
func (c *Client) Close() { c.transport.CloseIdleConnections() }
