package edgeapi

import (
	"context"
	"crypto/tls"
	"net"
	"sync/atomic"
	"time"

	"github.com/project-flotta/flotta-agent/internal/pki"
)

// connection remembers whose it is. To verify a signature costs more than to
// answer most requests, and the certificate of a connection does not change.
type connection struct {
	verified atomic.Pointer[verified]
}

// verified is an identity and the time that it holds without another look.
type verified struct {
	who         identity
	from, until time.Time
}

type connectionKey struct{}

// withConnection is the http.Server's ConnContext.
func withConnection(ctx context.Context, _ net.Conn) context.Context {
	return context.WithValue(ctx, connectionKey{}, &connection{})
}

// connectionOf returns the connection of a request's context.
func connectionOf(ctx context.Context) *connection {
	if c, ok := ctx.Value(connectionKey{}).(*connection); ok {
		return c
	}
	return &connection{} // remembered by nobody
}

// identify is identify for the requests of one connection.
func (c *connection) identify(state *tls.ConnectionState, authority *pki.Authority, now time.Time) (identity, error) {
	if v := c.verified.Load(); v != nil && !now.Before(v.from) && now.Before(v.until) {
		return v.who, nil
	}
	who, err := identify(state, authority, now)
	if err != nil || who.expired {
		return who, err
	}
	leaf := state.PeerCertificates[0]
	until := leaf.NotAfter
	if end := authority.NotAfter(); end.Before(until) {
		until = end
	}
	c.verified.Store(&verified{who: who, from: leaf.NotBefore, until: until})
	return who, nil
}
