package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/internal/render"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
)

// Folders and files below Config.Dir.
const (
	manifestsDir = "manifests"
	requestsDir  = "requests"
	devicesDir   = "devices"
	eventsDir    = "events"
	statusDir    = "status"
	goodDir      = "good"
	problemsFile = "problems.yaml"
	serverLock   = ".server.lock"
	stateLock    = ".state.lock"

	stateExt = ".yaml"

	// State holds hardware and may hold what a device says about itself;
	// manifests hold Secrets.
	dirPerm  = 0o700
	filePerm = 0o600
)

// Config sets a Backend. Dir and Logger are required.
type Config struct {
	// Dir is the folder described in the package's documentation.
	Dir string
	// AutoApprove lets every device in that asks.
	AutoApprove bool
	// MaxPending bounds the requests that wait for approval, because anybody
	// with a register certificate can make them. Default 10,000.
	MaxPending int
	// Settle is how long a file must be left alone before it is read. Default
	// 40 ms.
	Settle time.Duration
	// Rescan is how often all files are looked at, whatever was notified.
	// Default 10 s.
	Rescan time.Duration
	// SeenInterval is how exact lastSeenTime is. Default 5 min.
	SeenInterval time.Duration
	Logger       *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.MaxPending == 0 {
		c.MaxPending = 10_000
	}
	if c.Settle == 0 {
		c.Settle = 40 * time.Millisecond
	}
	if c.Rescan == 0 {
		c.Rescan = 10 * time.Second
	}
	if c.SeenInterval == 0 {
		c.SeenInterval = 5 * time.Minute
	}
	return c
}

// Validate returns what is wrong with the configuration.
func (c Config) Validate() error {
	switch {
	case c.Dir == "":
		return errors.New("field Dir is required")
	case c.Logger == nil:
		return errors.New("field Logger is required")
	case c.MaxPending < 0 || c.Settle < 0 || c.Rescan < 0 || c.SeenInterval < 0:
		return errors.New("fields MaxPending, Settle, Rescan and SeenInterval must not be negative")
	}
	return nil
}

// goneAfter is how long a file must be missing to count as removed: longer than
// any editor takes to replace it.
const goneAfter = time.Second

// Backend serves devices from a folder.
type Backend struct {
	cfg  Config
	log  *slog.Logger
	disk diskLock
	// complaints bounds the log when the disk is full.
	complaints *rate.Limiter

	manifests manifests // of the goroutine that scans: Open, then Run
	lock      io.Closer
	events    eventLog

	mu       sync.RWMutex // guards what follows; objects pointed to are immutable
	catalog  *catalog
	devices  map[edgeapi.Device]*deviceEntry
	requests map[string]*requestEntry
	problems []Problem         // as last written
	state    map[string]string // by path: why a state file cannot be read
	scanErr  error             // why the manifests could not be listed last
	scanned  bool
}

// deviceEntry is one device that is managed. Fields are guarded by Backend.mu.
type deviceEntry struct {
	object   *v1alpha1.EdgeDevice // nil when the file was never readable
	raw      string               // the file's text that object is from
	stamp    stamp                // of the file when it was last looked at
	gone     time.Time            // since when the file is missing
	rendered *rendering
	// epoch counts the changes to what rendered is made of; rendered is current
	// when it was made at the same count.
	epoch, renderedEpoch uint64
}

// requestEntry is one request. Fields are guarded by Backend.mu.
type requestEntry struct {
	object *v1alpha1.EdgeDeviceSignedRequest // nil when the file was never readable
	raw    string
	stamp  stamp
	gone   time.Time
}

// rendering is the configuration of one device.
type rendering struct {
	result render.Result
	at     time.Time
}

// New checks the configuration.
func New(cfg Config) (*Backend, error) {
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("configure file backend: %w", err)
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("configure file backend: %w", err)
	}
	cfg.Dir = dir
	b := &Backend{
		cfg:      cfg,
		log:      cfg.Logger,
		catalog:  newCatalog(nil),
		devices:  make(map[edgeapi.Device]*deviceEntry),
		requests: make(map[string]*requestEntry),
		state:    make(map[string]string),

		complaints: rate.NewLimiter(rate.Every(10*time.Second), 5),
	}
	b.events.dir = filepath.Join(dir, eventsDir)
	b.disk.path = filepath.Join(dir, stateLock)
	b.manifests = manifests{
		root: dir, sub: manifestsDir, settle: cfg.Settle, files: make(map[string]*manifest),
		keep: keeper{dir: filepath.Join(dir, statusDir, goodDir), log: cfg.Logger},
	}
	return b, nil
}

// Open makes the folders, refuses to share them with another server, and reads
// all files. It pairs with Close.
func (b *Backend) Open(ctx context.Context) error {
	if err := makeFolders(b.cfg.Dir); err != nil {
		return fmt.Errorf("open file backend: %w", err)
	}
	lock, err := durable.Lock(filepath.Join(b.cfg.Dir, serverLock))
	if err != nil {
		return fmt.Errorf("open file backend: %w", err)
	}
	b.lock = lock
	if err := b.load(ctx); err != nil {
		return errors.Join(fmt.Errorf("open file backend: %w", err), b.Close())
	}
	return nil
}

func makeFolders(dir string) error {
	for _, sub := range []string{manifestsDir, requestsDir, devicesDir, eventsDir, filepath.Join(statusDir, goodDir)} {
		if err := os.MkdirAll(filepath.Join(dir, sub), dirPerm); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
	}
	return nil
}

// load reads everything and waits for files that are being written: what is
// missing at the first answer is removed by the device that asked.
func (b *Backend) load(ctx context.Context) error {
	if err := b.sweep(); err != nil {
		return err
	}
	err := untilSettled(ctx, func() (time.Duration, error) {
		_, again, err := b.scanManifests(ctx)
		return again, err
	})
	if err != nil {
		return err
	}
	b.manifests.keep.prune(b.manifests.files)
	err = untilSettled(ctx, func() (time.Duration, error) { return b.scanState(ctx, nil) })
	if err != nil {
		return err
	}
	b.refreshAll(ctx, b.list())
	b.writeProblems()
	return nil
}

// settleLimit is how long the start waits for files that are written to all the
// time.
const settleLimit = 2 * time.Second

// untilSettled scans until no file needs to be looked at again.
func untilSettled(ctx context.Context, scan func() (again time.Duration, err error)) error {
	for deadline := time.Now().Add(settleLimit); ; {
		again, err := scan()
		if err != nil || again <= 0 || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(again):
		}
	}
}

// Close gives the folder free.
func (b *Backend) Close() error {
	if b.lock == nil {
		return nil
	}
	err := b.lock.Close()
	b.lock = nil
	if err != nil {
		return fmt.Errorf("close file backend: %w", err)
	}
	return nil
}

// Ready implements edgeapi.Backend.
func (b *Backend) Ready(context.Context) error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if !b.scanned {
		return errors.New("file backend: manifests were not read yet")
	}
	return b.scanErr
}

// Managed implements edgeapi.Backend.
func (b *Backend) Managed(ctx context.Context, d edgeapi.Device) (bool, error) {
	b.mu.RLock()
	entry, ok := b.devices[d]
	broken := ok && entry.object == nil
	b.mu.RUnlock()
	switch {
	case broken:
		return false, fmt.Errorf("device %s: its file cannot be read", d)
	case ok:
		b.seen(ctx, d)
	}
	return ok, nil
}

// device returns the object of a device that is managed.
func (b *Backend) device(d edgeapi.Device) (*v1alpha1.EdgeDevice, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	entry, ok := b.devices[d]
	if !ok {
		return nil, fmt.Errorf("device %s: %w", d, edgeapi.ErrNotFound)
	}
	if entry.object == nil {
		return nil, fmt.Errorf("device %s: its file cannot be read", d)
	}
	return entry.object, nil
}

var _ edgeapi.Backend = (*Backend)(nil)

func (b *Backend) devicePath(d edgeapi.Device) string {
	return filepath.Join(b.cfg.Dir, devicesDir, d.Namespace, d.ID+stateExt)
}

func (b *Backend) requestPath(id string) string {
	return filepath.Join(b.cfg.Dir, requestsDir, id+stateExt)
}
