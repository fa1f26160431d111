package main

import (
	"io"
	"strings"
	"testing"
	"time"
)

func lookup(values map[string]string) func(string) string {
	return func(name string) string { return values[name] }
}

func TestSettings(t *testing.T) {
	t.Parallel()
	s, err := readSettings(lookup(nil))
	if err != nil {
		t.Fatal(err)
	}
	if !s.autoApprove || s.autoClaim || s.offlineAfter != 15*time.Minute || s.concurrency != 3 || s.workloadConcurrency != 5 ||
		s.metricsAddr != ":8080" || s.probeAddr != ":8081" || s.leaderElection || len(s.namespaces) != 1 || s.namespaces[0] != "default" ||
		s.controlNamespace != "flotta" {
		t.Errorf("defaults are %+v", s)
	}
	s, err = readSettings(lookup(map[string]string{
		"AUTO_APPROVAL_PROCESS": "false", "OBC_AUTO_CREATE": "true", "OFFLINE_AFTER": "1h", "MAX_CONCURRENT_RECONCILES": "7",
		"EDGEWORKLOAD_CONCURRENCY": "8", "EDGECONFIG_CONCURRENCY": "9", "METRICS_ADDR": "0", "LEADER_ELECT": "true",
		"ALLOWED_NAMESPACES": "a, b", "LOG_LEVEL": "debug", "ENABLE_WEBHOOKS": "true", "WEBHOOK_PORT": "9443",
	}))
	if err != nil {
		t.Fatal(err)
	}
	if s.autoApprove || !s.autoClaim || s.offlineAfter != time.Hour || s.concurrency != 7 || s.workloadConcurrency != 8 ||
		s.configConcurrency != 9 || !s.leaderElection || len(s.namespaces) != 2 || len(s.ignored) != 2 {
		t.Errorf("settings are %+v", s)
	}
}

func TestBadSettingsAreAllNamed(t *testing.T) {
	t.Parallel()
	_, err := readSettings(lookup(map[string]string{
		"AUTO_APPROVAL_PROCESS": "perhaps", "OFFLINE_AFTER": "5m", "EDGEWORKLOAD_CONCURRENCY": "0", "METRICS_ADDR": "8080",
		"ALLOWED_NAMESPACES": "Hall", "LOG_LEVEL": "loud",
	}))
	if err == nil {
		t.Fatal("bad settings are accepted")
	}
	for _, name := range []string{"AUTO_APPROVAL_PROCESS", "OFFLINE_AFTER", "EDGEWORKLOAD_CONCURRENCY", "METRICS_ADDR", "ALLOWED_NAMESPACES", "LOG_LEVEL"} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("the error does not name %s: %v", name, err)
		}
	}
}

func TestNoClusterIsAnErrorWithAWayOut(t *testing.T) {
	t.Parallel()
	c := command(lookup(nil), io.Discard)
	c.SetArgs(nil)
	if err := c.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), "KUBECONFIG") {
		t.Errorf("error is %v", err)
	}
}
