package desired

import (
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/project-flotta/flotta-agent/internal/secret"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// defaultStoragePort is the port of https, which storage is always spoken to
// with.
const defaultStoragePort = 443

// decodeStorage returns the bucket s describes, nil when s is empty. The error
// holds no value of s.
func decodeStorage(s protocol.S3StorageConfiguration) (*Storage, error) {
	if s == (protocol.S3StorageConfiguration{}) {
		return nil, nil //nolint:nilnil // nothing configured is no error
	}
	d := &Storage{Host: s.BucketHost, Port: int(s.BucketPort), Bucket: s.BucketName, Region: s.BucketRegion}
	if d.Port == 0 {
		d.Port = defaultStoragePort
	}
	switch {
	case !validHost(d.Host):
		return nil, errors.New("bucket_host is not a host name or address")
	case d.Port < 0 || d.Port > 65535:
		return nil, fmt.Errorf("bucket_port %d is not a port", d.Port)
	case d.Bucket == "" || strings.ContainsAny(d.Bucket, "/?#\\ \t\r\n\x00"):
		return nil, errors.New("bucket_name is not the name of a bucket")
	}
	key, err := decodeBase64("aws_access_key_id", s.AWSAccessKeyID)
	if err != nil {
		return nil, err
	}
	secretKey, err := decodeBase64("aws_secret_access_key", s.AWSSecretAccessKey)
	if err != nil {
		return nil, err
	}
	if len(key) == 0 || len(secretKey) == 0 {
		return nil, errors.New("credentials are missing")
	}
	if d.CABundle, err = decodeBase64("aws_ca_bundle", s.AWSCABundle); err != nil {
		return nil, err
	}
	// Falling back to the system's roots would ask another party than meant.
	if len(d.CABundle) > 0 && !x509.NewCertPool().AppendCertsFromPEM(d.CABundle) {
		return nil, errors.New("aws_ca_bundle has no certificate")
	}
	d.AccessKeyID, d.SecretAccessKey = secret.New(string(key)), secret.New(string(secretKey))
	return d, nil
}

func decodeBase64(field, text string) ([]byte, error) {
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("%s is not base64", field)
	}
	return b, nil
}

// validHost reports whether host can be joined with a port to an address: no
// scheme, user, port or path in it.
func validHost(host string) bool {
	if host == "" || len(host) > maxObjectNameSize {
		return false
	}
	for i := range len(host) {
		c := host[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' && c != ':' {
			return false
		}
	}
	// A colon is only in an IPv6 address, which has at least two.
	return strings.Count(host, ":") != 1
}
