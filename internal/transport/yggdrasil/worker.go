package yggdrasil

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/project-flotta/flotta-agent/internal/transport"
	"github.com/project-flotta/flotta-agent/internal/transport/yggdrasil/pb"
)

// ErrOrphaned says that the yggd that started this process is gone and none
// answers at its address.
var ErrOrphaned = errors.New("orphaned by yggd")

// Delays between attempts to register, before jitter.
const (
	registerDelay    = 500 * time.Millisecond
	registerDelayMax = 15 * time.Second
	registerTimeout  = 10 * time.Second
)

// Run registers with yggd and delivers to h, until ctx ends (nil) or yggd is
// gone for good (ErrOrphaned). See the package documentation for what happens
// when yggd restarts.
func (w *Worker) Run(ctx context.Context, h transport.Handler) error {
	defer w.removePIDFile()
	var current *session
	defer func() { current.close() }()
	for {
		next, err := w.establish(ctx, current, h)
		if ctx.Err() != nil {
			next.close()
			return nil
		}
		if err != nil {
			return err
		}
		current = next
		select {
		case <-ctx.Done():
			return nil
		case <-current.ended:
			w.cfg.Log.Warn("worker socket broke", slog.Any("err", current.err))
		case <-current.at.link.lost:
			w.cfg.Log.Warn("connection to yggd lost", slog.String("address", w.socket))
		}
	}
}

// establish opens a session in the place of old, trying until it succeeds.
// Until then old goes on serving: if no more than the connection was lost, yggd
// still holds the old registration and sends to the old address.
func (w *Worker) establish(ctx context.Context, old *session, h transport.Handler) (*session, error) {
	var reg *registration
	if old != nil {
		reg = old.at
	}
	since, delay, last := time.Now(), registerDelay, ""
	for {
		next, err := w.tryEstablish(ctx, &reg, old, h)
		if err == nil {
			return next, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if w.orphaned() && time.Since(since) >= w.cfg.OrphanGrace {
			return nil, fmt.Errorf("%w: no place at %s since %s: %w", ErrOrphaned, w.socket, since.Format(time.RFC3339), err)
		}
		if text := err.Error(); text != last {
			last = text
			w.cfg.Log.Warn("not registered with yggd", slog.Any("err", err))
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(jitter(delay)):
		}
		delay = min(2*delay, registerDelayMax)
	}
}

// tryEstablish registers, unless *reg still holds: yggd gives a name only once,
// so what it assigned is kept while listening there does not succeed.
func (w *Worker) tryEstablish(ctx context.Context, reg **registration, old *session, h transport.Handler) (*session, error) {
	if !(*reg).valid() {
		next, err := w.register(ctx)
		if err != nil {
			return nil, err
		}
		*reg = next
	}
	old.close() // what it served is registered anew, or broke
	s, err := w.open(ctx, *reg, h)
	if err != nil {
		return nil, err
	}
	w.cfg.Log.Info("registered with yggd", slog.String("handler", w.cfg.Handler), slog.String("address", (*reg).address))
	return s, nil
}

// register claims the handler name once.
func (w *Worker) register(ctx context.Context) (*registration, error) {
	conn, err := w.dispatcher()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, min(registerTimeout, w.cfg.OrphanGrace))
	defer cancel()
	l, err := w.connected(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("connect to yggd at %s: %w", w.socket, err)
	}
	res, err := pb.NewDispatcherClient(conn).Register(ctx, &pb.RegistrationRequest{
		Handler:  w.cfg.Handler,
		Pid:      int64(os.Getpid()),
		Features: w.cfg.Features,
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("register handler %s: %w", w.cfg.Handler, err)
	case !res.GetRegistered():
		// Perhaps a worker whose end yggd has not noticed yet.
		return nil, fmt.Errorf("register handler %s: another worker has the name", w.cfg.Handler)
	case res.GetAddress() == "":
		return nil, fmt.Errorf("register handler %s: no address assigned", w.cfg.Handler)
	}
	// If yggd was replaced meanwhile, the link is lost already, and Run starts
	// again as soon as it looks.
	return &registration{address: res.GetAddress(), link: l}, nil
}

// orphaned reports whether the yggd that started this process is gone.
func (w *Worker) orphaned() bool {
	if w.parent <= 1 || os.Getppid() == w.parent {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.link == nil || w.child
}

// removePIDFile removes yggd's record of this process: it is about to end, and
// a yggd that finds the record of a process that is gone refuses to start.
func (w *Worker) removePIDFile() {
	if w.cfg.PIDFile == "" {
		return
	}
	raw, err := readLimited(w.cfg.PIDFile)
	if err != nil || strings.TrimSpace(string(raw)) != strconv.Itoa(os.Getpid()) {
		return
	}
	if err := os.Remove(w.cfg.PIDFile); err != nil {
		w.cfg.Log.Warn("pid file not removed: yggd may refuse to start", slog.Any("err", err))
	}
}

// jitter spreads d by a quarter to both sides.
func jitter(d time.Duration) time.Duration {
	return d*3/4 + rand.N(d/2+1)
}
