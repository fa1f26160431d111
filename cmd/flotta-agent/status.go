package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/project-flotta/flotta-agent/internal/console"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Exit codes of the commands that ask the agent, besides 0.
const (
	exitUnhealthy = 1 // something is not as desired
	exitUnknown   = 2 // the agent could not be asked
	exitUnmanaged = 3 // the control plane does not manage this device
)

// exitError ends the program with a code. Err may be nil: all was said.
type exitError struct {
	code int
	err  error
}

// Error returns the text of what the code is for.
func (e *exitError) Error() string {
	if e.err == nil {
		return "not as desired"
	}
	return e.err.Error()
}

// Unwrap returns what the code is for.
func (e *exitError) Unwrap() error { return e.err }

// asking are the settings of the commands that ask the agent.
type asking struct {
	socket string
	env    func(string) string
	stdout io.Writer
}

// command completes a command that asks the agent: what it is called with cannot
// tell anything about the device.
func (a *asking) command(cmd *cobra.Command) *cobra.Command {
	args := cmd.Args
	cmd.Args = func(cmd *cobra.Command, given []string) error { return unknown(args(cmd, given)) }
	cmd.Flags().StringVar(&a.socket, "socket", console.DefaultSocket, "where the agent listens")
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return unknown(err) })
	return cmd
}

const (
	defaultWatch = "1s"
	// leastWatch keeps a mistyped time from keeping the agent busy.
	leastWatch = 100 * time.Millisecond
)

func statusCommand(env func(string) string, stdout io.Writer) *cobra.Command {
	a := asking{env: env, stdout: stdout}
	var format string
	var watch time.Duration
	cmd := a.command(&cobra.Command{
		Use:   "status",
		Short: "Show what the agent, its workloads and their data are doing",
		Long: "Show what the agent, its workloads and their data are doing.\n\n" +
			"The exit code is 0 when all is as desired, 1 when something is not, 2 when the agent could not be asked, and 3\n" +
			"when the device is not managed: it is not registered yet, or it is leaving. To be offline is not wrong.\n\n" +
			"With --watch it shows the files that travel, until it is interrupted; on anything but a terminal it writes a\n" +
			"line for each change. NO_COLOR switches colours off.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("watch") {
				return a.watch(cmd.Context(), format, watch)
			}
			return a.status(cmd.Context(), format)
		},
	})
	cmd.Flags().StringVarP(&format, "output", "o", console.FormatTable, "table, json or yaml")
	cmd.Flags().DurationVar(&watch, "watch", 0, "show the data synchronisation, so often; --watch alone is --watch="+defaultWatch)
	cmd.Flags().Lookup("watch").NoOptDefVal = defaultWatch
	return cmd
}

func (a *asking) status(ctx context.Context, format string) error {
	if err := console.Check(format); err != nil {
		return unknown(err)
	}
	document, err := console.Fetch(ctx, a.socket)
	if err != nil {
		return unknown(err)
	}
	color := terminalSize(a.stdout, a.env) != nil && colored(a.env)
	if err := console.Show(a.stdout, document, format, time.Now(), color); err != nil {
		return unknown(err)
	}
	switch {
	case document.Device.Phase == console.PhaseRegistering, document.Device.Phase == console.PhaseLeaving:
		return &exitError{code: exitUnmanaged}
	case !document.Healthy:
		return &exitError{code: exitUnhealthy}
	}
	return nil
}

func (a *asking) watch(ctx context.Context, format string, every time.Duration) error {
	switch {
	case format != console.FormatTable:
		return unknown(fmt.Errorf("output %q: --watch has a picture of its own", format))
	case every < leastWatch:
		return unknown(fmt.Errorf("watch %s: must be at least %s, such as --watch=%s", every, leastWatch, defaultWatch))
	}
	view := console.View{
		Fetch: func(ctx context.Context) (console.Document, error) { return console.Fetch(ctx, a.socket) },
		Every: every, Out: a.stdout, Size: terminalSize(a.stdout, a.env), Color: colored(a.env),
	}
	return unknown(view.Run(ctx))
}

func syncCommand(env func(string) string, stdout io.Writer) *cobra.Command {
	a := asking{env: env, stdout: stdout}
	var audit bool
	cmd := a.command(&cobra.Command{
		Use:   "sync [workload...]",
		Short: "Synchronise data paths now",
		Long: "Have the agent look at the data paths of the workloads now, or of all, instead of when it is time, and wait until\n" +
			"it has.\n\n" +
			"With --audit it lists the buckets, and sends again what vanished from them.\n\n" +
			"The exit code is 0 when all of it worked, 1 when something did not, and 2 when the agent could not be asked. An\n" +
			"interruption ends the waiting, not the synchronisation.",
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.sync(cmd.Context(), console.SyncRequest{Workloads: args, Audit: audit})
		},
	})
	cmd.Flags().BoolVar(&audit, "audit", false, "look for what vanished from the buckets")
	return cmd
}

func (a *asking) sync(ctx context.Context, request console.SyncRequest) error {
	results, err := console.Sync(ctx, a.socket, request)
	if err != nil {
		if errors.Is(err, context.Canceled) {
			err = errors.New("interrupted: the agent goes on, see flotta-agent status")
		}
		return unknown(err)
	}
	well, err := console.ShowSync(a.stdout, results)
	switch {
	case err != nil:
		return unknown(err)
	case !well:
		return &exitError{code: exitUnhealthy}
	}
	return nil
}

func metricsCommand(env func(string) string, stdout io.Writer) *cobra.Command {
	a := asking{env: env, stdout: stdout}
	return a.command(&cobra.Command{
		Use:   "metrics",
		Short: "Print the agent's metrics in the text format of Prometheus",
		Long: "Print the agent's metrics in the text format of Prometheus. They count since the agent was started.\n\n" +
			"The exit code is 0, or 2 when the agent could not be asked.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			raw, err := console.FetchMetrics(cmd.Context(), a.socket)
			if err == nil {
				_, err = stdout.Write(raw)
			}
			return unknown(err)
		},
	})
}

func levelCommand(env func(string) string, stdout io.Writer) *cobra.Command {
	a := asking{env: env, stdout: stdout}
	return a.command(&cobra.Command{
		Use:   "log-level [debug|info|warn|error]",
		Short: "Show or change what the agent logs",
		Long: "Show or change from which level on the agent logs. A change holds until the agent is restarted; the setting\n" +
			"log-level in /etc/flotta/agent.toml holds for longer.\n\n" +
			"The exit code is 0, or 2 when the agent could not be asked.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				document, err := console.Fetch(cmd.Context(), a.socket)
				if err == nil {
					_, err = fmt.Fprintln(stdout, protocol.Printable(document.LogLevel))
				}
				return unknown(err)
			}
			before, err := console.SetLevel(cmd.Context(), a.socket, args[0])
			if err == nil {
				_, err = fmt.Fprintf(stdout, "%s, was %s\n", args[0], before)
			}
			return unknown(err)
		},
	})
}

// unknown makes err one that tells nothing of the device's health.
func unknown(err error) error {
	if err == nil {
		return nil
	}
	return &exitError{code: exitUnknown, err: err}
}
