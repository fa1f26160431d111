package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	// The image has no certificates of its own; those of the system, where there
	// are any, come before these.
	_ "golang.org/x/crypto/x509roots/fallback"

	"github.com/project-flotta/flotta-agent/internal/edgeapi/backend/file"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(os.Getenv, os.Stdout, os.Stderr).ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "flotta-edge-api:", err)
		os.Exit(1)
	}
}

// command is the whole program, with its environment and its outputs.
func command(env func(string) string, stdout, stderr io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:           "flotta-edge-api",
		Short:         "Serve edge devices",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := readSettings(env)
			if err != nil {
				return err
			}
			return serve(cmd.Context(), s, stderr)
		},
	}
	root.SetOut(stdout)
	root.SetErr(stderr)
	device := func(use, short string, do func(ctx context.Context, a *file.Admin, id string) (string, error)) {
		root.AddCommand(&cobra.Command{
			Use: use + " DEVICE", Short: short, Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				said, err := do(cmd.Context(), file.NewAdmin(backendDir(env)), args[0])
				if err != nil {
					return err
				}
				_, err = fmt.Fprintln(stdout, said)
				return err
			},
		})
	}
	device("approve", "Let a device in that asked", func(ctx context.Context, a *file.Admin, id string) (string, error) {
		return "device " + id + " approved", a.Approve(ctx, id)
	})
	device("decline", "Refuse a device, now and later", func(ctx context.Context, a *file.Admin, id string) (string, error) {
		return "device " + id + " declined", a.Decline(ctx, id)
	})
	device("delete", "End the management of a device; it may ask again", func(ctx context.Context, a *file.Admin, id string) (string, error) {
		found, err := a.Delete(ctx, id)
		if err == nil && !found {
			return "", fmt.Errorf("device %s is not known", id)
		}
		return "device " + id + " deleted; a manifest of it would approve it again", err
	})
	root.AddCommand(others(env, stdout, stderr)...)
	return root
}

// others are the subcommands that are not about one device.
func others(env func(string) string, stdout, stderr io.Writer) []*cobra.Command {
	return []*cobra.Command{{
		Use: "devices", Short: "List devices and requests", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			rows, err := file.NewAdmin(backendDir(env)).List()
			if err != nil {
				return err
			}
			return file.WriteTable(stdout, rows, time.Now())
		},
	}, {
		Use: "bootstrap FOLDER", Short: "Write what a device needs to ask for management", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := readSettings(env)
			if err != nil {
				return err
			}
			return bootstrap(cmd.Context(), s, args[0], stdout, stderr)
		},
	}}
}
