package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

func newLogger(s settings, out io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: s.logLevel}))
}

// serve runs the server until ctx ends. What answers devices stops first, then
// what it answers from.
func serve(ctx context.Context, s settings, stderr io.Writer) (err error) {
	log := newLogger(s, stderr)
	for _, text := range s.deprecated {
		log.Warn("deprecated setting", "reason", text)
	}
	registry := prometheus.NewRegistry()
	src, err := openSource(ctx, s, registry, log)
	if err != nil {
		return err
	}
	if src.close != nil {
		defer func() { err = errors.Join(err, src.close()) }()
	}
	server, err := edgeapi.New(edgeapi.Config{
		Addr:           net.JoinHostPort("", strconv.Itoa(s.port)),
		MetricsAddr:    s.metricsAddr,
		ProbeAddr:      s.probeAddr,
		Authority:      src.keys.Authority(),
		Certificate:    src.keys.Certificate,
		Backend:        src.backend,
		Namespaces:     s.namespaces,
		DeviceLifetime: s.deviceLifetime,
		MaxBodyBytes:   s.maxBodyBytes,
		Registry:       registry,
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
	for _, run := range src.run {
		group.Go(func() error { return run(below) })
	}
	return group.Wait()
}

// bootstrap writes the files that a device is delivered with, and says how yggd
// is configured with them.
func bootstrap(ctx context.Context, s settings, folder string, stdout, stderr io.Writer) error {
	// Whoever calls this may not have the server's settings, so its certificate is
	// none of this.
	k, err := openKeys(ctx, s, hosts{}, newLogger(s, stderr))
	if err != nil {
		return err
	}
	if err := export(k, folder); err != nil {
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
`, filepath.Join(folder, exportedAuthority), filepath.Join(folder, exportedClient),
		net.JoinHostPort(s.domain, strconv.Itoa(s.port)), protocol.BasePath[1:], exportedAuthority, exportedClient)
	return err
}

// Names of the files that export writes.
const (
	exportedAuthority = "ca.pem"
	exportedClient    = "client.pem"
)

// export writes what a device is delivered with into a folder: the authority's
// certificate, and the register certificate followed by its key in one file, as
// yggd wants it.
func export(k keys, folder string) error {
	pair, err := k.Register()
	if err != nil {
		return fmt.Errorf("export bootstrap files: %w", err)
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("export bootstrap files: %w", err)
	}
	return errors.Join(
		durable.WriteFile(filepath.Join(folder, exportedAuthority), k.Authority().CertificatePEM(), 0o644),
		durable.WriteFile(filepath.Join(folder, exportedClient), slices.Concat(pair.CertPEM, pair.KeyPEM), 0o600),
	)
}
