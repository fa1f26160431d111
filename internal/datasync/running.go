package datasync

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// groupKey names what runs independently.
type groupKey struct {
	workload string
	dir      direction
}

// running is the set of groups of one Run, and follows the snapshots.
type running struct {
	engine *Engine
	index  *index
	cancel map[groupKey]context.CancelFunc

	store   Store // of the storage below; nil: there is none
	storage [sha256.Size]byte

	refused map[string]bool // path problems that were reported
}

func newRunning(e *Engine, ix *index) *running {
	return &running{
		engine: e, index: ix,
		cancel: map[groupKey]context.CancelFunc{}, refused: map[string]bool{},
	}
}

// apply starts, leaves and stops groups, so that those of state run. A group
// whose paths and bucket did not change is not disturbed. A device that leaves
// only sends, and one that has left knows nothing of the bucket any more.
func (r *running) apply(ctx context.Context, state desired.State) {
	wanted := map[groupKey][]route{}
	names := map[string]bool{}
	if state.Storage != nil {
		wanted, names = r.routes(state.Workloads)
	}
	if state.Leaving {
		maps.DeleteFunc(wanted, func(key groupKey, _ []route) bool { return key.dir != egress })
	}
	changed := r.useStorage(state.Storage)
	for key := range r.cancel {
		if changed || r.store == nil || !slices.Equal(wanted[key], r.engine.groups[key].routes) {
			r.stop(key)
		}
	}
	r.engine.ledger.keep(names)
	if state.Withdrawn {
		r.forget()
	}
	if r.store == nil {
		return
	}
	for key, routes := range wanted {
		if r.cancel[key] == nil {
			r.start(ctx, key, routes, storeID(*state.Storage))
		}
	}
}

// useStorage connects to another bucket when the settings of the bucket changed,
// and reports whether they did.
func (r *running) useStorage(s *desired.Storage) bool {
	var digest [sha256.Size]byte
	if s != nil {
		digest = storageDigest(*s)
	}
	if digest == r.storage {
		return false
	}
	if r.store != nil {
		defer r.store.Close()
	}
	r.store, r.storage = nil, digest
	if s == nil {
		return true
	}
	store, err := r.engine.cfg.Open(*s)
	if err != nil {
		r.engine.cfg.Log.Error("open storage", slog.String("bucket", s.Bucket), slog.Any("err", err))
		r.engine.cfg.Event(protocol.EventInfo{
			Reason: reasonStorage, Type: protocol.EventWarnType,
			Message: fmt.Sprintf("bucket %q: %v", s.Bucket, err),
		})
		return true
	}
	r.store = store
	return true
}

// storageDigest changes with every setting, the secret ones included.
func storageDigest(s desired.Storage) [sha256.Size]byte {
	var b []byte
	for _, field := range []string{
		s.Host, strconv.Itoa(s.Port), s.Bucket, s.Region,
		s.AccessKeyID.Reveal(), s.SecretAccessKey.Reveal(), string(s.CABundle),
	} {
		b = binary.AppendUvarint(b, uint64(len(field)))
		b = append(b, field...)
	}
	return sha256.Sum256(b)
}

// storeID names a bucket in the index.
func storeID(s desired.Storage) string {
	return net.JoinHostPort(s.Host, strconv.Itoa(s.Port)) + "/" + s.Bucket
}

// routes returns the sound data paths of each workload and direction, and the
// names of the workloads that have any data path.
func (r *running) routes(workloads []desired.Workload) (map[groupKey][]route, map[string]bool) {
	wanted := map[groupKey][]route{}
	names := map[string]bool{}
	for _, w := range workloads {
		if len(w.Egress)+len(w.Ingress) == 0 || names[w.Name] {
			continue
		}
		if !validWorkloadName(w.Name) {
			r.refuse(w.Name, reasonPathRefused, "the workload's name is not valid")
			continue
		}
		names[w.Name] = true
		out := r.check(w.Name, w.Egress, egressRoute)
		in := r.check(w.Name, w.Ingress, ingressRoute)
		out, in, looped := splitLoops(out, in)
		for _, pair := range looped {
			r.refuse(w.Name, reasonPathLoop, fmt.Sprintf(
				"egress of %q to %q and ingress of %q to %q would feed each other",
				pair[0].local, pair[0].prefix, pair[1].prefix, pair[1].local))
		}
		if len(out) > 0 {
			wanted[groupKey{w.Name, egress}] = out
		}
		if len(in) > 0 {
			wanted[groupKey{w.Name, ingress}] = in
		}
	}
	return wanted, names
}

func (r *running) check(workload string, paths []protocol.DataPath, parse func(protocol.DataPath) (route, error)) []route {
	var out []route
	for _, p := range paths {
		checked, err := parse(p)
		if err != nil {
			r.refuse(workload, reasonPathRefused, err.Error())
			continue
		}
		if !slices.Contains(out, checked) {
			out = append(out, checked)
		}
	}
	return out
}

// refuse reports a problem of the configuration once.
func (r *running) refuse(workload, reason, why string) {
	id := strings.Join([]string{workload, reason, why}, "\x00")
	if r.refused[id] {
		return
	}
	r.refused[id] = true
	r.engine.cfg.Log.Warn("refused data path", slog.String("workload", workload), slog.String("err", why))
	r.engine.cfg.Event(protocol.EventInfo{
		Reason: reason, Type: protocol.EventWarnType, Message: fmt.Sprintf("workload %s: %s", workload, why),
	})
}

func (r *running) start(ctx context.Context, key groupKey, routes []route, store string) {
	g := newGroup(r.engine, key, routes)
	g.index, g.store, g.storeID = r.index, r.store, store
	// Not a child's lifetime alone: stop and stopAll wait for the goroutine.
	ctx, cancel := context.WithCancel(ctx)
	r.cancel[key] = cancel
	r.engine.mu.Lock()
	r.engine.groups[key] = g
	r.engine.mu.Unlock()
	go g.run(ctx)
}

func (r *running) stop(key groupKey) {
	r.engine.mu.Lock()
	g := r.engine.groups[key]
	delete(r.engine.groups, key)
	r.engine.mu.Unlock()
	r.cancel[key]()
	delete(r.cancel, key)
	<-g.stopped
}

func (r *running) stopAll() {
	for _, cancel := range r.cancel {
		cancel()
	}
	for key := range r.cancel {
		r.stop(key)
	}
	if r.store != nil {
		r.store.Close()
	}
}
