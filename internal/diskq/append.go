package diskq

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// Append puts payloads at the end, in one write where they fit into one segment,
// and drops the oldest entries where the bounds ask for it. When it returns nil
// and Config.SyncEvery is 0, they are on disk. After an error a part of them may
// be in the queue. It blocks for as long as the disk takes.
func (q *Queue) Append(payloads ...[]byte) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return ErrClosed
	}
	for _, p := range payloads {
		if headerSize+int64(len(p)) > q.cfg.SegmentBytes {
			return fmt.Errorf("append %d bytes: %w", len(p), ErrTooLarge)
		}
	}
	if err := q.append(payloads, q.look()); err != nil {
		return fmt.Errorf("append to queue %s: %w", q.cfg.Dir, err)
	}
	return nil
}

func (q *Queue) append(payloads [][]byte, now time.Time) error {
	defer q.broadcast() // also what came in before an error
	for len(payloads) > 0 {
		if err := q.room(headerSize+int64(len(payloads[0])), now); err != nil {
			return err
		}
		s := q.segs[len(q.segs)-1]
		var b []byte
		n := 0
		for _, p := range payloads {
			if s.size+int64(len(b)+headerSize+len(p)) > q.cfg.SegmentBytes {
				break
			}
			b = appendFrame(b, s.salt, q.next+uint64(n), now, p)
			n++
		}
		if err := q.write(s, b); err != nil {
			return err
		}
		q.next += uint64(n)
		s.last = now
		payloads = payloads[n:]
	}
	if err := q.bound(); err != nil {
		return err
	}
	return q.syncIfDue()
}

func (q *Queue) broadcast() {
	close(q.wake)
	q.wake = make(chan struct{})
}

// room makes the last segment one with space for n bytes.
func (q *Queue) room(n int64, now time.Time) error {
	if q.active != nil {
		if q.segs[len(q.segs)-1].size+n <= q.cfg.SegmentBytes {
			return nil
		}
		// Only the newest segment may have a torn tail: the older ones are on
		// disk before there is a newer one.
		if err := q.syncActive(); err != nil {
			return err
		}
		if err := q.dropActive(); err != nil {
			return err
		}
	}
	if err := q.bound(); err != nil {
		return err
	}
	if err := q.step("create"); err != nil {
		return err
	}
	s, f, err := createSegment(q.cfg.Dir, q.next)
	if err != nil {
		return err
	}
	s.last = now
	q.segs, q.active = append(q.segs, s), f
	q.reap() // all that was before may be acknowledged already
	return nil
}

// dropActive ends appending to the last segment.
func (q *Queue) dropActive() error {
	err := q.active.Close()
	q.active, q.dirty = nil, 0
	if last := len(q.segs) - 1; last >= 0 && q.segs[last].first == q.next {
		// Nothing was ever in it, and its name is that of the next one.
		err = errors.Join(err, q.segs[last].discard())
		q.segs = q.segs[:last]
		if last == 0 {
			q.headOff = 0
		}
	}
	return err
}

// write puts b at the end of s, or leaves s as it was.
func (q *Queue) write(s *segment, b []byte) error {
	err := q.step("write")
	n := len(b)
	if err != nil {
		n /= 2 // as on a disk that fills up
	}
	n, werr := q.active.WriteAt(b[:n], s.size)
	if err = errors.Join(err, werr); err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err != nil {
		if terr := q.active.Truncate(s.size); terr != nil {
			// Half an entry that cannot be removed: the next one goes to a new
			// file, and reading skips this.
			s.damaged = true
			return errors.Join(err, terr, q.dropActive())
		}
		return err
	}
	s.size += int64(len(b))
	q.dirty += int64(len(b))
	return nil
}

// bound drops the oldest segments until the others are within the bounds with
// one more segment.
func (q *Queue) bound() error {
	limit := q.cfg.MaxBytes
	if q.active == nil {
		limit -= q.cfg.SegmentBytes
	}
	var errs []error
	for len(q.segs) > 1 || len(q.segs) == 1 && q.active == nil {
		s := q.segs[0]
		last := q.next - 1
		if len(q.segs) > 1 {
			last = q.segs[1].first - 1
		}
		var count *uint64
		switch {
		case q.diskBytes() > limit:
			count = &q.pos.dropped.Size
		case q.ages.tooOld(last, s.last, q.cfg.MaxAge):
			count = &q.pos.dropped.Age
		default:
			return errors.Join(errs...)
		}
		if last > q.pos.acked {
			q.cfg.Log.Warn("queue drops its oldest entries", "path", s.path, "bytes", s.size)
			*count += q.advance(last)
			// First the cursor, so that what is gone is counted after a crash.
			// On a full disk this may fail, and removing is what helps.
			errs = append(errs, q.saveCursor())
		}
		q.removeOldest()
	}
	return errors.Join(errs...)
}

// SetBounds changes Config.MaxBytes and MaxAge, with the same defaults, and drops
// at once what is beyond them, in whole segments. A segment that was appended to
// under a larger bound may be larger than what is left of it, and goes then with
// all that is in it. SegmentBytes is at most half of the new MaxBytes. When the
// bounds make no sense, the error says so and nothing changes; any other error is
// of the disk, and the bounds are in force.
func (q *Queue) SetBounds(maxBytes int64, maxAge time.Duration) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return ErrClosed
	}
	next := q.cfg
	next.MaxBytes, next.MaxAge, next.SegmentBytes = maxBytes, maxAge, q.chosen
	next = next.withDefaults()
	next.SegmentBytes = min(next.SegmentBytes, next.MaxBytes/2)
	if err := next.validate(); err != nil {
		return fmt.Errorf("set bounds of queue %s: %w", q.cfg.Dir, err)
	}
	q.cfg = next
	q.look()
	var errs []error
	if q.active != nil && q.segs[len(q.segs)-1].size > next.SegmentBytes {
		errs = append(errs, q.syncActive())
		if q.active != nil { // a failed sync has done it
			errs = append(errs, q.dropActive())
		}
	}
	if err := errors.Join(append(errs, q.bound())...); err != nil {
		return fmt.Errorf("set bounds of queue %s: %w", q.cfg.Dir, err)
	}
	return nil
}

// removeOldest removes the oldest segment. A file that cannot be removed is
// tried again after the next Open.
func (q *Queue) removeOldest() {
	if err := q.step("remove"); err != nil {
		q.cfg.Log.Warn("queue segment not removed", "path", q.segs[0].path, "err", err)
	} else if err := q.segs[0].discard(); err != nil {
		q.cfg.Log.Warn("queue segment not removed", "path", q.segs[0].path, "err", err)
	}
	q.segs = q.segs[1:]
	q.headOff = 0
}

// reap removes the segments of which everything is acknowledged, except the one
// that is appended to: its name keeps the sequence number.
func (q *Queue) reap() {
	for len(q.segs) > 1 && q.segs[1].first <= q.pos.acked+1 {
		q.removeOldest()
	}
}

func (q *Queue) step(name string) error {
	if q.hook == nil {
		return nil
	}
	return q.hook(name)
}

// Sync makes everything appended and acknowledged so far durable.
func (q *Queue) Sync() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return ErrClosed
	}
	if err := q.sync(); err != nil {
		return fmt.Errorf("sync queue %s: %w", q.cfg.Dir, err)
	}
	return nil
}

func (q *Queue) sync() error {
	return errors.Join(q.syncActive(), q.cursor.sync())
}

func (q *Queue) syncActive() error {
	if q.dirty == 0 || q.active == nil {
		return nil
	}
	err := q.step("sync")
	if err == nil {
		err = q.active.Sync()
	}
	if err != nil {
		// The kernel may have forgotten which pages it did not write, so that
		// the next fsync of this file would lie. It gets no more entries.
		return errors.Join(err, q.dropActive())
	}
	q.dirty = 0
	return nil
}

// syncIfDue is called after each change.
func (q *Queue) syncIfDue() error {
	if q.cfg.SyncEvery == 0 || q.cfg.SyncBytes > 0 && q.dirty >= q.cfg.SyncBytes {
		return q.sync()
	}
	if q.timer == nil && (q.dirty > 0 || q.cursor.dirty) {
		q.timer = time.AfterFunc(q.cfg.SyncEvery, q.syncLate)
	}
	return nil
}

func (q *Queue) syncLate() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.timer = nil
	if q.closed {
		return
	}
	if err := q.sync(); err != nil && !errors.Is(err, os.ErrClosed) {
		q.cfg.Log.Error("queue not synced", "path", q.cfg.Dir, "err", err)
	}
}
