package s3

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/logging"

	"github.com/project-flotta/flotta-agent/internal/secret"
)

// defaultRegion signs requests for stores that have no regions of their own.
const defaultRegion = "us-east-1"

// Config is one bucket.
type Config struct {
	Host            string // a name or an address, without scheme and port
	Port            int    // 0: 443, or 80 for http
	PlainHTTP       bool   // speak http instead of https
	VirtualHost     bool   // the bucket is a part of the host's name, as it always is for AWS
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

const defaultPartBytes = 16 << 20

func (c Config) withDefaults() Config {
	if c.Port == 0 {
		c.Port = portHTTPS
		if c.PlainHTTP {
			c.Port = portHTTP
		}
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
	if err := checkHost(c.Host); err != nil {
		return fmt.Errorf("s3 config: Host %w", err)
	}
	switch {
	case c.Port < 0 || c.Port > 65535:
		return fmt.Errorf("s3 config: Port %d is out of range", c.Port)
	case c.Bucket == "":
		return errors.New("s3 config: Bucket is empty")
	case c.AccessKeyID.Empty() || c.SecretAccessKey.Empty():
		return errors.New("s3 config: AccessKeyID or SecretAccessKey is empty")
	case c.PartBytes != 0 && (c.PartBytes < minPartBytes || c.PartBytes > maxPartBytes):
		return fmt.Errorf("s3 config: PartBytes %d is not from %d to %d", c.PartBytes, minPartBytes, maxPartBytes)
	}
	return nil
}

// Client is one bucket. It is safe for concurrent use.
type Client struct {
	api       *awss3.Client
	transport *http.Transport
	bucket    string
	partBytes int64
	secure    bool // it is spoken to with TLS

	// plain is set once the store refused the SDK's checksums and took the
	// same request without them; from then on none are sent.
	plain atomic.Bool
	// whole and inParts are set once the store took an upload of that form with
	// checksums: whatever it refuses later, it is not because of them.
	whole, inParts atomic.Bool
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
	at := newEndpoint(cfg)
	api := awss3.New(awss3.Options{
		Region:             cfg.Region,
		EndpointResolverV2: at,
		AuthSchemeResolver: at,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return keys, nil
		}),
		HTTPClient: &http.Client{Transport: meter{next: tripper, drop: transport.CloseIdleConnections}, CheckRedirect: noRedirect},
		Retryer: retry.NewStandard(func(o *retry.StandardOptions) {
			o.MaxAttempts = cfg.Attempts
			// The caller comes back by itself, so only short trouble is waited out.
			o.MaxBackoff = time.Second
			// Attempts bounds the retries of a request. A quota of all requests
			// together would let those fail that nothing is wrong with.
			o.RateLimiter = ratelimit.None
			o.Retryables = append([]retry.IsErrorRetryable{
				retry.IsErrorRetryableFunc(certificateRefused), retry.IsErrorRetryableFunc(unreadable),
			}, o.Retryables...)
		}),
		Logger:                     logging.Nop{},
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenSupported,
		ResponseChecksumValidation: aws.ResponseChecksumValidationWhenSupported,
		// Otherwise the SDK warns at each object of a store without checksums.
		DisableLogOutputChecksumValidationSkipped: true,
	})
	return &Client{
		api: api, transport: transport, bucket: cfg.Bucket, partBytes: cfg.PartBytes, secure: !cfg.PlainHTTP,
	}, nil
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
