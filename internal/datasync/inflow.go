package datasync

import "sync"

// inflow is what an ingress group knows beyond one cycle.
type inflow struct {
	quota usage
	fold  *bool // whether the file system knows several spellings of a name; nil: not tried
	held  bool  // the quota is what downloads were last reported to wait for

	mu   sync.Mutex
	busy map[string]int // temporary files that are being written, by path
}

// write keeps a temporary file from being removed until the returned function is
// called.
func (f *inflow) write(temp string) (done func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.busy == nil {
		f.busy = map[string]int{}
	}
	f.busy[temp]++
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.busy[temp]--; f.busy[temp] == 0 {
			delete(f.busy, temp)
		}
	}
}

func (f *inflow) writes(temp string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.busy[temp] > 0
}

func (f *inflow) reason(disk, quota string) string {
	if f.held {
		return quota
	}
	return disk
}
