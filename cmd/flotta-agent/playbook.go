package main

import (
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/project-flotta/flotta-agent/internal/host/playbook"
)

// playbookCommand runs one playbook, as the main process of a unit of its own.
func playbookCommand(stderr io.Writer) *cobra.Command {
	return &cobra.Command{
		Use:    "playbook-run folder",
		Short:  "Run the playbook that the agent has put into a folder",
		Long:   "Run the playbook that the agent has put into a folder, once. flotta-playbook@.service starts this.",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return playbook.Execute(cmd.Context(), args[0], slog.New(slog.NewTextHandler(stderr, nil)))
		},
	}
}
