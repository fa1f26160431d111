package datasync

import (
	"bytes"
	"fmt"
	"log/slog"

	"go.etcd.io/bbolt"

	"github.com/project-flotta/flotta-agent/internal/desired"
)

// forget empties the index. It may be lost at any time, so failing at that is
// worth no more than a line.
func (r *running) forget() {
	r.engine.ledger.forget()
	if err := r.index.clear(); err != nil {
		r.engine.cfg.Log.Warn("sync index not emptied", slog.Any("err", err))
	}
}

// forgetOthers drops what the index knows of workloads that are neither desired
// nor have a volume: it would only be in the way of the next one of that name.
func (r *running) forgetOthers(state desired.State) {
	known := map[string]bool{}
	for _, w := range state.Workloads {
		known[w.Name] = true
	}
	for _, w := range state.Retired {
		known[w.Name] = true
	}
	gone, err := r.index.forgetOthers(known)
	if err != nil {
		r.engine.cfg.Log.Warn("sync index not tidied up", slog.Any("err", err))
	}
	r.engine.ledger.drop(gone)
}

// drop forgets what was uploaded when by the workloads.
func (l *ledger) drop(workloads []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range workloads {
		delete(l.uploads, name)
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

// forgetOthers removes what was recorded of workloads other than the known ones,
// and returns their names. It writes nothing when there are none.
func (ix *index) forgetOthers(known map[string]bool) ([]string, error) {
	var routes, uploads [][]byte
	err := ix.db.View(func(tx *bbolt.Tx) error {
		err := tx.Bucket(bucketRoutes).ForEachBucket(func(id []byte) error {
			if workload, _, _ := bytes.Cut(id, []byte{0}); !known[string(workload)] {
				routes = append(routes, bytes.Clone(id))
			}
			return nil
		})
		if err != nil {
			return err
		}
		return tx.Bucket(bucketUploads).ForEach(func(workload, _ []byte) error {
			if !known[string(workload)] {
				uploads = append(uploads, bytes.Clone(workload))
			}
			return nil
		})
	})
	if err != nil || len(routes)+len(uploads) == 0 {
		return nil, err
	}
	err = ix.db.Update(func(tx *bbolt.Tx) error {
		for _, id := range routes {
			if err := orphan(tx, id); err != nil {
				return err
			}
			if err := tx.Bucket(bucketRoutes).DeleteBucket(id); err != nil {
				return err
			}
		}
		for _, workload := range uploads {
			if err := tx.Bucket(bucketUploads).Delete(workload); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("forget workloads in index: %w", err)
	}
	ix.mu.Lock()
	defer ix.mu.Unlock()
	var names []string
	for _, id := range routes {
		delete(ix.counts, string(id))
		workload, _, _ := bytes.Cut(id, []byte{0})
		names = append(names, string(workload))
	}
	for _, workload := range uploads {
		names = append(names, string(workload))
	}
	return names, nil
}
