package desired

import (
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/project-flotta/flotta-agent/internal/secret"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// The ports of a storage that names none.
const (
	defaultHTTPSPort = 443
	defaultHTTPPort  = 80
)

// decodeStorage returns the bucket s describes, nil when s is empty. The error
// holds no value of s.
func decodeStorage(s protocol.S3StorageConfiguration) (*Storage, error) {
	if s == (protocol.S3StorageConfiguration{}) {
		return nil, nil //nolint:nilnil // nothing configured is no error
	}
	d := &Storage{Port: int(s.BucketPort), Bucket: s.BucketName, Region: s.BucketRegion}
	var err error
	if d.Host, d.PlainHTTP, err = storageHost(s.BucketHost); err != nil {
		return nil, err
	}
	switch {
	case d.Port != 0:
	case d.PlainHTTP:
		d.Port = defaultHTTPPort
	default:
		d.Port = defaultHTTPSPort
	}
	switch {
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

// storageHost takes a bucket_host apart. Without a scheme it is https on every
// port, also on 80, because flotta v0.2 speaks nothing else.
func storageHost(text string) (host string, plainHTTP bool, err error) {
	scheme, host, ok := strings.Cut(text, "://")
	switch {
	case !ok:
		host = text
	case strings.EqualFold(scheme, "http"):
		plainHTTP = true
	case !strings.EqualFold(scheme, "https"):
		return "", false, errors.New("bucket_host has a scheme other than http and https")
	}
	if strings.Contains(host, "/") {
		return "", false, errors.New("bucket_host has a path, which no bucket has")
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		if host, ok = strings.CutSuffix(inner, "]"); !ok || !strings.Contains(host, ":") {
			return "", false, errors.New("bucket_host is not a host name or address")
		}
	}
	if !validHost(host) {
		return "", false, errors.New("bucket_host is not a host name or address")
	}
	return host, plainHTTP, nil
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
	if strings.Contains(host, ":") {
		_, err := netip.ParseAddr(host)
		return err == nil
	}
	return true
}
