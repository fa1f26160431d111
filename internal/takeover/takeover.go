package takeover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/podman"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Config is what a Takeover needs. All fields but the last two are required.
type Config struct {
	StateDir string // this agent's; absolute
	// DataDirs are where flotta v0.2 may have kept its data, beside StateDir: it took
	// the folder of yggd's configuration for it.
	DataDirs   []string
	WorkerDirs []string // of yggd
	AsideDir   string   // where the files of its workers are put
	// Units is the folder of the units that it generated: as a path below Home when
	// that is set, because whoever runs the pods may write there.
	Home, Units string
	SystemUnits string // folder of the system's units

	Desired Desired
	Pods    Pods
	Manager Manager // of the units
	System  System
	Log     *slog.Logger

	// ProcDir is /proc but in tests.
	ProcDir string
	// Step is called between any two changes; nil but in tests of crashes.
	Step func(point string)
}

// Desired is the desired state. A *desired.Store is one.
type Desired interface {
	Current() *desired.Snapshot
	Accept(raw []byte) error
}

// Pods is the Podman that runs the pods. A *podman.Client is one.
type Pods interface {
	Pods(ctx context.Context, label string) ([]podman.Pod, error)
	Containers(ctx context.Context, label string) ([]podman.ContainerSummary, error)
	Container(ctx context.Context, name string) (podman.Container, error)
	RemovePod(ctx context.Context, name string) error
	Secrets(ctx context.Context) ([]podman.Secret, error)
	RemoveSecret(ctx context.Context, name string) error
}

// Manager keeps the units. A *systemd.Client is one.
type Manager interface {
	Stop(ctx context.Context, unit string) error
	Disable(ctx context.Context, units ...string) error
	Reload(ctx context.Context) error
	ResetFailed(ctx context.Context, unit string) error
}

func (c Config) validate() error {
	switch {
	case c.Desired == nil, c.Pods == nil, c.Manager == nil, c.System == nil, c.Log == nil:
		return errors.New("takeover config: Desired, Pods, Manager, System and Log are required")
	}
	for _, path := range slices.Concat([]string{c.StateDir, c.AsideDir, c.SystemUnits}, c.DataDirs, c.WorkerDirs) {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("takeover config: %q is not an absolute path", path)
		}
	}
	if filepath.IsAbs(c.Units) == (c.Home != "") {
		return fmt.Errorf("takeover config: units %q below home %q", c.Units, c.Home)
	}
	return nil
}

// Takeover is what there is of flotta v0.2 on this host.
type Takeover struct {
	cfg    Config
	events chan protocol.EventInfo // told by Run

	mu     sync.Mutex
	record record
	one    sync.Mutex // held while something of a workload is changed
}

const (
	// Between two looks at what is still to be handed over is a pause, doubled up to the
	// long one while nothing gets on: what this agent cannot run may stay for ever.
	shortPause = time.Second
	longPause  = 30 * time.Second
	// callTimeout bounds what is done for one workload but for the stop of its pod.
	callTimeout = 2 * time.Minute
	maxEvents   = 256
)

// New returns a Takeover; it touches nothing.
func New(cfg Config) (*Takeover, error) {
	if cfg.ProcDir == "" {
		cfg.ProcDir = "/proc"
	}
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return &Takeover{cfg: cfg, events: make(chan protocol.EventInfo, maxEvents)}, nil
}

// Begin looks for flotta v0.2, or goes on where a take-over was interrupted: ends its
// worker, brings its volumes into place, and puts its configuration into force if
// there is no other. It starts and stops no workload, and needs no Podman. On an error
// nothing of the workloads was changed, and nothing else should be done on this host
// before it is gone.
func (t *Takeover) Begin(ctx context.Context) error {
	if err := t.load(); err != nil {
		return err
	}
	found, err := t.find()
	if err != nil {
		return fmt.Errorf("look for flotta v0.2: %w", err)
	}
	if !found.any() && (t.record.Done || t.record.DataDir == "") {
		return t.stillBound(ctx)
	}
	if found.bind, err = t.cfg.plan(found); err != nil {
		return fmt.Errorf("take over from flotta v0.2: %w", err)
	}
	if err := t.note(found); err != nil {
		return err
	}
	t.step("takeover-noted")
	if err := t.endWorkers(ctx, found.workers); err != nil {
		return fmt.Errorf("end the worker of flotta v0.2: %w", err)
	}
	t.step("takeover-worker-ended")
	if err := t.moveVolumes(ctx); err != nil {
		return fmt.Errorf("take over volumes of flotta v0.2: %w", err)
	}
	t.step("takeover-volumes-moved")
	if err := t.removeAuth(); err != nil {
		return fmt.Errorf("remove registry credentials of flotta v0.2: %w", err)
	}
	return t.importSaved()
}

// stillBound sees to it that a folder of volumes that is mounted still is: without it, the
// workloads would begin with empty ones.
func (t *Takeover) stillBound(ctx context.Context) error {
	if !t.now().Bind {
		return nil
	}
	if err := t.moveVolumes(ctx); err != nil {
		return fmt.Errorf("mount volumes of flotta v0.2: %w", err)
	}
	return nil
}

// importSaved puts the saved configuration into force.
func (t *Takeover) importSaved() error {
	now := t.cfg.Desired.Current()
	if t.record.Imported {
		return nil
	}
	if now.Digest() == "" && now.State().Managed() {
		saved, err := readSaved(t.record.DataDir)
		switch {
		case err != nil:
			t.tell(protocol.EventWarnType, reasonConfiguration, "the configuration that flotta v0.2 saved is not used: "+err.Error())
		case saved.raw != nil:
			if err := t.cfg.Desired.Accept(saved.raw); err != nil {
				if _, refused := errors.AsType[*desired.RejectedError](err); !refused {
					return fmt.Errorf("take over the configuration of flotta v0.2: %w", err)
				}
				t.tell(protocol.EventWarnType, reasonConfiguration, "the configuration that flotta v0.2 saved is not used: "+err.Error())
				break
			}
			t.tell(protocol.EventInfoType, reasonConfiguration, "the configuration that flotta v0.2 saved is in force")
		}
	}
	t.step("takeover-configuration")
	return t.update(func(r *record) { r.Imported = true })
}

// Run hands over what no start of a workload does, tells of everything that is done, and
// returns nil when ctx ended.
func (t *Takeover) Run(ctx context.Context, emit func(protocol.EventInfo)) error {
	told, pause := "", shortPause
	for {
		if t.pending() {
			before := t.now()
			if err := t.rest(ctx); err != nil && ctx.Err() == nil && err.Error() != told {
				told = err.Error()
				t.cfg.Log.Warn("take-over from flotta v0.2 is not complete, will try again", "err", err)
			}
			if after := t.now(); len(after.Workloads) != len(before.Workloads) || after.Done {
				pause = shortPause
			}
		}
		for more := true; more; {
			select {
			case e := <-t.events:
				emit(e)
			default:
				more = false
			}
		}
		if !t.pending() { // nor will there be anything until the next start
			<-ctx.Done()
			return nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
		pause = min(2*pause, longPause)
	}
}

// Reasons of events.
const (
	reasonConfiguration = "TakenOverConfiguration"
	reasonWorker        = "TakenOverWorker"
	reasonWorkload      = "TakenOverWorkload"
	reasonDone          = "TakenOver"
)

func (t *Takeover) tell(kind, reason, message string) {
	log := t.cfg.Log.Info
	if kind == protocol.EventWarnType {
		log = t.cfg.Log.Warn
	}
	log(message)
	select {
	case t.events <- protocol.EventInfo{Type: kind, Reason: reason, Message: message}:
	default: // it is in the log
	}
}

func (t *Takeover) step(point string) {
	if t.cfg.Step != nil {
		t.cfg.Step(point)
	}
}
