package systemd

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// UnitStatus is one loaded unit of a list.
type UnitStatus struct {
	Name        string
	LoadState   string // loaded, not-found, bad-setting …
	ActiveState string // active, inactive, failed, activating, deactivating, reloading
	SubState    string // running, dead, auto-restart …
}

// Unit is one unit in detail.
type Unit struct {
	UnitStatus
	FileState      string // enabled, disabled, static, masked …
	Result         string // success, exit-code, signal, timeout, start-limit-hit …; of a service
	Restarts       uint32 // automatic ones since the last start by hand; of a service
	ExecMainStatus int32  // exit status or signal of the main process; of a service
	StateChange    time.Time
	NeedReload     bool     // its files are not those that the manager has read
	Fragment       string   // file that it was read from; empty: there is none
	NeededBy       []string // units that stop when it is stopped, running or not
}

// Units lists the loaded units whose names match the shell pattern, in the
// manager's order.
func (c *Client) Units(ctx context.Context, pattern string) ([]UnitStatus, error) {
	var out []UnitStatus
	err := c.call(ctx, func(ctx context.Context, l *link) error {
		list, err := l.ListUnitsByPatternsContext(ctx, nil, []string{pattern})
		for _, u := range list {
			out = append(out, UnitStatus{
				Name: u.Name, LoadState: u.LoadState, ActiveState: u.ActiveState, SubState: u.SubState,
			})
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list units %s: %w", pattern, err)
	}
	return out, nil
}

// Unit reads one unit; ErrNotFound when there is no such unit file.
func (c *Client) Unit(ctx context.Context, name string) (Unit, error) {
	var props map[string]any
	err := c.call(ctx, func(ctx context.Context, l *link) error {
		var err error
		props, err = l.GetAllPropertiesContext(ctx, name)
		return err
	})
	if err != nil {
		return Unit{}, fmt.Errorf("read unit %s: %w", name, err)
	}
	u := Unit{
		UnitStatus: UnitStatus{
			Name: name, LoadState: text(props, "LoadState"),
			ActiveState: text(props, "ActiveState"), SubState: text(props, "SubState"),
		},
		FileState: text(props, "UnitFileState"),
		Result:    text(props, "Result"),
		Fragment:  text(props, "FragmentPath"),
	}
	if u.LoadState == "not-found" {
		return Unit{}, fmt.Errorf("read unit %s: %w", name, ErrNotFound)
	}
	u.NeedReload, _ = props["NeedDaemonReload"].(bool)
	for _, key := range []string{"RequiredBy", "BoundBy"} {
		units, _ := props[key].([]string)
		u.NeededBy = append(u.NeededBy, units...)
	}
	u.Restarts, _ = props["NRestarts"].(uint32)
	u.ExecMainStatus, _ = props["ExecMainStatus"].(int32)
	if micros, ok := props["StateChangeTimestamp"].(uint64); ok && micros > 0 {
		u.StateChange = time.UnixMicro(int64(micros)).UTC() //nolint:gosec // no clock goes that far
	}
	return u, nil
}

func text(props map[string]any, key string) string {
	s, _ := props[key].(string)
	return s
}

// Wants lists what the unit wants, enabled units among them as of the last
// reload; ErrNotFound when there is no such unit file.
func (c *Client) Wants(ctx context.Context, unit string) ([]string, error) {
	var out []string
	err := c.call(ctx, func(ctx context.Context, l *link) error {
		props, err := l.GetUnitPropertiesContext(ctx, unit)
		if err != nil {
			return err
		}
		if text(props, "LoadState") == "not-found" {
			return ErrNotFound
		}
		out, _ = props["Wants"].([]string)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read unit %s: %w", unit, err)
	}
	return out, nil
}

// Enable hooks the units into the targets that their files name, and reloads.
// It starts nothing, and is no error for a unit that is enabled.
func (c *Client) Enable(ctx context.Context, units ...string) error {
	err := c.call(ctx, func(ctx context.Context, l *link) error {
		_, changes, err := l.EnableUnitFilesContext(ctx, units, false, false)
		if err != nil || len(changes) == 0 {
			return err
		}
		return l.ReloadContext(ctx)
	})
	if err != nil {
		return fmt.Errorf("enable %v: %w", units, err)
	}
	return nil
}

// Disable is the opposite of Enable. It stops nothing.
func (c *Client) Disable(ctx context.Context, units ...string) error {
	err := c.call(ctx, func(ctx context.Context, l *link) error {
		changes, err := l.DisableUnitFilesContext(ctx, units, false)
		if err != nil || len(changes) == 0 {
			return err
		}
		return l.ReloadContext(ctx)
	})
	if err != nil {
		return fmt.Errorf("disable %v: %w", units, err)
	}
	return nil
}

// Reload makes the manager read its unit files again.
func (c *Client) Reload(ctx context.Context) error {
	err := c.call(ctx, func(ctx context.Context, l *link) error { return l.ReloadContext(ctx) })
	if err != nil {
		return fmt.Errorf("reload units: %w", err)
	}
	return nil
}

// ResetFailed clears the failed state and the restart counter of the unit; it is
// no error for one that is not loaded.
func (c *Client) ResetFailed(ctx context.Context, unit string) error {
	err := c.call(ctx, func(ctx context.Context, l *link) error {
		return l.ResetFailedUnitContext(ctx, unit)
	})
	if err != nil && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("reset %s: %w", unit, err)
	}
	return nil
}
