package diskq

import (
	"fmt"
	"os"
	"time"
)

// maxReadBytes bounds the payload that one Read returns, and so the memory.
const maxReadBytes = 4 << 20

// Read returns the oldest entries that are not acknowledged, in order: at most
// limit, and at most 4 MiB of payload (one entry at least). It returns the same
// entries again until Ack. None and no error: nothing is waiting; see Wait.
// What is damaged is skipped, counted and logged. The entries are the caller's.
func (q *Queue) Read(limit int) ([]Entry, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return nil, ErrClosed
	}
	before := q.pos
	q.look()
	entries := q.read(limit)
	if len(entries) > 0 {
		q.front = Entry{Seq: entries[0].Seq, Time: entries[0].Time}
	}
	if q.pos == before {
		return entries, nil
	}
	q.reap() // dropped because of their age or damage
	if err := q.saveCursor(); err != nil {
		// The entries are good; what was skipped is skipped again.
		q.cfg.Log.Warn("queue cursor not written", "path", q.cfg.Dir, "err", err)
	}
	return entries, nil
}

func (q *Queue) read(limit int) []Entry {
	q.marks = q.marks[:0]
	var entries []Entry
	size, seq := 0, q.pos.acked
	for i := range q.segs {
		whole := q.scan(i, func(f frame) bool {
			if f.Seq <= seq {
				if i == 0 && f.Seq <= q.pos.acked {
					q.headOff = f.end // not to be read again
				}
				return true
			}
			if q.ages.tooOld(f.Seq, f.Time, q.cfg.MaxAge) && len(entries) == 0 {
				q.lost(seq, f.Seq)
				q.pos.dropped.Age += q.advance(f.Seq)
				seq = f.Seq
				return true
			}
			if len(entries) >= limit || len(entries) > 0 && size+len(f.Data) > maxReadBytes {
				return false
			}
			q.lost(seq, f.Seq)
			seq = f.Seq
			entries, size = append(entries, f.Entry), size+len(f.Data)
			q.marks = append(q.marks, mark{seq: f.Seq, segment: q.segs[i].first, end: f.end})
			return true
		})
		if !whole {
			return entries
		}
	}
	if len(entries) == 0 && limit > 0 && q.pos.acked < q.next-1 {
		// Everything that is waiting is damaged.
		q.lost(seq, q.next)
		q.advance(q.next - 1)
	}
	return entries
}

// lost counts the entries between after and found, which nobody will ever see.
func (q *Queue) lost(after, found uint64) {
	after = max(after, q.counted)
	if found > after+1 {
		n := found - after - 1
		q.gaps = append(q.gaps, gap{first: after + 1, last: found - 1})
		q.pos.dropped.Damage += n
		q.cfg.Log.Error("queue entries are damaged on disk, skipped", "path", q.cfg.Dir, "entries", n)
	}
	q.counted = max(q.counted, found-1)
}

// scan calls yield with the frames of segment i that are not known to be
// acknowledged, until it returns false. It returns whether it reached the end.
func (q *Queue) scan(i int, yield func(frame) bool) bool {
	s := q.segs[i]
	f, err := os.Open(s.path)
	if err != nil {
		q.cfg.Log.Error("queue segment is unreadable", "path", s.path, "err", err)
		s.damaged = true
		return true
	}
	defer f.Close() //nolint:errcheck // only read
	limit := q.next
	if i+1 < len(q.segs) {
		limit = q.segs[i+1].first
	}
	sc := scanner{r: f, size: s.size, salt: s.salt, first: s.first, limit: limit}
	var off int64
	if i == 0 {
		off = q.headOff
	}
	for {
		fr, damaged, ok := sc.next(off)
		s.damaged = s.damaged || damaged
		if !ok {
			if sc.err != nil {
				q.cfg.Log.Error("queue segment is unreadable", "path", s.path, "err", sc.err)
			}
			return true
		}
		if !yield(fr) {
			return false
		}
		off = fr.end
	}
}

// Ack acknowledges every entry up to seq: they never come again, except after a
// crash before the acknowledgement was on disk. Acknowledging again is no error.
func (q *Queue) Ack(seq uint64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return ErrClosed
	case seq >= q.next:
		return fmt.Errorf("acknowledge %d in queue %s: the newest entry is %d", seq, q.cfg.Dir, q.next-1)
	case seq <= q.pos.acked:
		return nil
	}
	q.advance(seq)
	for len(q.marks) > 0 && q.marks[0].seq < seq {
		q.marks = q.marks[1:]
	}
	q.reap()
	if len(q.marks) > 0 && len(q.segs) > 0 && q.marks[0].seq == seq && q.marks[0].segment == q.segs[0].first {
		q.headOff = q.marks[0].end
	}
	if err := q.saveCursor(); err != nil {
		return fmt.Errorf("acknowledge in queue %s: %w", q.cfg.Dir, err)
	}
	return nil
}

// Clear acknowledges everything and removes it from the disk, for who must not
// keep what it holds.
func (q *Queue) Clear() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return ErrClosed
	}
	q.advance(q.next - 1)
	q.marks = q.marks[:0]
	err := q.saveCursor()
	if err == nil && len(q.segs) > 0 && q.segs[0].size > 0 {
		err = q.room(q.cfg.SegmentBytes, time.Now()) // in a new segment, which leaves none of those before
	}
	if err != nil {
		return fmt.Errorf("clear queue %s: %w", q.cfg.Dir, err)
	}
	return nil
}

func (q *Queue) saveCursor() error {
	if err := q.step("cursor"); err != nil {
		return err
	}
	if err := q.cursor.write(&q.pos); err != nil {
		return err
	}
	return q.syncIfDue()
}
