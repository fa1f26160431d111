package s3

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	smithyauth "github.com/aws/smithy-go/auth"
	smithyendpoints "github.com/aws/smithy-go/endpoints"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// The default ports of both schemes.
const (
	portHTTPS = 443
	portHTTP  = 80
)

// endpoint is where every request goes and how it is signed. The SDK's own rules
// know dozens of cases that a bucket with a given host never is, and would be
// evaluated twice for every request.
type endpoint struct {
	base   url.URL
	region string
}

// newEndpoint returns the address of the bucket: below the host's path, or, with
// a virtual host, as a part of the host's name.
func newEndpoint(c Config) endpoint {
	e := endpoint{region: c.Region, base: url.URL{Scheme: "https", Path: "/" + c.Bucket}}
	if c.PlainHTTP {
		e.base.Scheme = "http"
	}
	host := c.Host
	if c.virtualHost() {
		host, e.base.Path = c.Bucket+"."+host, ""
	}
	e.base.Host = net.JoinHostPort(host, strconv.Itoa(c.Port))
	return e
}

// virtualHost reports whether the bucket is a part of the host's name. AWS has
// no other way for newer regions; stores of one's own seldom have the names in
// DNS. A bucket with a dot in its name fits no wildcard certificate.
func (c Config) virtualHost() bool {
	if strings.Contains(c.Bucket, ".") && !c.PlainHTTP {
		return false
	}
	return c.VirtualHost || isAWS(c.Host)
}

func isAWS(host string) bool {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	return strings.HasSuffix(host, ".amazonaws.com") || strings.HasSuffix(host, ".amazonaws.com.cn")
}

// checkHost says what keeps host from being joined with a port to an address.
func checkHost(host string) error {
	if host == "" {
		return errors.New("is empty")
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.Zone() == "" {
		return nil
	}
	for i := range len(host) {
		c := host[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return fmt.Errorf("is no host name or address: it has %q in it", c)
		}
	}
	return nil
}

// ResolveEndpoint returns the address of the bucket.
func (e endpoint) ResolveEndpoint(context.Context, awss3.EndpointParameters) (smithyendpoints.Endpoint, error) {
	return smithyendpoints.Endpoint{URI: e.base}, nil
}

// ResolveAuthSchemes returns how requests are signed. Keys are escaped once, in
// the path and in what is signed.
func (e endpoint) ResolveAuthSchemes(context.Context, *awss3.AuthResolverParameters) ([]*smithyauth.Option, error) {
	option := &smithyauth.Option{SchemeID: smithyauth.SchemeIDSigV4}
	smithyhttp.SetSigV4SigningName(&option.SignerProperties, "s3")
	smithyhttp.SetSigV4SigningRegion(&option.SignerProperties, e.region)
	smithyhttp.SetDisableDoubleEncoding(&option.SignerProperties, true)
	return []*smithyauth.Option{option}, nil
}
