package agent

import (
	"errors"
	"net/url"
)

// MetricsConfig sets where the metrics of the host itself come from. What is
// measured, and who gets it, is in the desired state.
type MetricsConfig struct {
	NodeExporterURL string `toml:"node-exporter-url"` // default http://localhost:9100/metrics
	// NodeExporterUnit is enabled and started when system metrics are wanted:
	// auto, the default, is the one that the distribution has; none: nothing is.
	NodeExporterUnit string `toml:"node-exporter-unit"`
}

const (
	anyUnit = "auto"
	noUnit  = "none"
)

func (c MetricsConfig) withDefaults() MetricsConfig {
	setDefault(&c.NodeExporterURL, "http://localhost:9100/metrics")
	setDefault(&c.NodeExporterUnit, anyUnit)
	return c
}

func (c MetricsConfig) validate() error {
	u, err := url.Parse(c.NodeExporterURL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		// Without the value: it may hold a password.
		return errors.New("metrics.node-exporter-url: must be an address such as http://localhost:9100/metrics")
	}
	return nil
}

// unit returns the unit to be started; empty: none.
func (c MetricsConfig) unit() string {
	if c.NodeExporterUnit == noUnit {
		return ""
	}
	return c.NodeExporterUnit
}
