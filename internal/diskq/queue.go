package diskq

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ErrClosed is returned by every call after Close.
var ErrClosed = errors.New("queue is closed")

// ErrTooLarge says that an entry does not fit into one segment.
var ErrTooLarge = errors.New("entry is larger than a segment")

// Config describes a queue. Dir is required; zero values of the rest are the
// defaults named below.
type Config struct {
	Dir          string        // created with mode 0700 when missing
	MaxBytes     int64         // of all segments together; 64 MiB
	MaxAge       time.Duration // since an entry was appended; 0: any age
	SegmentBytes int64         // unit of dropping, and bound of one entry; MaxBytes/8, at most 4 MiB
	// SyncEvery is how long what was appended or acknowledged may stay only in
	// memory; 0: never, each call returns after its fsync. SyncBytes bounds the
	// same in bytes; 0: no bound.
	SyncEvery time.Duration
	SyncBytes int64
	Log       *slog.Logger // discards when nil

	clock func() reading // tests; nil: the machine's
}

func (c Config) withDefaults() Config {
	if c.MaxBytes == 0 {
		c.MaxBytes = 64 << 20
	}
	if c.SegmentBytes == 0 {
		c.SegmentBytes = min(4<<20, c.MaxBytes/8)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.clock == nil {
		c.clock = readClock()
	}
	return c
}

func (c Config) validate() error {
	switch {
	case c.Dir == "":
		return errors.New("config: Dir is empty")
	case c.MaxAge < 0 || c.SyncEvery < 0 || c.SyncBytes < 0:
		return errors.New("config: a negative bound")
	case c.SegmentBytes <= headerSize || c.SegmentBytes > 1<<30:
		return fmt.Errorf("config: SegmentBytes %d is not in (%d, 1 GiB]", c.SegmentBytes, headerSize)
	case c.MaxBytes < 2*c.SegmentBytes:
		return fmt.Errorf("config: MaxBytes %d holds less than two segments of %d", c.MaxBytes, c.SegmentBytes)
	}
	return nil
}

// Entry is one payload. Time is when it was appended, by the device's clock.
type Entry struct {
	Seq  uint64 // 1, 2, ...; gaps are entries that were lost
	Time time.Time
	Data []byte
}

// Dropped counts the entries that were never acknowledged, by why, over the life
// of the folder.
type Dropped struct {
	Size   uint64 // MaxBytes was hit
	Age    uint64 // MaxAge was hit
	Damage uint64 // the disk lost them
}

// Stats is the state of a queue.
type Stats struct {
	Entries   uint64 // waiting; entries that are damaged on disk count until they are reached
	Bytes     int64  // waiting, on disk
	DiskBytes int64  // of all segments
	MaxBytes  int64  // that they may have
	Newest    uint64 // sequence number of the last entry that was appended; 0: none
	Acked     uint64 // every entry up to it was acknowledged or dropped
	Dropped   Dropped
	// Oldest is when the first entry that waits was appended; zero: none waits, or
	// it was not read yet.
	Oldest time.Time
}

// Queue is an open queue.
type Queue struct {
	cfg  Config
	lock *os.File
	hook func(step string) error // tests: called before each write, sync, ...

	front Entry // the first of the last Read, without its data

	// chosen is SegmentBytes as the caller configured it; 0: by MaxBytes.
	chosen int64

	mu      sync.Mutex
	ages    ages
	closed  bool
	segs    []*segment // the oldest first; the last one is appended to
	active  *os.File   // of the last segment; nil: the next append makes a new one
	cursor  *cursor
	pos     position
	next    uint64 // of the next entry
	headOff int64  // in segs[0]: everything before was acknowledged
	marks   []mark // ends of what the last Read returned
	counted uint64 // entries up to here were looked at: what is missing is in gaps
	gaps    []gap  // after pos.acked
	dirty   int64  // bytes in active not known to be on disk
	timer   *time.Timer
	wake    chan struct{}
}

// mark remembers where an entry ends, so that acknowledging it needs no search.
type mark struct {
	seq, segment uint64
	end          int64
}

// gap is a run of entries that are damaged, and counted as such.
type gap struct{ first, last uint64 }

// advance makes everything up to seq acknowledged and returns how many entries
// that were, without those known to be damaged.
func (q *Queue) advance(seq uint64) uint64 {
	n := seq - q.pos.acked - q.damaged(seq)
	q.pos.acked, q.counted = seq, max(q.counted, seq)
	for len(q.gaps) > 0 && q.gaps[0].last <= seq {
		q.gaps = q.gaps[1:]
	}
	return n
}

// damaged returns how many entries after pos.acked up to seq are in gaps.
func (q *Queue) damaged(seq uint64) (n uint64) {
	for _, g := range q.gaps {
		first, last := max(g.first, q.pos.acked+1), min(g.last, seq)
		if first <= last {
			n += last - first + 1
		}
	}
	return n
}

// Open opens the queue in cfg.Dir and repairs it: a torn tail is cut off. Only
// the newest segment is read. It fails when another process has the queue open.
func Open(cfg Config) (*Queue, error) {
	chosen := cfg.SegmentBytes
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("open queue: %w", err)
	}
	q := &Queue{cfg: cfg, chosen: chosen, wake: make(chan struct{})}
	if err := q.open(); err != nil {
		_ = q.closeFiles()
		return nil, fmt.Errorf("open queue %s: %w", cfg.Dir, err)
	}
	return q, nil
}

func (q *Queue) open() (err error) {
	if err := os.MkdirAll(q.cfg.Dir, 0o700); err != nil {
		return err
	}
	if q.lock, err = os.Open(q.cfg.Dir); err != nil {
		return err
	}
	if err := unix.Flock(int(q.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("in use by another process: %w", err)
	}
	if q.cursor, q.pos, err = openCursor(q.cfg.Dir); err != nil {
		return err
	}
	if q.segs, err = listSegments(q.cfg.Dir); err != nil {
		return err
	}
	q.next = q.pos.acked + 1
	if len(q.segs) > 0 {
		// Also without a cursor, what is older than the oldest file is gone.
		q.pos.acked = max(q.pos.acked, q.segs[0].first-1)
		q.next = max(q.next, q.pos.acked+1)
		if err := q.recoverTail(); err != nil {
			return err
		}
	}
	q.counted = q.pos.acked
	q.look()
	q.reap()
	return nil
}

// look notes the time and returns it.
func (q *Queue) look() time.Time {
	r := q.cfg.clock()
	q.ages.look(r, q.next)
	return r.wall
}

// recoverTail reads the newest segment, cuts off what is not an entry at its
// end, and opens it for appending.
func (q *Queue) recoverTail() error {
	s := q.segs[len(q.segs)-1]
	f, err := os.OpenFile(s.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	q.active = f
	sc := scanner{r: f, size: s.size, salt: s.salt, first: s.first, limit: 1 << 63}
	var end int64
	q.next = max(q.next, s.first)
	for {
		fr, damaged, ok := sc.next(end)
		if !ok {
			break
		}
		s.damaged = s.damaged || damaged
		end, q.next = fr.end, max(q.next, fr.Seq+1)
		if len(q.segs) == 1 && fr.Seq <= q.pos.acked {
			q.headOff = end
		}
	}
	if sc.err != nil {
		// Unreadable is not torn: leave it as it is and go on in a new file.
		q.cfg.Log.Error("queue segment is unreadable", "path", s.path, "err", sc.err)
		s.damaged = true
		q.next = max(q.next, s.first+uint64(s.size)/headerSize) //nolint:gosec // a file's size
		return q.dropActive()
	}
	if end == s.size {
		return nil
	}
	q.cfg.Log.Warn("queue has a torn tail, cut off", "path", s.path, "bytes", s.size-end)
	if err := f.Truncate(end); err != nil {
		return err
	}
	s.size = end
	return f.Sync()
}

// Wait returns a channel that is closed by the next Append that begins after
// this call. Take it before Read, and nothing is missed.
func (q *Queue) Wait() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.wake
}

// Stats returns the state of the queue without touching the disk.
func (q *Queue) Stats() Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	waiting := q.next - 1 - q.pos.acked - q.damaged(q.next-1)
	st := Stats{Entries: waiting, DiskBytes: q.diskBytes(), MaxBytes: q.cfg.MaxBytes, Newest: q.next - 1, Acked: q.pos.acked, Dropped: q.pos.dropped}
	st.Bytes = st.DiskBytes - q.headOff
	switch {
	case st.Entries == 0:
		st.Bytes = 0
	case q.front.Seq > q.pos.acked:
		st.Oldest = q.front.Time
	}
	return st
}

func (q *Queue) diskBytes() (n int64) {
	for _, s := range q.segs {
		n += s.size
	}
	return n
}

// Close makes everything durable and releases the queue.
func (q *Queue) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return nil
	}
	q.closed = true
	if q.timer != nil {
		q.timer.Stop()
	}
	err := errors.Join(q.sync(), q.closeFiles())
	if err != nil {
		return fmt.Errorf("close queue %s: %w", q.cfg.Dir, err)
	}
	return nil
}

func (q *Queue) closeFiles() error {
	var errs []error
	if q.active != nil {
		errs = append(errs, q.active.Close())
		q.active = nil
	}
	if q.cursor != nil {
		errs = append(errs, q.cursor.f.Close())
	}
	if q.lock != nil {
		// Closing alone leaves the lock to a child that was forked just now and
		// has the descriptor until it executes.
		errs = append(errs, unix.Flock(int(q.lock.Fd()), unix.LOCK_UN), q.lock.Close())
	}
	return errors.Join(errs...)
}
