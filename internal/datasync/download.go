package datasync

import (
	"context"
	"errors"
	"io"
	"path"
	"time"

	"golang.org/x/sys/unix"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
)

const (
	// checkpointBytes and checkpointAfter bound what a kill or a power cut costs.
	checkpointBytes = 64 << 20
	checkpointAfter = 10 * time.Second
	// flushBytes are given to the disk at a time.
	flushBytes = 8 << 20
	// pieces are on their way between network and disk.
	pieces = 4
)

// download is a large object on its way, which outlives a cut.
type download struct {
	*intake

	run      *ingressRun
	temp     string // path in the volume
	recorded bool   // the index knows of it
	saved    int64  // bytes at the last checkpoint
	savedAt  time.Time
	flushed  int64   // bytes that the kernel was told to write
	beside   hashing // of what is being written
}

// fetchLarge is fetch for an object whose download is continued after a cut.
func (r *ingressRun) fetchLarge(ctx context.Context, op ingressOp, moved func(bytes int64)) error {
	temp := r.partialPath(op.Path, op.Object)
	begun, err := r.index.partials(r.id)
	if err != nil {
		return err
	}
	p := begun[temp]
	release, err := r.claim(ctx, op, op.Object.Size-p.Offset)
	if err != nil {
		if p.Offset > 0 && r.engine.space.exhausted(r.volume) {
			r.remove(temp)
			r.forgetPartial(temp)
		}
		return err
	}
	defer func() { release() }()
	d, err := r.reopen(ctx, op, temp, p)
	if err != nil {
		return err
	}
	if d == nil && p.Offset > 0 {
		release()
		if release, err = r.claim(ctx, op, op.Object.Size); err != nil {
			release = func() {}
			return err
		}
	}
	return r.transfer(ctx, op, d, moved)
}

// transfer downloads what is missing of d; nil: everything.
func (r *ingressRun) transfer(ctx context.Context, op ingressOp, d *download, moved func(bytes int64)) error {
	var body io.ReadCloser
	var err error
	if d == nil {
		d, body, err = r.begin(ctx, op)
	} else {
		moved(d.at)
		body, err = d.proceed(ctx)
	}
	if d != nil {
		defer r.inflow.write(d.temp)()
	}
	if err == nil && body != nil {
		err = d.receive(ctx, body, moved)
	}
	if err != nil {
		if d != nil {
			d.keepOrDrop(err)
		}
		return err
	}
	return d.finish(ctx, op)
}

// reopen returns the download that was begun before, when what is there of it is
// what arrived; nil: there is none.
func (r *ingressRun) reopen(ctx context.Context, op ingressOp, temp string, p partial) (*download, error) {
	if p.Offset <= 0 || p.Offset > op.Object.Size {
		return nil, nil //nolint:nilnil // as documented.
	}
	o, err := r.store.Head(ctx, op.Object.Key)
	if err != nil {
		return nil, err
	}
	if o.ETag != op.Object.ETag || o.Size != op.Object.Size {
		return nil, errChanged
	}
	l, err := r.folders.resume(op.Path, path.Base(temp))
	if err != nil {
		return nil, nil //nolint:nilerr,nilnil // the file is gone, or not ours: it is begun again.
	}
	d := &download{intake: newIntake(l, o), run: r, temp: temp, recorded: true}
	if err := d.reread(ctx, p); err != nil {
		l.close()
		return nil, err
	}
	if d.digest() != p.SHA256 || d.at != p.Offset {
		d.drop()
		return nil, nil //nolint:nilnil // as above.
	}
	d.saved, d.savedAt = d.at, time.Now()
	// What was written after the last checkpoint is not known to be right.
	if err := l.file.Truncate(d.at); err != nil {
		d.drop()
		return nil, err
	}
	return d, nil
}

// reread adds what is there to the digests.
func (d *download) reread(ctx context.Context, p partial) error {
	src := &endingReader{ctx: ctx, r: io.NewSectionReader(d.landing.file, 0, p.Offset)}
	buf := make([]byte, pieceBytes)
	for {
		n, err := src.Read(buf)
		d.hash(buf[:n])
		d.at += int64(n)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// begin starts at the first byte.
func (r *ingressRun) begin(ctx context.Context, op ingressOp) (*download, io.ReadCloser, error) {
	o, body, err := r.store.Get(ctx, op.Object.Key)
	if err != nil {
		return nil, nil, err
	}
	if o.Size > op.Object.Size {
		_ = body.Close()
		return nil, nil, errChanged // more than there was room made for
	}
	temp := r.partialPath(op.Path, o)
	l, err := r.folders.land(op.Path, path.Base(temp))
	if err != nil {
		_ = body.Close()
		return nil, nil, err
	}
	return &download{intake: newIntake(l, o), run: r, temp: temp, savedAt: time.Now()}, body, nil
}

// proceed asks for the rest; nil: nothing is missing.
func (d *download) proceed(ctx context.Context) (io.ReadCloser, error) {
	if d.at == d.object.Size {
		return nil, nil //nolint:nilnil // as documented.
	}
	return d.run.store.GetFrom(ctx, d.object, d.at)
}

// receive writes what arrives. Reading, hashing and writing overlap, within a
// fixed number of buffers.
func (d *download) receive(ctx context.Context, body io.ReadCloser, moved func(int64)) error {
	src := d.run.engine.throttle(ctx, ingress, body, moved)
	d.beside = startHashing(d.hash)
	defer d.beside.end()
	type piece struct {
		data []byte
		err  error
	}
	free, full := make(chan []byte, pieces), make(chan piece, pieces)
	for range pieces {
		free <- make([]byte, pieceBytes)
	}
	go func() {
		defer close(full)
		for buf := range free {
			n, err := io.ReadFull(src, buf)
			full <- piece{buf[:n], err}
			if err != nil {
				return
			}
		}
	}()
	var err error
	for p := range full {
		if err != nil {
			continue // until the reader ended
		}
		err = d.store(p.data)
		if err == nil && p.err != nil && !errors.Is(p.err, io.EOF) && !errors.Is(p.err, io.ErrUnexpectedEOF) {
			err = p.err
		}
		if err != nil {
			close(free)
			_ = body.Close()
		} else if p.err == nil {
			free <- p.data[:pieceBytes]
		}
	}
	if err != nil {
		return err
	}
	_ = body.Close()
	return d.whole()
}

// store writes a piece and notes now and then how far it came.
func (d *download) store(p []byte) error {
	if d.at+int64(len(p)) > d.object.Size {
		return errChanged
	}
	hashed := d.beside.begin(p)
	err := d.write(p)
	<-hashed
	if err != nil {
		return err
	}
	d.flushEarly()
	if d.at-d.saved < d.run.engine.space.stride() && time.Since(d.savedAt) < checkpointAfter || d.at == d.object.Size {
		return nil
	}
	d.run.worked()
	if err := d.save(); err != nil {
		if diskFull(err) {
			return err
		}
		d.savedAt = time.Now() // it can do without, until it is cut
	}
	return nil
}

// flushEarly has the kernel begin to write what came: without that it would all
// be written at the checkpoint, while nothing arrives.
func (d *download) flushEarly() {
	if n := d.at - d.flushed; n >= flushBytes {
		_ = unix.SyncFileRange(int(d.landing.file.Fd()), d.flushed, n, unix.SYNC_FILE_RANGE_WRITE) // save has the last word
		d.flushed = d.at
	}
}

// save puts what is there on disk and records it.
func (d *download) save() error {
	if err := d.stretch(); err != nil {
		return err
	}
	if err := unix.Fdatasync(int(d.landing.file.Fd())); err != nil {
		return err
	}
	if err := d.run.index.putPartial(d.run.id, d.temp, &partial{Offset: d.at, SHA256: d.digest()}); err != nil {
		return err
	}
	d.recorded, d.saved, d.savedAt = true, d.at, time.Now()
	return nil
}

// keepOrDrop ends a download that was cut. What is there stays, unless the disk
// is so full that it is in the way, or the object is another one.
func (d *download) keepOrDrop(why error) {
	gone := errors.Is(why, s3.ErrChanged) || errors.Is(why, s3.ErrNotFound) || errors.Is(why, errChanged)
	if d.at == 0 || gone || diskFull(why) || d.run.engine.space.exhausted(d.run.volume) {
		d.drop()
		return
	}
	if d.at != d.saved {
		if err := d.save(); err != nil && !d.recorded {
			d.drop()
			return
		}
	}
	d.landing.close()
}

// drop starts over.
func (d *download) drop() {
	d.landing.discard()
	if d.recorded {
		d.run.forgetPartial(d.temp)
	}
}

// finish checks the whole and puts it into its place.
func (d *download) finish(ctx context.Context, op ingressOp) error {
	r := d.run
	r.worked()
	err := d.check(&r.retries, op.Path)
	if err == nil {
		err = d.landing.seal(landedMode(d.object.Mode), landedTime(d.object))
	}
	if err == nil {
		err = r.batch.putAlone(ctx, &landed{landing: d.landing, op: op, object: d.object, sha256: d.digest()})
	}
	if err != nil {
		d.drop()
		return err
	}
	if d.recorded {
		r.forgetPartial(d.temp)
	}
	return nil
}
