// Command flotta-operator keeps edge devices, workloads and their settings in
// Kubernetes as they should be. It has no arguments; its environment configures
// it, see settings.go and docs/kubernetes.md.
package main
