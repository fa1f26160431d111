package main

import (
	"cmp"
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
	os.Exit(exitCode(err, os.Stderr))
}

// exitCode says what went wrong, unless that was said already, and returns the
// code that the program ends with.
func exitCode(err error, stderr io.Writer) int {
	code := 1
	exit, ok := errors.AsType[*exitError](err)
	if ok {
		code, err = exit.code, exit.err
	}
	if err != nil {
		_, _ = fmt.Fprintln(stderr, "flotta-agent:", err) // there is nobody else to tell
	} else if !ok {
		code = 0
	}
	return code
}

// command is the whole program, with its environment and its outputs.
func command(env func(string) string, stdout, stderr io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:   "flotta-agent",
		Short: "Make this host a managed edge device",
		Long: "Started by yggdrasil, it is the worker that runs what the control plane tells this device. \"flotta-agent run\" does\n" +
			"the same without yggdrasil.",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if env("YGG_SOCKET_ADDR") == "" {
				return errors.New("YGG_SOCKET_ADDR is not set: yggdrasil starts this program so; \"flotta-agent run\" does without yggdrasil, see flotta-agent --help")
			}
			return start(env, stderr, func(cfg agent.Config, level *slog.LevelVar, log *slog.Logger) error {
				return agent.RunWorker(cmd.Context(), cfg, agent.WorkerEnv{
					SocketAddr: env("YGG_SOCKET_ADDR"),
					ConfigDir:  env("YGG_CONFIG_DIR"),
					ClientID:   env("YGG_CLIENT_ID"),
					Version:    version,
					Level:      level,
				}, log)
			})
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
	}, runCommand(env, stderr), statusCommand(env, stdout), syncCommand(env, stdout), metricsCommand(env, stdout), levelCommand(env, stdout),
		doctorCommand(env, stdout), bundleCommand(env, stdout, stderr), playbookCommand(stderr))
	return root
}

// start reads the settings and runs the agent.
func start(env func(string) string, stderr io.Writer, run func(agent.Config, *slog.LevelVar, *slog.Logger) error) error {
	cfg, err := agent.LoadConfig(cmp.Or(env("FLOTTA_CONFIG"), agent.DefaultConfigPath))
	if err != nil {
		return err
	}
	level := new(slog.LevelVar) // can be changed while the agent runs
	level.Set(cfg.Level())
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	log.Info("agent started", "version", version)
	return run(cfg, level, log)
}

// runCommand is the agent as a service of its own.
func runCommand(env func(string) string, stderr io.Writer) *cobra.Command {
	return &cobra.Command{
		Use:   "run",
		Short: "Run the agent without yggdrasil",
		Long: "Run the agent as a service of its own, which asks the control plane by itself: for hosts whose yggdrasil has no\n" +
			"gRPC workers, 0.3 and later, and for those without one. Where the control plane is and with which credential to go\n" +
			"there is in the section [server] of /etc/flotta/agent.toml. flotta-agent.service starts this.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return start(env, stderr, func(cfg agent.Config, level *slog.LevelVar, log *slog.Logger) error {
				return agent.RunDirect(cmd.Context(), cfg, agent.DirectEnv{Version: version, Level: level}, log)
			})
		},
	}
}
