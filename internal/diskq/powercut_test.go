package diskq

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// powered is a queue whose disk is known: what a power cut would leave for sure,
// and what it might leave beside that.
type powered struct {
	*Queue

	t      *testing.T
	r      *rand.Rand
	cursor []byte            // of the file, when it was synced last
	acked  uint64            // by it
	sure   map[string]int64  // bytes of each segment that were synced
	synced uint64            // newest entry that was synced
	gone   map[string][]byte // segments that were removed since the cursor was synced
}

// follow is the hook of the queue.
func (p *powered) follow(step string) error {
	switch step {
	case "remove":
		p.gone[filepath.Base(p.segs[0].path)] = contents(p.t, p.segs[0].path)
	case "sync":
		s := p.segs[len(p.segs)-1]
		p.sure[s.path], p.synced = s.size, p.next-1
	}
	return nil
}

// note looks at the cursor, after each call.
func (p *powered) note() {
	p.t.Helper()
	if !p.Queue.cursor.dirty {
		p.cursor, p.acked = contents(p.t, filepath.Join(p.cfg.Dir, cursorName)), p.pos.acked
		clear(p.gone)
	}
}

func contents(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// cut returns the folder as it may be after a power cut: of what was not synced
// any part is there, at random.
func (p *powered) cut() string {
	p.t.Helper()
	left := maps.Clone(p.gone)
	maps.DeleteFunc(left, func(string, []byte) bool { return p.r.IntN(2) == 0 })
	for _, s := range p.segs {
		b := contents(p.t, s.path)
		if sure := int(p.sure[s.path]); sure < len(b) {
			b = b[:sure+p.r.IntN(len(b)-sure+1)]
			if n := len(b) - sure; n > 0 && p.r.IntN(2) == 0 {
				clear(b[sure+p.r.IntN(n):]) // the size got there, the bytes did not
			}
		}
		left[filepath.Base(s.path)] = b
	}
	now, torn := contents(p.t, filepath.Join(p.cfg.Dir, cursorName)), append([]byte(nil), p.cursor...)
	for slot := range 2 {
		at := slot * slotDistance
		switch p.r.IntN(3) {
		case 0:
			copy(torn[at:at+slotSize], now[at:])
		case 1:
			copy(torn[at:at+8+p.r.IntN(16)], now[at:]) // a part of it, up to what was acknowledged
		}
	}
	left[cursorName] = torn
	dir := p.t.TempDir()
	for name, b := range left {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			p.t.Fatal(err)
		}
	}
	return dir
}

// TestQueuePowerCut cuts the power at any moment of a queue that seldom syncs:
// what was synced is there, in order, and what was acknowledged on the disk does
// not come again.
func TestQueuePowerCut(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 11))
			cfg := Config{Dir: t.TempDir(), SegmentBytes: 1500, MaxBytes: 1 << 20, SyncEvery: time.Hour, SyncBytes: 300 + r.Int64N(3000)}
			p := &powered{Queue: open(t, cfg), t: t, r: r, gone: map[string][]byte{}, sure: map[string]int64{}}
			p.note()
			p.hook = p.follow
			for range 60 {
				for range 1 + r.IntN(30) {
					if r.IntN(8) > 0 {
						if err := p.Append(numbered(int(p.next))); err != nil {
							t.Fatal(err)
						}
					} else if es := read(t, p.Queue, 1+r.IntN(6)); len(es) > 0 {
						ack(t, p.Queue, es[len(es)-1].Seq)
					}
					p.note()
				}
				p.check(p.cut())
			}
		})
	}
}

// check opens what a power cut has left.
func (p *powered) check(dir string) {
	p.t.Helper()
	cfg := p.cfg
	cfg.Dir = dir
	q, err := Open(cfg)
	if err != nil {
		p.t.Fatal(err)
	}
	got := drain(p.t, q)
	here := map[uint64]bool{}
	for _, seq := range got {
		here[seq] = true
	}
	for seq := p.pos.acked + 1; seq <= p.synced; seq++ {
		if !here[seq] {
			p.t.Fatalf("entry %d is lost: %d is acknowledged, %d was synced, there are %v", seq, p.pos.acked, p.synced, got)
		}
	}
	if len(got) > 0 && got[0] <= p.acked {
		p.t.Fatalf("entry %d comes again: %d is acknowledged on the disk", got[0], p.acked)
	}
	works(p.t, q)
	if err := q.Close(); err != nil {
		p.t.Fatal(err)
	}
}
