package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/project-flotta/flotta-agent/internal/agent"
)

// version is set when a release is linked.
var version = "0.0.0"

func main() {
	// yggd reads the standard streams. When it dies, a log line must not be
	// what ends the agent.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(os.Getenv, os.Stdout, os.Stderr).ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "flotta-agent:", err)
		os.Exit(1)
	}
}

// command is the whole program, with its environment and its outputs.
func command(env func(string) string, stdout, stderr io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:           "flotta-agent",
		Short:         "Make this host a managed edge device",
		Long:          "Started by yggdrasil, it is the worker that runs what the control plane tells this device.",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return work(cmd.Context(), env, stderr)
		},
	}
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.AddCommand(&cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(stdout, version)
			return err
		},
	})
	return root
}

// work runs the agent as a worker of yggd.
func work(ctx context.Context, env func(string) string, stderr io.Writer) error {
	if env("YGG_SOCKET_ADDR") == "" {
		return errors.New("YGG_SOCKET_ADDR is not set: yggdrasil starts this program, see flotta-agent --help")
	}
	path := env("FLOTTA_CONFIG")
	if path == "" {
		path = agent.DefaultConfigPath
	}
	cfg, err := agent.LoadConfig(path)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: cfg.Level()}))
	log.Info("agent started", "version", version)
	return agent.RunWorker(ctx, cfg, agent.WorkerEnv{
		SocketAddr: env("YGG_SOCKET_ADDR"),
		ConfigDir:  env("YGG_CONFIG_DIR"),
		ClientID:   env("YGG_CLIENT_ID"),
		Version:    version,
	}, log)
}
