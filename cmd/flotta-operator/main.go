package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/project-flotta/flotta-agent/internal/operator"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(os.Getenv, os.Stderr).ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "flotta-operator:", err)
		os.Exit(1)
	}
}

// command is the whole program, with its environment and its log.
func command(env func(string) string, stderr io.Writer) *cobra.Command {
	return &cobra.Command{
		Use:           "flotta-operator",
		Short:         "Reconcile edge devices, workloads and their settings in Kubernetes",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := readSettings(env)
			if err != nil {
				return err
			}
			return run(cmd.Context(), s, stderr)
		},
	}
}

func run(ctx context.Context, s settings, stderr io.Writer) error {
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: s.logLevel}))
	// The libraries have loggers of their own, which they reach globally.
	ctrllog.SetLogger(logr.FromSlogHandler(log.Handler()))
	klog.SetSlogLogger(log)
	for _, text := range s.ignored {
		log.Warn("setting without effect", "reason", text)
	}
	connection, err := connect(s.kubeconfig)
	if err != nil {
		return fmt.Errorf("connect to Kubernetes (set KUBECONFIG outside of a cluster): %w", err)
	}
	o, err := operator.New(operator.Config{
		REST:                connection,
		Namespaces:          s.namespaces,
		AutoApprove:         s.autoApprove,
		AutoClaim:           s.autoClaim,
		OfflineAfter:        s.offlineAfter,
		Concurrency:         s.concurrency,
		WorkloadConcurrency: s.workloadConcurrency,
		ConfigConcurrency:   s.configConcurrency,
		MetricsAddr:         s.metricsAddr,
		ProbeAddr:           s.probeAddr,
		LeaderElection:      s.leaderElection,
		ControlNamespace:    s.controlNamespace,
		Registerer:          metrics.Registry,
		Logger:              log,
	})
	if err != nil {
		return err
	}
	return o.Run(ctx)
}

func connect(kubeconfig string) (*rest.Config, error) {
	if kubeconfig != "" {
		return clientcmd.BuildConfigFromFlags("", kubeconfig)
	}
	return rest.InClusterConfig()
}
