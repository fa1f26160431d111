package adapter

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/project-flotta/flotta-agent/internal/host/mounts"
	"github.com/project-flotta/flotta-agent/internal/host/socket"
	"github.com/project-flotta/flotta-agent/internal/workload"
)

// Host is a workload.HostTable of the host that this process runs on.
type Host struct {
	mounts  *mounts.Table
	sockets *socket.Table
}

// NewHost returns the host's tables; it reads nothing.
func NewHost() *Host {
	return &Host{mounts: mounts.New(mounts.Default), sockets: socket.New(socket.Config{Owner: nameOf})}
}

// Mounted reports whether something is mounted at the folder.
func (h *Host) Mounted(dir string) (bool, error) { return h.mounts.Mounted(dir) }

// Sockets returns the sockets that listen. One belongs to the workload whose
// unit a process that holds it lives in: such as the process of rootless Podman
// that forwards a published port.
func (h *Host) Sockets() ([]workload.Socket, error) {
	list, err := h.sockets.Sockets()
	if err != nil {
		return nil, err
	}
	out := make([]workload.Socket, 0, len(list))
	for _, s := range list {
		out = append(out, workload.Socket{
			Protocol: s.Protocol, Address: s.Address, Port: s.Port, PID: s.PID, Command: s.Command, Workload: s.Owner,
		})
	}
	return out, nil
}

// firstPortPath is where the kernel says it, for the host's network.
const firstPortPath = "/proc/sys/net/ipv4/ip_unprivileged_port_start"

// FirstPort returns the lowest port that others than root may listen at.
func (h *Host) FirstPort() (uint16, error) {
	raw, err := os.ReadFile(firstPortPath)
	if err != nil {
		return 0, fmt.Errorf("read first unprivileged port: %w", err)
	}
	port, err := strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 16)
	if err != nil {
		return 0, fmt.Errorf("read first unprivileged port from %s: %w", firstPortPath, err)
	}
	return uint16(port), nil
}

// Watch calls changed when a mount appeared or vanished.
func (h *Host) Watch(ctx context.Context, changed func()) error { return h.mounts.Watch(ctx, changed) }
