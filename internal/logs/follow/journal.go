package follow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Origin is where the lines of one of Podman's container names come from.
type Origin struct {
	Workload  string
	Container string // the name in the manifest
	ID        string // of the container that there is now; "": none yet
	Paused    bool   // not to be followed, but its place is kept
	// Since is when it was wanted first; it counts when there is no ID.
	Since time.Time
}

// JournalConfig is what a Journal works with. All but Command and Log is
// required.
type JournalConfig struct {
	// UID is the user whose containers they are. Other users can write what they
	// like into the journal, but not as somebody else.
	UID int
	// Wanted returns the containers by Podman's names, which nobody changes any
	// more, and a channel that is closed when it would return something else.
	Wanted func() (map[string]Origin, <-chan struct{})
	Sink   Sink
	// Trouble is told why the journal cannot be read, and nil when it can again.
	Trouble func(error)
	// Command makes the command that runs journalctl; nil: the one of this
	// machine.
	Command func(ctx context.Context, args ...string) *exec.Cmd
	Log     *slog.Logger
}

// Journal follows the lines of Podman's driver journald.
type Journal struct {
	cfg  JournalConfig
	mark JournalMark
}

// NewJournal returns a Journal that goes on from mark. It does no I/O.
func NewJournal(cfg JournalConfig, mark JournalMark) (*Journal, error) {
	if cfg.Wanted == nil || cfg.Sink == nil || cfg.Trouble == nil {
		return nil, errors.New("journal config: Wanted, Sink or Trouble is nil")
	}
	if cfg.Command == nil {
		cfg.Command = func(ctx context.Context, args ...string) *exec.Cmd {
			return exec.CommandContext(ctx, "journalctl", args...)
		}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Journal{cfg: cfg, mark: mark.clone()}, nil
}

const (
	retryFirst = time.Second
	retryMost  = time.Minute
)

// Run reads until ctx ends, and returns nil then.
func (j *Journal) Run(ctx context.Context) error {
	for failures := 0; ; {
		wanted, changed := j.cfg.Wanted()
		read, err := j.follow(ctx, wanted, changed)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil { // the names changed
			failures = 0
			continue
		}
		if errors.Is(err, ErrRefused) {
			// The names are about to change; if they did, this looks at once.
			select {
			case <-ctx.Done():
				return nil
			case <-changed:
			case <-time.After(retryFirst):
			}
			continue
		}
		if read {
			failures = 0
		}
		j.cfg.Trouble(err)
		j.cfg.Log.Warn("follow journal", slog.Any("err", err))
		pause := min(retryFirst<<min(failures, 10), retryMost)
		failures++
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-time.After(pause*3/4 + rand.N(pause/2)):
		}
	}
}

// follow reads with one journalctl until the names change (nil) or it ends.
// Read says that there were entries that were not read before.
func (j *Journal) follow(ctx context.Context, wanted map[string]Origin, changed <-chan struct{}) (read bool, err error) {
	if err := j.prepare(ctx, wanted); err != nil {
		return false, err
	}
	args := []string{"--follow", "--no-tail"}
	if j.mark.Cursor != "" {
		// Not --after-cursor: it leaves out an entry also when the one at the
		// cursor is gone.
		args = append(args, "--cursor="+j.mark.Cursor)
	}
	for name, n := range j.mark.Names {
		if !n.Paused {
			args = append(args, "CONTAINER_NAME="+name)
		}
	}
	if !slices.ContainsFunc(args, func(a string) bool { return a[0] == 'C' }) {
		select {
		case <-ctx.Done():
		case <-changed:
		}
		return false, nil
	}
	c, err := j.start(ctx, args...)
	if err != nil {
		return false, err
	}
	defer c.stop()
	entries := make(chan entry, 64)
	c.wait.Go(func() { c.read(entries) })
	return j.take(ctx, c, entries, wanted, changed)
}

// take hands on what comes.
func (j *Journal) take(ctx context.Context, c *child, entries <-chan entry, wanted map[string]Origin, changed <-chan struct{}) (read bool, err error) {
	joiner := newJoiner[Spot]()
	tick := time.NewTicker(patience / 4)
	defer tick.Stop()
	started := time.Now()
	for {
		select {
		case <-changed:
			// What waits for its rest is read again: the mark stands in front of it.
			if first, ok := joiner.held(Spot.less); ok {
				j.mark.Spot = first
			}
			return read, nil
		case <-tick.C:
			now := time.Now()
			if !read && now.Sub(started) > retryFirst {
				j.cfg.Trouble(nil)
			}
			for p := joiner.overdue(now, patience); p != nil; p = joiner.overdue(now, patience) {
				if err := j.emit(ctx, p, joiner); err != nil {
					return read, err
				}
			}
		case e, ok := <-entries:
			if !ok {
				return read, c.failure()
			}
			fresh, err := j.entry(ctx, e, joiner, wanted)
			if err != nil {
				return read, err
			}
			if fresh && !read {
				read = true
				j.cfg.Trouble(nil)
			}
		}
	}
}

// entry hands an entry on, or keeps it until the line is whole. Fresh says that it
// was not read before, as the one at the cursor was.
func (j *Journal) entry(ctx context.Context, e entry, joiner *joiner[Spot], wanted map[string]Origin) (fresh bool, err error) {
	cursor, name := string(e["__CURSOR"]), string(e["CONTAINER_NAME"])
	if _, ok := parsePlace(cursor); !ok {
		return false, fmt.Errorf("read journal: %w: an entry without a cursor", ErrNoExport)
	}
	if !j.mark.takes(name, cursor) {
		return false, nil
	}
	if len(e["MESSAGE"]) == maxField {
		j.cfg.Sink.Skipped("a message of container " + name + " in the journal is longer than conmon's are, and was cut")
	}
	before := j.mark.Spot
	j.mark.Spot = Spot{Cursor: cursor}
	origin := wanted[name]
	id := string(e["CONTAINER_ID_FULL"])
	if id == "" {
		id = origin.ID
	}
	partial := string(e["CONTAINER_PARTIAL_MESSAGE"]) == "true"
	text := e["MESSAGE"]
	if !partial {
		text = bytes.TrimSuffix(text, []byte{'\n'}) // conmon's, in most versions
	}
	whole := joiner.add(Line{
		ID: id, Name: name, Workload: origin.Workload, Container: origin.Container,
		Time: entryTime(e), Stderr: string(e["PRIORITY"]) == "3", Text: text,
	}, partial, before, time.Now())
	if whole == nil {
		return true, nil
	}
	return true, j.emit(ctx, whole, joiner)
}

// emit hands a line on. A line that is refused is read again.
func (j *Journal) emit(ctx context.Context, p *piece[Spot], joiner *joiner[Spot]) error {
	mark := j.mark
	first, held := joiner.held(Spot.less)
	if held {
		mark.Spot = first
	}
	err := j.cfg.Sink.Take(ctx, p.line, Mark{Journal: &mark})
	if errors.Is(err, ErrRefused) {
		if j.mark.Spot = p.before; held && first.less(p.before) {
			j.mark.Spot = first
		}
	}
	return err
}

// entryTime is when conmon had the line, or when the journal had it.
func entryTime(e entry) time.Time {
	for _, name := range []string{"_SOURCE_REALTIME_TIMESTAMP", "__REALTIME_TIMESTAMP"} {
		if us, err := strconv.ParseInt(string(e[name]), 10, 64); err == nil {
			return time.UnixMicro(us)
		}
	}
	return time.Time{}
}

// prepare makes the mark one for the wanted names, and looks whether the journal
// still has its place.
func (j *Journal) prepare(ctx context.Context, wanted map[string]Origin) error {
	if !j.mark.same(wanted) {
		begin := map[string]Spot{}
		for name, origin := range wanted {
			if _, known := j.mark.Names[name]; known {
				continue
			}
			var err error
			if begin[name], err = j.begin(ctx, name, origin); err != nil {
				return err
			}
		}
		j.mark = j.mark.rewrite(wanted, begin)
	}
	if j.mark.Cursor == "" {
		return nil
	}
	first, err := j.peek(ctx, "--cursor="+j.mark.Cursor)
	switch {
	case err == nil && string(first["__CURSOR"]) == j.mark.Cursor:
		return nil
	case err == nil, errors.Is(err, io.EOF):
		// Without the place journalctl goes by the clock, which tells nothing of a
		// journal that was begun anew: the clock may have been ahead.
		if !j.knows(ctx, j.mark.Cursor) {
			return j.anew(ctx, wanted, "the journal was begun anew; what it has of the containers that there are is read")
		}
		if first != nil {
			j.cfg.Sink.Skipped("the journal no longer has the place up to which it was read; what it dropped in between is lost")
			j.mark.Spot = Spot{Cursor: string(first["__CURSOR"]), From: true}
		}
		return nil
	case ctx.Err() != nil || !strings.Contains(err.Error(), badCursor):
		return err
	}
	return j.anew(ctx, wanted, "the place up to which the journal was read is damaged; what it has of the containers that there are comes again")
}

// anew reads the containers that there are from their beginnings.
func (j *Journal) anew(ctx context.Context, wanted map[string]Origin, why string) error {
	j.cfg.Sink.Skipped(why)
	j.mark = JournalMark{}
	return j.prepare(ctx, wanted)
}

// badCursor is what journalctl says of a cursor that it cannot read.
const badCursor = "Failed to seek to cursor"

// begin is where the lines of a container begin that was not read before: with
// its first one if it exists, or else with the first one under its name since it
// is wanted, because earlier ones are of another life. Where there is none yet, it
// is the journal's end, which is looked for first: what comes while this looks is
// behind it.
func (j *Journal) begin(ctx context.Context, name string, origin Origin) (Spot, error) {
	last, err := j.peek(ctx, "--lines=1")
	if err != nil && !errors.Is(err, io.EOF) {
		return Spot{}, err
	}
	own := []string{"CONTAINER_ID_FULL=" + origin.ID}
	if origin.ID == "" {
		own = []string{"CONTAINER_NAME=" + name, fmt.Sprintf("--since=@%d.%06d", origin.Since.Unix(), origin.Since.Nanosecond()/1000)}
	}
	first, err := j.peek(ctx, own...)
	switch {
	case err == nil:
		return Spot{Cursor: string(first["__CURSOR"]), From: true}, nil
	case errors.Is(err, io.EOF):
		return Spot{Cursor: string(last["__CURSOR"])}, nil
	}
	return Spot{}, err
}

// peek returns the first entry that journalctl shows with these arguments;
// io.EOF: there is none.
func (j *Journal) peek(ctx context.Context, args ...string) (entry, error) {
	c, err := j.start(ctx, args...)
	if err != nil {
		return nil, err
	}
	defer c.stop()
	first, err := c.export.next()
	if err != nil {
		c.err = err
		return nil, c.failure()
	}
	return first, nil
}
