// Package adapter fits Podman and systemd to what the workload reconciler needs:
// Pods is its PodRuntime and Units its UnitControl.
//
// It translates and keeps no state but a cache. It decides nothing about
// workloads; the names of their units are its own.
package adapter
