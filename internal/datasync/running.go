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
	// unusable says why there is no store of a storage; empty: there is one.
	unusable string

	refused map[string]bool // path problems that were reported
	found   map[defect][]string
}

// defect is a kind of problem that a workload's direction has for as long as the
// snapshot is in force; its texts are in running.found.
type defect struct {
	groupKey

	reason string
}

func newRunning(e *Engine, ix *index) *running {
	return &running{
		engine: e, index: ix,
		cancel: map[groupKey]context.CancelFunc{}, refused: map[string]bool{},
	}
}

// apply starts, leaves and stops groups, so that those of the snapshot run. A
// group whose paths and bucket did not change is not disturbed. A workload that
// is retired only sends, and so do all of a device that leaves; one that has
// left knows nothing of the bucket any more.
func (r *running) apply(ctx context.Context, snapshot *desired.Snapshot) {
	state := snapshot.State()
	wanted := map[groupKey][]route{}
	names := map[string]bool{}
	r.found = map[defect][]string{}
	if state.Storage != nil {
		wanted, names = r.routes(state.Workloads)
		r.addRetired(state.Retired, wanted, names)
	}
	if state.Leaving {
		maps.DeleteFunc(wanted, func(key groupKey, _ []route) bool { return key.dir != egress })
	}
	before := r.store
	changed := r.useStorage(state.Storage)
	var ends []groupKey
	for key := range r.cancel {
		if changed || r.store == nil || !slices.Equal(wanted[key], r.engine.groups[key].routes) {
			ends = append(ends, key)
		}
	}
	r.stop(ends)
	if changed && before != nil {
		before.Close() // nobody is left to open another connection
	}
	r.engine.ledger.keep(names)
	r.publish(names)
	if state.Withdrawn && state.Storage == nil {
		r.forget()
	} else if snapshot.Digest() != "" {
		r.forgetOthers(state)
	}
	if r.store == nil {
		return
	}
	clashes := clashes(wanted)
	for key, routes := range wanted {
		if r.cancel[key] == nil {
			r.start(ctx, key, routes, storeID(*state.Storage))
		}
		mine := clashes[key]
		r.engine.groups[key].clashes.Store(&mine)
		r.engine.groups[key].inflow.quota.limit.Store(r.engine.quota(state, key.workload))
	}
}

// publish makes what was found stand in the status.
func (r *running) publish(names map[string]bool) {
	for name := range names {
		for _, dir := range []direction{egress, ingress} {
			key := groupKey{name, dir}
			for _, reason := range []string{reasonPathRefused, reasonPathLoop} {
				r.engine.ledger.problems(name, dir, reason, r.found[defect{key, reason}])
			}
			var unusable []string
			if r.unusable != "" {
				unusable = []string{r.unusable}
			}
			r.engine.ledger.problems(name, dir, reasonStorage, unusable)
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
	r.store, r.storage, r.unusable = nil, digest, ""
	if s == nil {
		return true
	}
	store, err := r.engine.cfg.Open(*s)
	if err != nil {
		r.engine.cfg.Log.Error("open storage", slog.String("bucket", s.Bucket), slog.Any("err", err))
		r.unusable = fmt.Sprintf("bucket %q: %v", s.Bucket, err)
		r.engine.cfg.Event(protocol.EventInfo{
			Reason: reasonStorage, Type: protocol.EventWarnType, Message: r.unusable,
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
		s.Host, strconv.Itoa(s.Port), strconv.FormatBool(s.PlainHTTP), s.Bucket, s.Region,
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
	sound := map[string]ends{}
	var all ends
	for _, w := range workloads {
		if len(w.Egress)+len(w.Ingress) == 0 || names[w.Name] {
			continue
		}
		if !validWorkloadName(w.Name) {
			r.refuse(w.Name, reasonPathRefused, "the workload's name is not valid")
			continue
		}
		names[w.Name] = true
		mine := ends{
			out: r.check(groupKey{w.Name, egress}, w.Egress, egressRoute),
			in:  r.check(groupKey{w.Name, ingress}, w.Ingress, ingressRoute),
		}
		sound[w.Name] = mine
		all.add(w.Name, mine)
	}
	for _, name := range slices.Sorted(maps.Keys(sound)) {
		ok, looped := splitLoops(name, sound[name], all)
		for _, pair := range looped {
			why := fmt.Sprintf("egress of %q to %q and ingress of %q to %q would feed each other",
				pair[0].local, pair[0].prefix, pair[1].prefix, pair[1].local)
			r.find(groupKey{name, egress}, reasonPathLoop, why)
			r.find(groupKey{name, ingress}, reasonPathLoop, why)
			r.refuse(name, reasonPathLoop, why)
		}
		if len(ok.out) > 0 {
			wanted[groupKey{name, egress}] = ok.out
		}
		if len(ok.in) > 0 {
			wanted[groupKey{name, ingress}] = ok.in
		}
	}
	return wanted, names
}

// addRetired adds the egress of the workloads whose volumes are still to be
// delivered. A path that was refused when the workload was desired stays so.
func (r *running) addRetired(retired []desired.Retired, wanted map[groupKey][]route, names map[string]bool) {
	for _, w := range retired {
		if w.Delivered || len(w.Egress) == 0 || names[w.Name] {
			continue
		}
		mine := ends{
			out: r.check(groupKey{w.Name, egress}, w.Egress, egressRoute),
			in:  r.check(groupKey{w.Name, ingress}, w.Ingress, ingressRoute),
		}
		ok, _ := mine.splitAlone()
		names[w.Name] = true
		if len(ok.out) > 0 {
			wanted[groupKey{w.Name, egress}] = ok.out
		}
	}
}

func (r *running) check(key groupKey, paths []protocol.DataPath, parse func(protocol.DataPath) (route, error)) []route {
	var out []route
	for _, p := range paths {
		checked, err := parse(p)
		if err != nil {
			r.find(key, reasonPathRefused, err.Error())
			r.refuse(key.workload, reasonPathRefused, err.Error())
			continue
		}
		if !slices.Contains(out, checked) {
			out = append(out, checked)
		}
	}
	return out
}

// find notes a problem that lasts as long as the snapshot is in force.
func (r *running) find(key groupKey, reason, why string) {
	id := defect{key, reason}
	r.found[id] = append(r.found[id], why)
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
	g.inflow.quota.limit.Store(r.engine.quota(r.engine.desired.Current().State(), key.workload))
	// Not a child's lifetime alone: stop and stopAll wait for the goroutine.
	ctx, cancel := context.WithCancel(ctx)
	r.cancel[key] = cancel
	r.engine.mu.Lock()
	r.engine.groups[key] = g
	r.engine.mu.Unlock()
	go g.run(ctx)
}

// stop ends groups, all at once, and what they transfer.
func (r *running) stop(keys []groupKey) {
	for _, key := range keys {
		r.cancel[key]()
	}
	for _, key := range keys {
		r.engine.mu.Lock()
		g := r.engine.groups[key]
		delete(r.engine.groups, key)
		r.engine.mu.Unlock()
		delete(r.cancel, key)
		<-g.stopped
	}
}

func (r *running) stopAll() {
	r.stop(slices.Collect(maps.Keys(r.cancel)))
	r.engine.lanes.workers.Wait()
	if r.store != nil {
		r.store.Close()
	}
}
