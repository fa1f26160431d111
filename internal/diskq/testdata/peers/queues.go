package main

import (
	"encoding/binary"
	"errors"
	"path/filepath"
	"time"

	"github.com/tidwall/wal"
	"go.etcd.io/bbolt"

	"github.com/project-flotta/flotta-agent/internal/diskq"
)

// ours is the queue of this project.
type ours struct{ q *diskq.Queue }

func openDiskq(dir string) (queue, error) {
	q, err := diskq.Open(diskq.Config{Dir: dir, SyncEvery: time.Hour})
	return ours{q}, err
}

func (o ours) append(entries [][]byte) error { return o.q.Append(entries...) }
func (o ours) sync() error                   { return o.q.Sync() }
func (o ours) close() error                  { return o.q.Close() }

func (o ours) take(n int) (entries [][]byte, done func() error, err error) {
	es, err := o.q.Read(n)
	if err != nil || len(es) == 0 {
		return nil, nil, err
	}
	for _, e := range es {
		entries = append(entries, e.Data)
	}
	return entries, func() error { return o.q.Ack(es[len(es)-1].Seq) }, nil
}

// writeAhead is a log whose front is cut off. It has to keep its last entry, so
// where it stands is kept beside it, and it is cut only when it is synced: each
// cut writes the rest anew.
type writeAhead struct {
	log        *wal.Log
	next, read uint64
}

func openWal(dir string) (queue, error) {
	l, err := wal.Open(filepath.Join(dir, "wal"), &wal.Options{NoSync: true, SegmentSize: 1 << 20})
	if err != nil {
		return nil, err
	}
	first, err := l.FirstIndex()
	last, err2 := l.LastIndex()
	return &writeAhead{l, last + 1, max(first, 1)}, errors.Join(err, err2)
}

func (w *writeAhead) append(entries [][]byte) error {
	var b wal.Batch
	for _, e := range entries {
		b.Write(w.next, e)
		w.next++
	}
	return w.log.WriteBatch(&b)
}

func (w *writeAhead) take(n int) (entries [][]byte, done func() error, err error) {
	at := w.read
	for ; at < w.next && len(entries) < n; at++ {
		e, err := w.log.Read(at)
		if err != nil {
			return nil, nil, err
		}
		entries = append(entries, e)
	}
	return entries, func() error {
		w.read = at
		return nil
	}, nil
}

func (w *writeAhead) sync() error {
	if w.read > 1 {
		if err := w.log.TruncateFront(min(w.read, w.next-1)); err != nil {
			return err
		}
	}
	return w.log.Sync()
}

func (w *writeAhead) close() error { return w.log.Close() }

// tree is a bucket with the numbers of entries as its keys.
type tree struct{ db *bbolt.DB }

func openBolt(dir string) (queue, error) {
	db, err := bbolt.Open(filepath.Join(dir, "queue.db"), 0o600, &bbolt.Options{NoSync: true, Timeout: time.Second})
	if err != nil {
		return nil, err
	}
	return tree{db}, db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists([]byte("q"))
		return err
	})
}

func (t tree) append(entries [][]byte) error {
	return t.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte("q"))
		b.FillPercent = 1
		for _, e := range entries {
			n, err := b.NextSequence()
			if err == nil {
				err = b.Put(binary.BigEndian.AppendUint64(nil, n), e)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (t tree) take(n int) (entries [][]byte, done func() error, err error) {
	var keys [][]byte
	err = t.db.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket([]byte("q")).Cursor()
		for k, v := c.First(); k != nil && len(entries) < n; k, v = c.Next() {
			keys, entries = append(keys, append([]byte{}, k...)), append(entries, append([]byte{}, v...))
		}
		return nil
	})
	return entries, func() error {
		return t.db.Update(func(tx *bbolt.Tx) error {
			for _, k := range keys {
				if err := tx.Bucket([]byte("q")).Delete(k); err != nil {
					return err
				}
			}
			return nil
		})
	}, err
}

func (t tree) sync() error  { return t.db.Sync() }
func (t tree) close() error { return t.db.Close() }
