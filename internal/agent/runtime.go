package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"github.com/project-flotta/flotta-agent/internal/systemd"
	"github.com/project-flotta/flotta-agent/internal/workload/adapter"
)

// Modes of RuntimeConfig.
const (
	modeUser = "user"
	modeRoot = "root"
)

// account is the user of the host whose Podman and service manager run the
// workloads. Root's are those of the system.
type account struct {
	uid, gid int
	home     string // empty: not known
}

func (a account) podmanSocket() string {
	if a.uid == 0 {
		return "/run/podman/podman.sock"
	}
	return filepath.Join("/run/user", strconv.Itoa(a.uid), "podman", "podman.sock")
}

func (a account) managerSocket() string {
	if a.uid == 0 {
		return systemd.SystemSocket
	}
	return systemd.UserSocket(a.uid)
}

func (a account) dropIns() string {
	if a.uid == 0 {
		return adapter.SystemDropIns
	}
	return adapter.UserDropIns
}

// runtimeAccount returns the account that the settings name.
func runtimeAccount(cfg RuntimeConfig) (account, error) {
	if cfg.Mode == modeRoot {
		return account{}, nil
	}
	u, err := user.Lookup(cfg.User)
	if err != nil {
		return account{}, fmt.Errorf("setting runtime.user: %w; the package creates it, or run systemd-sysusers", err)
	}
	uid, uerr := strconv.Atoi(u.Uid)
	gid, gerr := strconv.Atoi(u.Gid)
	if err := errors.Join(uerr, gerr); err != nil {
		return account{}, fmt.Errorf("setting runtime.user: %w", err)
	}
	if uid == 0 {
		return account{}, fmt.Errorf("setting runtime.user: %s is root; that is runtime.mode = %q", cfg.User, modeRoot)
	}
	return account{uid, gid, u.HomeDir}, nil
}

// socketUnit is what listens on Podman's socket.
const socketUnit = "podman.socket"

// listening returns the task that makes Podman listen.
func (d *device) listening(owner account) func(context.Context) error {
	return func(ctx context.Context) error {
		if owner.uid != 0 {
			<-ctx.Done()
			return nil
		}
		units, err := systemd.New(systemd.Config{Socket: owner.managerSocket()})
		if err != nil {
			return err
		}
		l := listening{socket: owner.podmanSocket(), units: units, pause: 10 * time.Second, log: component(d.log, "podman")}
		return l.run(ctx)
	}
}

// listening makes the system's Podman listen, which the package does for flotta
// and nobody does for root. Until it does, the workloads are told to be out of
// reach.
type listening struct {
	socket string
	units  *systemd.Client
	pause  time.Duration // between two attempts
	log    *slog.Logger
}

// run tries until there is a socket, and then waits for the end of ctx.
func (l listening) run(ctx context.Context) error {
	defer l.units.Close()
	told := ""
	for {
		err := l.ensure(ctx)
		if err == nil || ctx.Err() != nil {
			<-ctx.Done()
			return nil
		}
		if err.Error() != told {
			told = err.Error()
			l.log.Warn("podman does not listen, will try again", "unit", socketUnit, "err", err)
		}
		select {
		case <-time.After(l.pause):
		case <-ctx.Done():
			return nil
		}
	}
}

func (l listening) ensure(ctx context.Context) error {
	if _, err := os.Stat(l.socket); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := l.units.Enable(ctx, socketUnit); err != nil {
		return err
	}
	if err := l.units.Start(ctx, socketUnit); err != nil {
		return err
	}
	l.log.Info("podman listens", "unit", socketUnit)
	return nil
}
