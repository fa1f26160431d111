package datasync

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// stampAbsent stands for a volume that is not there.
const stampAbsent = "absent"

// Deliver returns nil as soon as everything that is in the volume of the retired
// workload, and that its egress paths cover, is in the bucket, files that had
// not settled yet included; the stamp stands for what that was. It makes one
// attempt: an error says what is in the way, and the caller tries again. While
// something writes into the volume it goes on until ctx ends.
func (e *Engine) Deliver(ctx context.Context, workload string) (stamp string, err error) {
	if err := e.Follow(ctx); err != nil {
		return "", err
	}
	state := e.desired.Current().State()
	i := slices.IndexFunc(state.Retired, func(r desired.Retired) bool { return r.Name == workload })
	if i < 0 {
		return "", fmt.Errorf("deliver workload %s: it is not retired", workload)
	}
	retired := state.Retired[i]
	before, err := e.Stamp(ctx, retired)
	if err != nil || before == stampAbsent || len(retired.Egress) == 0 {
		return before, err
	}
	if err := e.deliverable(retired, state.Storage); err != nil {
		return "", err
	}
	for {
		// What is written within a step of the file system's clock need not show
		// in a stamp: so it is waited for before anything is read.
		select {
		case <-time.After(clockTick):
		case <-ctx.Done():
			return "", ctx.Err()
		}
		if err := e.deliver(ctx, workload); err != nil {
			return "", err
		}
		after, err := e.Stamp(ctx, retired)
		if err != nil || after == before {
			return after, err
		}
		before = after // it was written to meanwhile
	}
}

// deliverable says what keeps the data paths of r from being synchronised.
func (e *Engine) deliverable(r desired.Retired, storage *desired.Storage) error {
	if storage == nil {
		return errors.New("no storage is configured")
	}
	routes, refused := retiredRoutes(r)
	if refused != nil {
		return refused
	}
	e.mu.Lock()
	g := e.groups[groupKey{r.Name, egress}]
	e.mu.Unlock()
	if g == nil || !slices.Equal(g.routes, routes) {
		return fmt.Errorf("deliver workload %s: %w", r.Name, ErrNotSynced) // a new snapshot, or an unusable storage
	}
	return nil
}

// deliver makes cycles until one leaves nothing to be sent.
func (e *Engine) deliver(ctx context.Context, workload string) error {
	key := groupKey{workload, egress}
	for {
		err := e.lastCall(ctx, key)
		s, known := e.egressOf(workload)
		switch {
		case err != nil:
			if left := s.Pending + s.Failed; left > 0 {
				return fmt.Errorf("%d files not delivered: %w", left, err)
			}
			return err
		case !known:
			return fmt.Errorf("deliver workload %s: %w", workload, ErrNotSynced)
		case s.Pending > 0:
		case s.Failed > 0:
			return fmt.Errorf("%d files not delivered: %s", s.Failed, s.LastError)
		case s.Refused > 0:
			return fmt.Errorf("%d files not delivered: their names are none that an object can have", s.Refused)
		default:
			return nil
		}
		select {
		case <-time.After(flushPause):
		case <-ctx.Done():
			return fmt.Errorf("%d files not delivered: they never rest: %w", s.Pending, ctx.Err())
		}
	}
}

func (e *Engine) egressOf(workload string) (DirectionStatus, bool) {
	all := e.Status().Workloads
	i := slices.IndexFunc(all, func(w WorkloadStatus) bool { return w.Name == workload })
	if i < 0 {
		return DirectionStatus{}, false
	}
	return all[i].Egress, true
}

// retiredRoutes returns the egress routes of r, or which of its paths is none.
// What the operator wanted to have and was refused is not delivered.
func retiredRoutes(r desired.Retired) ([]route, error) {
	parse := func(paths []protocol.DataPath, parse func(protocol.DataPath) (route, error), strict bool) ([]route, error) {
		var out []route
		for _, p := range paths {
			checked, err := parse(p)
			if err != nil && strict {
				return nil, fmt.Errorf("egress path is refused: %w", err)
			}
			if err == nil && !slices.Contains(out, checked) {
				out = append(out, checked)
			}
		}
		return out, nil
	}
	out, err := parse(r.Egress, egressRoute, true)
	if err != nil {
		return nil, err
	}
	in, _ := parse(r.Ingress, ingressRoute, false)
	if ok, looped := (ends{out, in}).splitAlone(); len(ok.out) < len(out) {
		return nil, fmt.Errorf("egress of %q is refused: it and an ingress would feed each other", looped[0][0].local)
	}
	return out, nil
}

// Stamp returns a text that stands for everything in the volume of r that its
// egress paths cover: it changes when any of that does. It needs neither the
// storage nor Run.
func (e *Engine) Stamp(ctx context.Context, r desired.Retired) (string, error) {
	v, err := openVolume(e.cfg.VolumesDir, r.Name)
	if errors.Is(err, fs.ErrNotExist) {
		return stampAbsent, nil
	}
	if err != nil {
		return "", err
	}
	defer v.close()
	sum := stampSum{}
	for _, p := range r.Egress {
		route, err := egressRoute(p)
		if err != nil {
			sum.add("refused", p.Source, fingerprint{})
			continue
		}
		err = v.walk(ctx, route.local, func(batch []entry) error {
			for _, entry := range batch {
				if entry.Kind == kindRegular {
					sum.add("file", entry.Path, entry.fingerprint)
				}
			}
			return ctx.Err()
		}, func(path string, _ error) { sum.add("unreadable", path, fingerprint{}) })
		if err != nil {
			return "", fmt.Errorf("stamp volume of %s: %w", r.Name, err)
		}
	}
	return hex.EncodeToString(sum[:]), nil
}

// stampSum does not depend on the order in which a file system lists: it adds up
// the digests of its items.
type stampSum [sha256.Size]byte

func (s *stampSum) add(kind, path string, f fingerprint) {
	one := sha256.Sum256(fmt.Appendf(nil, "%s %q %d %d %d %d", kind, path, f.Size, f.MTime, f.CTime, f.Inode))
	carry := 0
	for i := range s {
		carry += int(s[i]) + int(one[i])
		s[i] = byte(carry & 0xff)
		carry >>= 8
	}
}
