package datasync

import (
	"iter"
	"sync"
	"time"
)

const (
	// defaultRecordBatch files are recorded with one fsync of the index: a kill
	// costs the repetition of at most so many transfers.
	defaultRecordBatch = 512
	// recordAfter is how long a transferred file may be unrecorded.
	recordAfter = 2 * time.Second
)

// recorder collects what was transferred and writes it to the index in batches.
type recorder struct {
	index   *index
	most    int // records in a batch
	id      string
	prepare func(records map[string]record) // may remove records; nil: nothing to do
	failed  func(error)

	mu       sync.Mutex
	batch    map[string]record
	uploaded time.Time
	timer    *time.Timer
	closed   bool
}

func newRecorder(c *cycle, id string) *recorder {
	return &recorder{
		index: c.index, id: id, most: c.engine.recordBatch, batch: map[string]record{},
		failed: func(err error) { c.fail("index", err) },
	}
}

// add records that path is where it should be; uploaded is zero when nothing was
// sent for that.
func (r *recorder) add(path string, rec record, uploaded time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.batch[path] = rec
	if uploaded.After(r.uploaded) {
		r.uploaded = uploaded
	}
	if len(r.batch) >= r.most || r.closed {
		r.flush()
	} else if r.timer == nil {
		r.timer = time.AfterFunc(recordAfter, func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			if !r.closed {
				r.flush()
			}
		})
	}
}

// doubt says in the index, before files with a record are replaced, that their
// place may hold another version from now on.
func (r *recorder) doubt(items []*landed) error {
	return r.index.doubt(r.id, func(yield func(string) bool) {
		for _, item := range items {
			if item.op.Known != nil && !yield(item.op.Path) {
				return
			}
		}
	})
}

// doubt takes the ETag out of the records of paths.
func (ix *index) doubt(id string, paths iter.Seq[string]) error {
	records := map[string]record{}
	err := ix.view(id, func(v indexView) error {
		for path := range paths {
			if rec, ok := v.record(path); ok && rec.ETag != doubted {
				rec.ETag = doubted
				records[path] = rec
			}
		}
		return nil
	})
	if err != nil || len(records) == 0 {
		return err
	}
	return ix.put(id, records, time.Time{})
}

// close writes what is left. Nothing touches the index after it.
func (r *recorder) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flush()
	r.closed = true
}

func (r *recorder) flush() {
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
	if len(r.batch) == 0 {
		return
	}
	if r.prepare != nil {
		r.prepare(r.batch)
	}
	if err := r.index.put(r.id, r.batch, r.uploaded); err != nil {
		r.failed(err)
	}
	r.batch, r.uploaded = map[string]record{}, time.Time{}
}
