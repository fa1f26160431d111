package firewall

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/project-flotta/flotta-agent/internal/command"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Config is what a Reconciler needs. Openings, Changed and Log are required.
type Config struct {
	// Openings returns what is to be open; false: that is not known yet, and all
	// stays as it is.
	Openings func() ([]Opening, bool)
	// Changed returns a channel that is closed when Openings may return
	// something else than it did before Changed was called.
	Changed func() <-chan struct{}
	Event   func(protocol.EventInfo) // may be nil; must not block
	Log     *slog.Logger
	Resync  time.Duration // how long a change by hand may last; 60 s
}

// Status says how the firewall is. It is a value that nobody changes.
type Status struct {
	// Problem says why ports may not be open although they should be; empty:
	// there is none.
	Problem string
	// Note is what a person should know although nothing is wrong: that somebody
	// else's table may drop what this one accepts.
	Note string
}

// Reconciler makes the table hold what is to be open.
type Reconciler struct {
	cfg   Config
	nft   runNft
	guard guard

	mu     sync.Mutex // held while nft runs
	wrote  *table     // last; nil: nothing yet
	latest []Opening  // that the table was compared with
	known  bool       // whether it ever was

	board   sync.Mutex
	status  Status
	changed chan struct{}
}

// Reasons of events.
const (
	reasonFailed   = "FirewallFailed"
	reasonRepaired = "FirewallRepaired"
)

// New returns a Reconciler; it touches nothing.
func New(cfg Config) (*Reconciler, error) {
	if cfg.Resync == 0 {
		cfg.Resync = time.Minute
	}
	switch {
	case cfg.Openings == nil, cfg.Changed == nil, cfg.Log == nil:
		return nil, errors.New("firewall config: Openings, Changed and Log are required")
	case cfg.Resync < 0:
		return nil, errors.New("firewall config: Resync is negative")
	}
	return &Reconciler{cfg: cfg, nft: nft, guard: &firewalld{socket: busSocket}, changed: make(chan struct{})}, nil
}

// Status returns how the firewall is. It may be called at any time.
func (r *Reconciler) Status() Status {
	r.board.Lock()
	defer r.board.Unlock()
	return r.status
}

// Problems returns what is wrong with the firewall; none: nothing is.
func (r *Reconciler) Problems() []string {
	if problem := r.Status().Problem; problem != "" {
		return []string{problem}
	}
	return nil
}

// Changed returns a channel that is closed as soon as Status returns something
// else than it does now. Take it before Status, and no change is missed.
func (r *Reconciler) Changed() <-chan struct{} {
	r.board.Lock()
	defer r.board.Unlock()
	return r.changed
}

// Run reconciles until ctx ends, and then returns nil. It leaves the table: the
// workloads run on.
func (r *Reconciler) Run(ctx context.Context) error {
	resync := time.NewTicker(r.cfg.Resync)
	defer resync.Stop()
	forgotten := make(chan struct{}, 1)
	ctx, stop := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		r.guard.watch(ctx, func() {
			select {
			case forgotten <- struct{}{}:
			default: // it will be looked at anyway
			}
		})
	}()
	defer func() {
		stop()
		<-watched
	}()
	due := true
	for {
		changed := r.cfg.Changed()
		r.round(ctx, due)
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			due = false
		case <-resync.C:
			due = true
		case <-forgotten:
			due = true
		}
	}
}

// Clear removes the table, if there is one, and what firewalld was told. Run makes
// both again as long as there is something to be open.
func (r *Reconciler) Clear(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known = false
	if _, err := r.guard.ensure(ctx, nil); err != nil {
		return fmt.Errorf("close ports in firewalld: %w", err)
	}
	if _, err := r.ensure(ctx, table{}); err != nil && !errors.Is(err, command.ErrAbsent) {
		return fmt.Errorf("remove table %s %s: %w", tableFamily, tableName, err)
	}
	r.wrote = nil
	return nil
}

// round makes the table what it should be, if that is known and, between two
// resyncs, if it is something else than before.
func (r *Reconciler) round(ctx context.Context, due bool) {
	openings, known := r.cfg.Openings()
	if !known {
		return
	}
	openings, refused := normal(openings)
	r.mu.Lock()
	defer r.mu.Unlock()
	if !due && r.known && slices.Equal(openings, r.latest) {
		return
	}
	r.latest, r.known = openings, true
	want := desired(openings)
	wrote, err := r.ensure(ctx, want)
	if ctx.Err() != nil {
		return
	}
	if wrote {
		r.told(want)
	}
	switch {
	case err == nil:
		r.wrote = &want
	case want.empty() && (r.wrote == nil || r.wrote.empty()):
		err = nil // a firewall that nobody asked for is no loss
	}
	guarded, guardErr := r.guard.ensure(ctx, openings)
	if ctx.Err() != nil {
		return
	}
	if guarded && guardErr == nil && errors.Is(err, command.ErrAbsent) {
		err = nil // what guards the host needs no nft of ours
	}
	var note string
	if err == nil && !want.empty() {
		note = r.note(ctx, guarded)
	}
	r.publish(problem(err, guardErr, openings, refused), note)
}

// problem puts what is wrong into words.
func problem(err, guardErr error, openings []Opening, refused []string) string {
	parts := make([]string, 0, 3)
	if err != nil {
		parts = append(parts, "ports of workloads are not opened in the firewall: "+err.Error())
	}
	if guardErr != nil && len(openings) > 0 {
		o := openings[0]
		parts = append(parts, fmt.Sprintf("ports of workloads are not opened in firewalld, such as with firewall-cmd --add-port=%d/%s: %v", o.Port, o.Protocol, guardErr))
	}
	if len(refused) > 0 {
		more := ""
		if len(refused) > 3 {
			refused, more = refused[:3], ", and others"
		}
		parts = append(parts, "ports that cannot be opened: "+strings.Join(refused, ", ")+more)
	}
	return strings.Join(parts, "; ")
}

// ensure makes the table be want, and reports whether it was something else. The
// caller holds mu.
func (r *Reconciler) ensure(ctx context.Context, want table) (wrote bool, err error) {
	have, there, err := r.read(ctx)
	if err != nil {
		return false, err
	}
	if there != want.empty() && have.equal(want) {
		return false, nil
	}
	if _, err := r.nft(ctx, want.script(), "-f", "-"); err != nil {
		return false, err
	}
	have, there, err = r.read(ctx)
	if err == nil && (there == want.empty() || !have.equal(want)) {
		err = errors.New("the table does not hold what was written to it")
	}
	return true, err
}

// read returns the table; false: there is none.
func (r *Reconciler) read(ctx context.Context) (table, bool, error) {
	// Asking for a table that is not there would be an error like any other. Not
	// as JSON, which nft 1.0.6 breaks where a table has flags.
	raw, err := r.nft(ctx, "", "list", "tables")
	if err != nil || !hasTable(string(raw)) {
		return table{}, false, err
	}
	if raw, err = r.nft(ctx, "", "-j", "list", "table", tableFamily, tableName); err != nil {
		return table{}, false, err
	}
	return parse(raw), true, nil
}

// note says what other tables may make of all this. firewalld's knows of it when
// it was told.
func (r *Reconciler) note(ctx context.Context, told bool) string {
	raw, err := r.nft(ctx, "", "-j", "list", "chains")
	if err != nil {
		return "" // it is only a note
	}
	tables := strict(raw)
	if told {
		tables = slices.DeleteFunc(tables, func(table string) bool { return strings.HasSuffix(table, " firewalld") })
	}
	if len(tables) == 0 {
		return ""
	}
	return fmt.Sprintf("ports of workloads have to be open in nftables' table %s as well, which may drop what it does not know",
		strings.Join(tables, ", "))
}

// told logs that the table was written. The caller holds mu.
func (r *Reconciler) told(want table) {
	if r.wrote != nil && r.wrote.equal(want) {
		r.cfg.Log.Warn("table was changed by somebody else, and is as it should be again")
		r.emit("info", reasonRepaired, "the firewall's table "+tableFamily+" "+tableName+" was changed by somebody else, and was put right")
		return
	}
	r.cfg.Log.Info("table was written", "chains", max(len(want.chains)-1, 0))
}

// publish shows a new status, and says so once.
func (r *Reconciler) publish(problem, note string) {
	r.board.Lock()
	old := r.status
	if r.status = (Status{Problem: problem, Note: note}); r.status != old {
		close(r.changed)
		r.changed = make(chan struct{})
	}
	r.board.Unlock()
	if note != old.Note && note != "" {
		r.cfg.Log.Info("other tables may drop what is accepted here", "note", note)
	}
	switch problem {
	case old.Problem:
	case "":
		r.cfg.Log.Info("firewall is as it should be again")
	default:
		r.cfg.Log.Warn("firewall is not as it should be, will try again", "problem", problem)
		r.emit("warn", reasonFailed, problem)
	}
}

func (r *Reconciler) emit(kind, reason, message string) {
	if r.cfg.Event != nil {
		r.cfg.Event(protocol.EventInfo{Type: kind, Reason: reason, Message: message})
	}
}
