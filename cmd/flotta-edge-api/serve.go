package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"

	"golang.org/x/sync/errgroup"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/internal/edgeapi/backend/file"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

func newLogger(s settings, out io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: s.logLevel}))
}

// serve runs the server until ctx ends. What answers devices stops first, then
// what it answers from.
func serve(ctx context.Context, s settings, stderr io.Writer) (err error) {
	log := newLogger(s, stderr)
	backend, err := file.New(file.Config{Dir: s.dir, AutoApprove: s.autoApprove, Logger: log.With("component", "backend")})
	if err != nil {
		return err
	}
	if err := backend.Open(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, backend.Close()) }()
	dns, ips := s.names()
	keys, err := file.OpenKeys(ctx, file.KeysConfig{Dir: s.dir, DNSNames: dns, IPs: ips, Logger: log.With("component", "keys")})
	if err != nil {
		return err
	}
	server, err := edgeapi.New(edgeapi.Config{
		Addr:           net.JoinHostPort("", strconv.Itoa(s.port)),
		MetricsAddr:    s.metricsAddr,
		ProbeAddr:      s.probeAddr,
		Authority:      keys.Authority(),
		Certificate:    keys.Certificate,
		Backend:        backend,
		Namespaces:     s.namespaces,
		DeviceLifetime: s.deviceLifetime,
		MaxBodyBytes:   s.maxBodyBytes,
		Logger:         log.With("component", "edgeapi"),
	})
	if err != nil {
		return err
	}
	if err := server.Open(ctx); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	below, stop := context.WithCancel(context.WithoutCancel(ctx))
	group.Go(func() error { defer stop(); return server.Run(ctx) })
	group.Go(func() error { return backend.Run(below) })
	group.Go(func() error { return keys.Run(below) })
	return group.Wait()
}

// bootstrap writes the files that a device is delivered with, and says how yggd
// is configured with them.
func bootstrap(ctx context.Context, s settings, folder string, stdout, stderr io.Writer) error {
	keys, err := file.OpenKeys(ctx, file.KeysConfig{Dir: s.dir, Logger: newLogger(s, stderr)})
	if err != nil {
		return err
	}
	if err := keys.Export(folder); err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, `# Written: %[1]s, %[2]s (certificate and key).
# Put both into /etc/yggdrasil of the device, and this into its config.toml:
protocol = "http"
server = %[3]q
path-prefix = %[4]q
cert-file = "/etc/yggdrasil/%[6]s"
key-file = "/etc/yggdrasil/%[6]s"
ca-root = ["/etc/yggdrasil/%[5]s"]
client-id = "" # the device's name, for example the content of /etc/machine-id
`, filepath.Join(folder, file.ExportedAuthority), filepath.Join(folder, file.ExportedClient),
		net.JoinHostPort(s.domain, strconv.Itoa(s.port)), protocol.BasePath[1:], file.ExportedAuthority, file.ExportedClient)
	return err
}
