package osupdate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/project-flotta/flotta-agent/internal/command"
)

// HostConfig is what NewHost needs.
type HostConfig struct {
	// Root is where the host's files are; "/".
	Root string
	// Scratch is a folder for what is gone again when a call returns. It is
	// made.
	Scratch string
	// Env is the environment of the tools beside PATH and LC_ALL, such as the
	// variables of a proxy.
	Env []string
	// Grace is how long a tool may take to end after it was interrupted; 10 s.
	Grace time.Duration
}

// Host is the Target that the host has: bootc where it runs an image, else
// rpm-ostree.
type Host struct {
	cfg HostConfig
	run runner

	mu   sync.Mutex
	tool Target // nil: not known yet
}

// NewHost returns the Target of the host; it touches nothing.
func NewHost(cfg HostConfig) (*Host, error) {
	if cfg.Root == "" {
		cfg.Root = "/"
	}
	if cfg.Grace == 0 {
		cfg.Grace = defaultGrace
	}
	switch {
	case !filepath.IsAbs(cfg.Root) || !filepath.IsAbs(cfg.Scratch):
		return nil, errors.New("osupdate host config: Root and Scratch must be absolute paths")
	case cfg.Grace < 0:
		return nil, errors.New("osupdate host config: Grace is negative")
	}
	run := runner{command.Runner{Env: cfg.Env, Grace: cfg.Grace}}
	for _, dir := range []string{"usr/bin", "usr/sbin", "bin", "sbin"} {
		run.Dirs = append(run.Dirs, filepath.Join(cfg.Root, dir))
	}
	return &Host{cfg: cfg, run: run}, nil
}

// find returns the tool that the host has.
func (h *Host) find(ctx context.Context) (Target, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.tool != nil {
		return h.tool, nil
	}
	if _, err := os.Stat(filepath.Join(h.cfg.Root, "run/ostree-booted")); err != nil {
		return nil, ErrNoTool
	}
	if err := os.MkdirAll(h.cfg.Scratch, 0o700); err != nil {
		return nil, fmt.Errorf("make folder: %w", err)
	}
	if h.run.Has("bootc") {
		tool := &bootc{run: h.run, root: h.cfg.Root}
		switch _, err := tool.Read(ctx); {
		case err == nil:
			h.tool = tool
			return h.tool, nil
		case !errors.Is(err, errNoImages):
			// Nothing is guessed: taken for a host of rpm-ostree, this one would
			// seem to run something else than it does.
			return nil, err
		}
	}
	if !h.run.Has("rpm-ostree") {
		return nil, ErrNoTool
	}
	h.tool = &rpmOstree{run: h.run, root: h.cfg.Root, scratch: h.cfg.Scratch}
	return h.tool, nil
}

// Read implements Target.
func (h *Host) Read(ctx context.Context) (System, error) {
	tool, err := h.find(ctx)
	if err != nil {
		return System{}, err
	}
	return tool.Read(ctx)
}

// Lookup implements Target.
func (h *Host) Lookup(ctx context.Context, goal Goal) error {
	tool, err := h.find(ctx)
	if err != nil {
		return err
	}
	return tool.Lookup(ctx, goal)
}

// Source implements Target.
func (h *Host) Source(ctx context.Context, goal Goal) error {
	tool, err := h.find(ctx)
	if err != nil {
		return err
	}
	return tool.Source(ctx, goal)
}

// Stage implements Target.
func (h *Host) Stage(ctx context.Context, goal Goal) error {
	tool, err := h.find(ctx)
	if err != nil {
		return err
	}
	return tool.Stage(ctx, goal)
}

// Unstage implements Target.
func (h *Host) Unstage(ctx context.Context) error {
	tool, err := h.find(ctx)
	if err != nil {
		return err
	}
	return tool.Unstage(ctx)
}
