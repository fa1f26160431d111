// Package receive understands what measurements are sent: requests of Prometheus
// remote write 1.0, and syslog messages by tcp.
package receive
