package main

import (
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/project-flotta/flotta-agent/internal/environ"
)

// minOfflineAfter is twice the interval in which the Edge API writes that it
// heard of a device, so that no device is called offline that reports.
const minOfflineAfter = 10 * time.Minute

// defaultNamespace is where the operator is installed.
const defaultNamespace = "flotta"

// namespaceFile tells a pod its namespace.
const namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// settings is the environment, read and checked.
type settings struct {
	kubeconfig             string
	namespaces             []string
	autoApprove, autoClaim bool
	offlineAfter           time.Duration
	concurrency            int
	workloadConcurrency    int
	configConcurrency      int
	metricsAddr, probeAddr string
	leaderElection         bool
	controlNamespace       string
	logLevel               slog.Level
	ignored                []string // what should be said about settings that do nothing
}

// readSettings reads the environment and names all that is wrong with it.
func readSettings(lookup func(string) string) (settings, error) {
	r := environ.New(lookup)
	concurrency := environ.Number(1, 1000)
	s := settings{
		kubeconfig:          r.Text("KUBECONFIG"),
		namespaces:          environ.Read(r, "ALLOWED_NAMESPACES", "default", environ.Namespaces),
		autoApprove:         environ.Read(r, "AUTO_APPROVAL_PROCESS", "true", environ.Boolean),
		autoClaim:           environ.Read(r, "OBC_AUTO_CREATE", "false", environ.Boolean),
		offlineAfter:        environ.Read(r, "OFFLINE_AFTER", "15m", environ.Duration(minOfflineAfter)),
		concurrency:         environ.Read(r, "MAX_CONCURRENT_RECONCILES", "3", concurrency),
		workloadConcurrency: environ.Read(r, "EDGEWORKLOAD_CONCURRENCY", "5", concurrency),
		configConcurrency:   environ.Read(r, "EDGECONFIG_CONCURRENCY", "5", concurrency),
		metricsAddr:         environ.Read(r, "METRICS_ADDR", ":8080", environ.Listen),
		probeAddr:           environ.Read(r, "PROBE_ADDR", ":8081", environ.Listen),
		leaderElection:      environ.Read(r, "LEADER_ELECT", "false", environ.Boolean),
		controlNamespace:    ownNamespace(),
		logLevel:            environ.Read(r, "LOG_LEVEL", "info", environ.Level),
	}
	for _, name := range []string{"ENABLE_WEBHOOKS", "WEBHOOK_PORT"} {
		if text := r.Text(name); text != "" && text != "false" {
			s.ignored = append(s.ignored, name+": objects are checked by their schema, there are no webhooks")
		}
	}
	if err := r.Err(); err != nil {
		return settings{}, err
	}
	return s, nil
}

// ownNamespace is the namespace of the pod, where there is one.
func ownNamespace() string {
	raw, err := os.ReadFile(namespaceFile)
	if name := strings.TrimSpace(string(raw)); err == nil && name != "" {
		return name
	}
	return defaultNamespace
}
