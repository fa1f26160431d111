// Command serve runs the reference service of the Edge Configuration API.
//
//	serve -dir ./devices -cert tls.crt -key tls.key -ca ca.crt -edge-api edge.example.com
//
// Devices are folders below -dir; see the documentation of package refbackend.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/project-flotta/flotta-agent/test/refbackend"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "serve:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	addr := flags.String("addr", ":8444", "address to listen on")
	dir := flags.String("dir", "devices", "folder of the devices")
	cert := flags.String("cert", "tls.crt", "certificate of this service, PEM")
	key := flags.String("key", "tls.key", "its private key, PEM")
	ca := flags.String("ca", "ca.crt", "certificate of the Flotta authority, PEM")
	name := flags.String("edge-api", "project-flotta.io", "host name in the Edge API's certificate")
	auto := flags.Bool("auto-approve", false, "let every device in that asks")
	if err := flags.Parse(args); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	store, err := refbackend.NewStore(*dir)
	if err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(*cert, *key)
	if err != nil {
		return fmt.Errorf("load certificate: %w", err)
	}
	authority, err := os.ReadFile(*ca)
	if err != nil {
		return fmt.Errorf("load authority: %w", err)
	}
	handler := refbackend.NewHandler(refbackend.Config{Store: store, AutoApprove: *auto, Logger: log})
	srv, err := refbackend.NewServer(handler, refbackend.TLS{Certificate: pair, ClientCA: authority, EdgeAPI: *name}, log)
	if err != nil {
		return err
	}
	srv.Addr = *addr
	ended := make(chan error, 1)
	go func() { ended <- srv.ListenAndServeTLS("", "") }()
	log.Info("serving", "address", *addr, "dir", *dir)
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	err = srv.Shutdown(grace)
	if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}
