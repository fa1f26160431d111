package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/project-flotta/flotta-agent/internal/agent"
	"github.com/project-flotta/flotta-agent/internal/console"
	"github.com/project-flotta/flotta-agent/internal/doctor"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

func doctorCommand(env func(string) string, stdout io.Writer) *cobra.Command {
	var format string
	var all bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look for what keeps this device from working",
		Long: "Look for what keeps this device from working, and say what to do about it. The agent need not run for that. Run it\n" +
			"as root: others may not see everything.\n\n" +
			"It looks at the clock, the certificate, the name, the connection and the trust of each server that the device\n" +
			"has to reach, and at yggdrasil, Podman, systemd, lingering, cgroups, subordinate ids, SELinux, disks, inotify and\n" +
			"nftables. Nothing is changed.\n\n" +
			"The exit code is 0 when nothing has failed, also with warnings, 1 when something has, and 2 when it could not look.",
		Args: func(cmd *cobra.Command, args []string) error { return unknown(cobra.NoArgs(cmd, args)) },
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := console.Check(format); err != nil {
				return unknown(err)
			}
			report := examine(cmd.Context(), agent.Examine(examined(env)))
			color := terminalSize(stdout, env) != nil && colored(env)
			if err := showReport(stdout, report, format, all, color); err != nil {
				return unknown(err)
			}
			if report.Level == doctor.Fail {
				return &exitError{code: exitUnhealthy}
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&format, "output", "o", console.FormatTable, "table, json or yaml")
	cmd.Flags().BoolVarP(&all, "all", "a", false, "in the table, show also what is well and what does not apply")
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return unknown(err) })
	return cmd
}

// examined are the files to be read, as the environment has them.
func examined(env func(string) string) agent.ExaminePaths {
	return agent.ExaminePaths{Config: env("FLOTTA_CONFIG"), Yggd: env("YGG_CONFIG_DIR")}
}

// examine has this machine looked at. All of the report can be printed.
func examine(ctx context.Context, device *agent.Examination) doctor.Report {
	report := doctor.Examine(ctx, doctor.ThisHost(), device.Subject())
	for i := range report.Findings {
		f := &report.Findings[i]
		f.Subject, f.Found, f.Advice = protocol.Printable(f.Subject), protocol.Printable(f.Found), protocol.Printable(f.Advice)
	}
	return report
}

func showReport(w io.Writer, report doctor.Report, format string, all, color bool) error {
	var out []byte
	var err error
	switch format {
	case console.FormatJSON:
		out, err = json.MarshalIndent(report, "", "  ")
		out = append(out, '\n')
	case console.FormatYAML:
		out, err = console.YAML(report)
	default:
		out = []byte(reportTable(report, all, color))
	}
	if err != nil {
		return fmt.Errorf("encode report: %w", err)
	}
	_, err = w.Write(out)
	return err
}

// reportTable lists what was found, each thing with what to do about it.
func reportTable(report doctor.Report, all, color bool) string {
	var b strings.Builder
	for _, f := range report.Findings {
		bad := f.Level == doctor.Warn || f.Level == doctor.Fail
		if !all && !bad {
			continue
		}
		subject := ""
		if f.Subject != "" {
			subject = f.Subject + ": "
		}
		fmt.Fprintf(&b, "%s %-12s %s%s\n", paint(f.Level, color), f.Check, subject, f.Found)
		if f.Advice != "" {
			fmt.Fprintf(&b, "%-18s -> %s\n", "", f.Advice)
		}
	}
	if b.Len() > 0 {
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "%d looked at: %d failed, %d warnings, %d well, %d not applicable\n", len(report.Findings),
		report.Count(doctor.Fail), report.Count(doctor.Warn), report.Count(doctor.OK), report.Count(doctor.Skip))
	return b.String()
}

// paint writes a level, in its colour.
func paint(l doctor.Level, color bool) string {
	text := fmt.Sprintf("%-5s", strings.ToUpper(string(l)))
	code, ok := map[doctor.Level]string{doctor.OK: "32", doctor.Warn: "33", doctor.Fail: "31"}[l]
	if !color || !ok {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}
