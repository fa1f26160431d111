package containers

import "time"

// SetResync sets how often the state is read without an event.
func (w *Watcher) SetResync(d time.Duration) { w.resync = d }
