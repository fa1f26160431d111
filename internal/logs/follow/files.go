package follow

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"time"
)

// Source is the log file of a container.
type Source struct {
	Origin
	Name string // Podman's
	Path string
}

// readable reports whether the file is to be read now.
func (s Source) readable() bool { return !s.Paused && s.Path != "" }

// FilesConfig is what Files works with. All but Log, Every and OwnerUID, which is
// root then, is required.
type FilesConfig struct {
	// Wanted returns the containers by id, which nobody changes any more, and a
	// channel that is closed when it would return something else. A container
	// that leaves is read to its end first.
	Wanted func() (map[string]Source, <-chan struct{})
	Sink   Sink
	// OwnerUID is the user whose containers they are, and whose their logs have to
	// be: that user's Podman says where they are, and may name any file. What is
	// another's, or no regular file, is not read.
	OwnerUID int
	// Left is told that a container that left was read to its end.
	Left func(id string)
	// Every is how often the files are looked at; 0: 500 ms.
	Every time.Duration
	Log   *slog.Logger
}

// Files follows the files of Podman's driver k8s-file.
type Files struct {
	cfg   FilesConfig
	marks map[string]FileMark // where those begin that are not open yet
	tails map[string]*tail
}

const defaultEvery = 500 * time.Millisecond

// NewFiles returns a Files that goes on from the marks. It does no I/O.
func NewFiles(cfg FilesConfig, marks map[string]FileMark) (*Files, error) {
	if cfg.Wanted == nil || cfg.Sink == nil || cfg.Left == nil {
		return nil, errors.New("files config: Wanted, Sink or Left is nil")
	}
	if cfg.Every == 0 {
		cfg.Every = defaultEvery
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	f := &Files{cfg: cfg, marks: map[string]FileMark{}, tails: map[string]*tail{}}
	maps.Copy(f.marks, marks)
	return f, nil
}

// Run reads until ctx ends, and returns nil then.
func (f *Files) Run(ctx context.Context) error {
	defer func() {
		for _, t := range f.tails {
			t.close()
		}
	}()
	tick := time.NewTicker(f.cfg.Every)
	defer tick.Stop()
	buffer := make([]byte, readBytes)
	for {
		wanted, changed := f.cfg.Wanted()
		f.open(wanted)
		for {
			more, err := f.round(ctx, wanted, buffer)
			if err != nil {
				return nil // that of ctx
			}
			if !more || isClosed(changed) {
				break
			}
		}
		due := tick.C
		if len(f.tails) == 0 && !slices.ContainsFunc(slices.Collect(maps.Values(wanted)), Source.readable) {
			due = nil // nor was any refused, to be opened again
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-due:
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// open makes a tail of each new file.
func (f *Files) open(wanted map[string]Source) {
	for id, s := range wanted {
		if t := f.tails[id]; t != nil {
			t.source = s
			continue
		}
		if !s.readable() {
			continue
		}
		f.tails[id] = &tail{source: s, sink: f.cfg.Sink, log: f.cfg.Log, owner: f.cfg.OwnerUID, start: f.marks[id], joiner: newJoiner[FileMark]()}
		delete(f.marks, id)
	}
}

// round reads a piece of each file. More says that one of them has more.
func (f *Files) round(ctx context.Context, wanted map[string]Source, buffer []byte) (more bool, err error) {
	for id, t := range f.tails {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		_, there := wanted[id]
		if there && wanted[id].Paused {
			f.marks[id] = t.mark()
			t.close()
			delete(f.tails, id)
			continue
		}
		rest, err := t.read(ctx, buffer, !there)
		switch {
		case err != nil && ctx.Err() != nil:
			return false, ctx.Err()
		case errors.Is(err, ErrRefused):
			// It is opened again when it is looked at what is wanted. Of a container
			// that left, nobody wants the rest.
			f.marks[id] = t.mark()
			t.close()
			delete(f.tails, id)
			continue
		case err != nil:
			t.complain(err)
		}
		if rest {
			more = true
			continue
		}
		if !there {
			t.close()
			delete(f.tails, id)
			f.cfg.Left(id)
		}
	}
	return more, nil
}
