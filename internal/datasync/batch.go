package datasync

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
)

const (
	// batchFiles and batchBytes bound what is put on disk and into its place at
	// once: many small files cost little more than one.
	batchFiles = 256
	batchBytes = 64 << 20
	// batchAfter is how long a downloaded file may wait for others.
	batchAfter = 250 * time.Millisecond
	// fewFiles are put on disk one by one, which does not wait for what others
	// write to the same file system.
	fewFiles = 4
)

// landed is a sealed file that waits to be put into its place.
type landed struct {
	*landing

	op     ingressOp
	object s3.Object
	sha256 [32]byte
}

// batch collects the small downloads of a run. Their content is on disk before
// any of them gets its name, and their names before they are recorded.
type batch struct {
	run  *ingressRun
	disk *folder // the volume; errors of the disk since it was opened show here

	one sync.Mutex // held while files are put into their places

	mu    sync.Mutex
	items []*landed
	bytes int64
	timer *time.Timer
	late  bool // the cycle is over: nobody will settle what is left
	timed sync.WaitGroup
}

func newBatch(r *ingressRun) (*batch, error) {
	file, err := r.volume.openDir(".")
	if err != nil {
		return nil, err
	}
	return &batch{run: r, disk: &folder{file: file, path: "."}}, nil
}

// add puts a sealed file into its place, or takes it over and returns errBatched:
// then it settles the outcome.
func (b *batch) add(ctx context.Context, item *landed) error {
	b.mu.Lock()
	if b.late {
		b.mu.Unlock()
		return b.putAlone(ctx, item)
	}
	b.items = append(b.items, item)
	b.bytes += item.object.Size
	full := len(b.items) >= batchFiles || b.bytes >= batchBytes
	if !full && b.timer == nil {
		b.timed.Add(1)
		b.timer = time.AfterFunc(batchAfter, func() {
			defer b.timed.Done()
			b.flush(false)
		})
	}
	b.mu.Unlock()
	if full {
		b.flush(false)
	}
	return errBatched
}

// errBatched says that a download is not done yet, and will be settled.
var errBatched = errors.New("waits to be put into its place")

// settle puts all into their places; what comes later is not kept waiting.
func (b *batch) settle() { b.flush(true) }

func (b *batch) close() {
	b.settle()
	b.timed.Wait()
	_ = b.disk.file.Close()
}

func (b *batch) flush(last bool) {
	b.one.Lock()
	defer b.one.Unlock()
	b.mu.Lock()
	items := b.items
	b.items, b.bytes = nil, 0
	if b.timer != nil && b.timer.Stop() {
		b.timed.Done()
	}
	b.timer = nil
	b.late = b.late || last
	b.mu.Unlock()
	if len(items) == 0 {
		return
	}
	// Whole downloads are not thrown away because the cycle ends; it costs
	// milliseconds to put them where they belong.
	ctx := context.WithoutCancel(b.run.flights)
	err := errors.Join(b.sync(items), b.run.rec.doubt(items))
	if sealed := b.run.engine.space.sealed; sealed != nil {
		sealed()
	}
	b.run.folders.expire()
	gone := map[*folder]bool{}
	for _, item := range items {
		if _, ok := gone[item.dir]; !ok && err == nil {
			gone[item.dir] = b.run.folders.moved(item.dir)
		}
		why := err
		if why == nil && gone[item.dir] {
			why = errChanged
		}
		if why == nil {
			why = b.put(ctx, item)
		}
		if why != nil {
			item.discard()
		}
		b.run.settleObject(ctx, item.op, why)
	}
}

// sync puts the content of files on disk.
func (b *batch) sync(items []*landed) error {
	if len(items) > fewFiles {
		return b.syncAll()
	}
	for _, item := range items {
		if err := item.file.Sync(); err != nil {
			return err
		}
	}
	return nil
}

// syncAll puts everything on disk that was written to the volume's file system.
func (b *batch) syncAll() error { return unix.Syncfs(b.disk.fd()) }

// putAlone is put for a file that does not wait for others, and is recorded when
// it returns.
func (b *batch) putAlone(ctx context.Context, item *landed) error {
	if err := item.file.Sync(); err != nil {
		return err
	}
	if b.run.folders.moved(item.dir) {
		return errChanged
	}
	if err := b.run.rec.doubt([]*landed{item}); err != nil {
		return err
	}
	if err := b.put(ctx, item); err != nil {
		return err
	}
	b.run.rec.write()
	return nil
}

// put gives a file its name and records it.
func (b *batch) put(ctx context.Context, item *landed) error {
	r := b.run
	e, kept, err := item.place(item.op.Path, r.expendable(ctx, item))
	if kept {
		r.keptAside(item.op.Path)
	}
	if err != nil {
		return errors.Join(ctx.Err(), err)
	}
	r.transferred(item.object.Size)
	r.rec.add(item.op.Path, record{
		fingerprint: e.fingerprint, SHA256: item.sha256, ETag: item.object.ETag, When: time.Now().Unix(),
	}, time.Time{})
	return nil
}
