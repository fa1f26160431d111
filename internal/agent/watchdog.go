package agent

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// service is this process as systemd supervises it.
type service struct {
	tell     func(state string) error
	watchdog time.Duration // after which systemd ends a process that does not say that it lives; zero: never
	log      *slog.Logger
}

// newService returns the service that this process is. One that systemd does not
// supervise tells nobody.
func newService(log *slog.Logger) *service {
	watchdog, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("watchdog not used", "err", err)
	}
	return &service{watchdog: watchdog, log: log, tell: func(state string) error {
		_, err := daemon.SdNotify(false, state)
		return err
	}}
}

// loop is a main loop of the agent.
type loop struct {
	name  string
	alive func(context.Context) error
}

// run says that the service is ready, and then, as often as systemd wants it, that it
// lives, as long as all loops do. None of them counts waiting for the network as anything
// else: a device that is offline lives.
func (s *service) run(ctx context.Context, loops []loop) error {
	s.say(daemon.SdNotifyReady)
	defer s.say(daemon.SdNotifyStopping)
	if s.watchdog <= 0 {
		<-ctx.Done()
		return nil
	}
	// A look takes at most half of the time, and the next one begins a quarter of
	// it later.
	patience := s.watchdog / 2
	tick := time.NewTicker(max(s.watchdog/4, time.Millisecond))
	defer tick.Stop()
	for {
		if stuck := feel(ctx, loops, patience); len(stuck) == 0 {
			s.say(daemon.SdNotifyWatchdog)
		} else if ctx.Err() == nil {
			s.log.Error("the agent hangs and will be restarted by systemd", "loops", stuck, "patience", patience)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// feel returns the names of the loops that did not come round in time.
func feel(ctx context.Context, loops []loop, patience time.Duration) []string {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	errs := make([]error, len(loops))
	var all sync.WaitGroup
	for i, l := range loops {
		all.Go(func() { errs[i] = l.alive(ctx) })
	}
	all.Wait()
	var stuck []string
	for i, err := range errs {
		if err != nil {
			stuck = append(stuck, loops[i].name)
		}
	}
	slices.Sort(stuck)
	return stuck
}

func (s *service) say(state string) {
	if err := s.tell(state); err != nil {
		s.log.Warn("systemd not told", "state", state, "err", err)
	}
}
