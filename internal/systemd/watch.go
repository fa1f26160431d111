package systemd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	sd "github.com/coreos/go-systemd/v22/dbus"
)

// watchBuffer is how many changes may wait. A burst beyond it is not lost: it
// comes as one change of an unnamed unit.
const watchBuffer = 256

// Watch calls changed with the name of each unit that begins with prefix when
// one of its properties changes, and with "" when it may have missed some. It
// blocks; it calls changed("") once as soon as it watches, so that the caller
// reads the state after and not before. It returns nil when ctx ended, and
// ErrUnavailable when the connection broke.
func (c *Client) Watch(ctx context.Context, prefix string, changed func(unit string)) error {
	dialCtx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	// A connection of its own, so that signals never wait behind calls.
	l, err := dial(dialCtx, c.socket)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("watch units: %w", err)
	}
	defer l.close()

	updates := make(chan *sd.PropertiesUpdate, watchBuffer)
	overflow := make(chan error, watchBuffer)
	l.SetPropertiesSubscriber(updates, overflow)
	subscribed := make(chan error, 1)
	go func() { subscribed <- l.Subscribe() }() // has no context; l.close ends it
	select {
	case err := <-subscribed:
		if err != nil {
			return fmt.Errorf("watch units: %w", translate(ctx, l, err))
		}
	case <-dialCtx.Done():
		l.close()
		err := errors.Join(dialCtx.Err(), <-subscribed)
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("watch units: %w", err)
	}
	changed("")
	for {
		select {
		case u := <-updates:
			if strings.HasPrefix(u.UnitName, prefix) {
				changed(u.UnitName)
			}
		case <-overflow: //nolint:errcheck // it says no more than that
			changed("")
		case <-l.lost():
			return fmt.Errorf("watch units: %w", ErrUnavailable)
		case <-ctx.Done():
			return nil
		}
	}
}
