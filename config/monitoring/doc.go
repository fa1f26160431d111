// Package monitoring holds what a Prometheus and a Grafana need to watch a fleet:
// alert rules with their tests, and dashboards. They are files; the tests beside
// them hold every expression to what the programs here expose.
package monitoring
