package adapter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/project-flotta/flotta-agent/internal/host/devnode"
	"github.com/project-flotta/flotta-agent/internal/host/mounts"
	"github.com/project-flotta/flotta-agent/internal/host/socket"
	"github.com/project-flotta/flotta-agent/internal/workload"
)

// Host is a workload.HostTable of the host that this process runs on.
type Host struct {
	mounts  *mounts.Table
	sockets *socket.Table
	devices *devnode.Table
}

// HostConfig is what a Host needs.
type HostConfig struct {
	UID, GID int // of the user who runs the pods
}

// NewHost returns the host's tables; it reads nothing.
func NewHost(cfg HostConfig) *Host {
	return &Host{
		mounts: mounts.New(mounts.Default), sockets: socket.New(socket.Config{Owner: nameOf}),
		devices: devnode.New(devnode.Config{UID: uint32(cfg.UID), GID: uint32(cfg.GID)}), //nolint:gosec // ids have 32 bits
	}
}

// Device returns nil when the user of the pods can use a device so.
func (h *Host) Device(use workload.DeviceUse) error {
	kind := devnode.Any
	switch use.Kind {
	case workload.DeviceChar:
		kind = devnode.Character
	case workload.DeviceBlock:
		kind = devnode.Block
	}
	err := h.devices.Check(devnode.Use{Path: use.Path, Kind: kind, Group: use.Groups})
	if problem, known := errors.AsType[*devnode.Problem](err); known {
		return &workload.DeviceError{Missing: problem.Missing, Text: problem.Text}
	}
	return err
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

// Watch calls changed when a mount, or a device that was asked for, appeared or
// vanished.
func (h *Host) Watch(ctx context.Context, changed func()) error {
	ctx, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.devices.Watch(ctx, changed)
	}()
	err := h.mounts.Watch(ctx, changed)
	stop()
	<-done
	return err
}
