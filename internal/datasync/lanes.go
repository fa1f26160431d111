package datasync

import (
	"container/heap"
	"context"
	"math/bits"
	"sync"
	"time"
)

const (
	// largeBytes is the size beyond which a file may not keep others waiting.
	largeBytes = 16 << 20
	// waitingSmall files of a group are held for their order; whoever finds
	// more of them waits. This bounds the memory, however many files there are.
	waitingSmall = 4096
	// waitingLarge is the same for large files. Nobody waits for those: what
	// is beyond the bound is found again by a later cycle.
	waitingLarge = 1024
	// oldestEach in so many turns of a group, the file that has waited longest
	// goes first, so that those of little priority have their turn as well.
	oldestEach = 16
)

// lanes shares a number of slots between the transfers of all groups. A group
// gets a slot when it is its turn; within a group small files go before large
// ones and recent ones before old ones of like size. Large files have at most
// half of the slots, but always one: with a single slot in all, everything waits
// for a large file that is under way.
type lanes struct {
	slots, largeSlots int

	mu        sync.Mutex
	groups    map[groupKey]*group // those that run
	turns     []*queue            // that are not empty, the next one first
	busy      int                 // slots
	busyLarge int
	launched  uint64
	workers   sync.WaitGroup
}

func newLanes(slots int) *lanes {
	return &lanes{slots: slots, largeSlots: max(1, slots/2), groups: map[groupKey]*group{}}
}

// queue is what a group has launched and not yet settled. The lanes' mutex
// guards it.
type queue struct {
	small, large flights
	inTurns      bool
	pops         int

	open   map[string]*flight // by path: those that wait and those that fly
	flying map[*flight]bool
	bytes  int64         // of all that is open
	wake   chan struct{} // closed when something changes; nil: nobody waits
}

func newQueue() queue {
	return queue{open: map[string]*flight{}, flying: map[*flight]bool{}}
}

// flight is a transfer that was launched.
type flight struct {
	launched

	cycle  *cycle
	lease  *lease
	number uint64 // in the order of launches

	// The lanes' mutex guards these two.

	since time.Time // it took off; zero: it waits
	place int       // in its heap

	progress
}

func (f *flight) isLarge() bool { return f.size > largeBytes }

// before says which of two flights goes first.
func (f *flight) before(g *flight) bool {
	if a, b := bits.Len64(uint64(f.size)), bits.Len64(uint64(g.size)); a != b { //nolint:gosec // no file has a negative size.
		return a < b
	}
	if !f.changed.Equal(g.changed) {
		return f.changed.After(g.changed)
	}
	return f.number < g.number
}

// flights is a heap of those that wait, the next one first.
type flights []*flight

func (q flights) Len() int           { return len(q) }
func (q flights) Less(i, j int) bool { return q[i].before(q[j]) }
func (q flights) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i, j
}

// Push is for package heap.
func (q *flights) Push(x any) {
	f := x.(*flight) //nolint:forcetypeassert // nothing else is pushed.
	f.place = len(*q)
	*q = append(*q, f)
}

// Pop is for package heap.
func (q *flights) Pop() any {
	old := *q
	f := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return f
}

// of returns the heap of a flight.
func (q *queue) of(f *flight) *flights {
	if f.isLarge() {
		return &q.large
	}
	return &q.small
}

// pop takes the next flight; nil: there is none that may take off now.
func (q *queue) pop(largeToo bool) *flight {
	if len(q.small) == 0 && (!largeToo || len(q.large) == 0) {
		return nil
	}
	q.pops++
	next := &q.small
	if len(q.small) == 0 {
		next = &q.large
	}
	at := 0
	if q.pops%oldestEach == 0 {
		oldest := (*next)[0]
		for _, f := range q.small {
			if f.number < oldest.number {
				oldest = f
			}
		}
		for _, f := range q.large {
			if largeToo && f.number < oldest.number {
				oldest = f
			}
		}
		next, at = q.of(oldest), oldest.place
	}
	return heap.Remove(next, at).(*flight) //nolint:forcetypeassert // nothing else is pushed.
}

// changed wakes whoever waits for the queue.
func (q *queue) changed() {
	if q.wake != nil {
		close(q.wake)
		q.wake = nil
	}
}

// change returns what is closed when the queue changes next.
func (q *queue) change() <-chan struct{} {
	if q.wake == nil {
		q.wake = make(chan struct{})
	}
	return q.wake
}

// add queues a flight or says why not: its path is known, or there is no room
// now. The channel is closed when there may be.
func (l *lanes) add(f *flight) (added bool, full <-chan struct{}) {
	q := &f.cycle.queue
	l.mu.Lock()
	defer l.mu.Unlock()
	if q.open[f.path] != nil || f.isLarge() && len(q.large) >= waitingLarge {
		return false, nil
	}
	if !f.isLarge() && len(q.small) >= waitingSmall {
		return false, q.change()
	}
	l.launched++
	f.number = l.launched
	q.open[f.path] = f
	q.bytes += f.size
	f.cycle.inAir++
	if !f.isLarge() {
		f.cycle.small++
	}
	heap.Push(q.of(f), f)
	if !q.inTurns {
		q.inTurns = true
		l.turns = append(l.turns, q)
	}
	for l.busy < l.slots {
		next := l.next()
		if next == nil {
			break
		}
		l.busy++
		l.workers.Go(func() { l.work(next) })
	}
	return true, nil
}

// next takes the next flight of the next group whose turn it is.
func (l *lanes) next() *flight {
	for range l.turns {
		q := l.turns[0]
		copy(l.turns, l.turns[1:])
		l.turns = l.turns[:len(l.turns)-1]
		f := q.pop(l.busyLarge < l.largeSlots)
		if q.inTurns = len(q.small)+len(q.large) > 0; q.inTurns {
			l.turns = append(l.turns, q)
		}
		if f == nil {
			continue
		}
		if f.isLarge() {
			l.busyLarge++
		}
		f.since = time.Now()
		q.flying[f] = true
		q.changed() // there is room for one more
		return f
	}
	return nil
}

// work has a slot, and makes one flight after the other as long as there are any.
func (l *lanes) work(f *flight) {
	for f != nil {
		f.fly()
		l.mu.Lock()
		if f.isLarge() {
			l.busyLarge--
		}
		l.gone(f)
		next := l.next()
		if next == nil {
			l.busy--
		}
		l.mu.Unlock()
		f.lease.leave()
		f = next
	}
}

// gone says that a flight is settled, or never took off.
func (l *lanes) gone(f *flight) {
	q := &f.cycle.queue
	delete(q.open, f.path)
	delete(q.flying, f)
	q.bytes -= f.size
	c := f.cycle
	if !f.isLarge() {
		c.small--
	}
	if c.inAir--; c.inAir == 0 && c.over {
		c.endFlights(nil)
	}
	q.changed()
}

// drop takes the flights out of the group's queue whose context has ended. Their
// files stay what they were: to be transferred.
func (l *lanes) drop(g *group) {
	l.mu.Lock()
	var dropped []*flight
	for _, q := range []*flights{&g.queue.small, &g.queue.large} {
		kept := (*q)[:0]
		for _, f := range *q {
			if f.cycle.flights.Err() != nil {
				dropped = append(dropped, f)
				l.gone(f)
				continue
			}
			f.place = len(kept)
			kept = append(kept, f)
		}
		clear((*q)[len(kept):])
		*q = kept
		heap.Init(q)
	}
	l.mu.Unlock()
	for _, f := range dropped {
		f.lease.leave()
	}
}

// wait returns when left says so; it is asked under the mutex whenever something
// changed. It reports false when ctx or, unless it is nil, until ended it.
func (l *lanes) wait(ctx context.Context, q *queue, until <-chan time.Time, left func() bool) bool {
	for {
		l.mu.Lock()
		if !left() {
			l.mu.Unlock()
			return true
		}
		change := q.change()
		l.mu.Unlock()
		select {
		case <-change:
		case <-until:
			return false
		case <-ctx.Done():
			return false
		}
	}
}
