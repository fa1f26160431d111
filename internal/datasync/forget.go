package datasync

import (
	"fmt"
	"log/slog"

	"go.etcd.io/bbolt"
)

// forget empties the index. It may be lost at any time, so failing at that is
// worth no more than a line.
func (r *running) forget() {
	r.engine.ledger.forget()
	if err := r.index.clear(); err != nil {
		r.engine.cfg.Log.Warn("sync index not emptied", slog.Any("err", err))
	}
}

// forget drops what was uploaded when.
func (l *ledger) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.uploads)
}

// clear removes everything that was recorded.
func (ix *index) clear() error {
	err := ix.db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketUploads, bucketRoutes} {
			if err := tx.DeleteBucket(name); err != nil {
				return err
			}
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("clear index: %w", err)
	}
	ix.mu.Lock()
	defer ix.mu.Unlock()
	clear(ix.counts)
	return nil
}
