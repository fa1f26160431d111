package follow

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// refuses refuses the lines of a workload, or with "" of none.
func (c *collector) refuses(workload string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refuse = workload
}

// waitRefused waits until a line was refused.
func (c *collector) waitRefused(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		c.mu.Lock()
		n := c.refused
		c.mu.Unlock()
		if n > 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing was refused")
		}
	}
}

// TestRefusedFile reads again what was refused, also when it came in pieces.
func TestRefusedFile(t *testing.T) {
	t.Parallel()
	r := newFileRig(t)
	r.append(record0("F one"))
	r.start()
	r.expect("one")
	before := r.sink.marks["c1"]
	r.sink.refuses("w")
	r.append(record0("P t") + record0("P w") + record0("F o") + record0("F three"))
	r.sink.waitRefused(t)
	r.stop()
	if m := r.sink.marks["c1"]; m != before {
		t.Errorf("the mark went on to %+v", m)
	}
	r.sink.mu.Lock()
	r.sink.refused = 0
	r.sink.mu.Unlock()
	r.start()
	r.sink.waitRefused(t) // it is taken later, with nothing else changed
	r.sink.refuses("")
	r.expect("one", "two", "three")
	r.expectSkipped()
}

// chatter is a Sink that makes a container write a line for each one of it.
type chatter struct {
	*collector
	write func()
}

func (c chatter) Take(ctx context.Context, l Line, m Mark) error {
	if l.Workload == "w" {
		c.write()
		return nil
	}
	return c.collector.Take(ctx, l, m)
}

// TestChattyContainer does not keep others from being read, nor from changing.
func TestChattyContainer(t *testing.T) {
	t.Parallel()
	r := newFileRig(t)
	r.append(record0("F again"))
	began := make(chan struct{})
	var once sync.Once
	r.through = chatter{r.sink, func() {
		r.append(record0("F again"))
		once.Do(func() { close(began) })
	}}
	r.start()
	<-began
	other := Source{Origin: Origin{ID: "c2"}, Name: "other", Path: filepath.Join(t.TempDir(), "ctr.log")}
	if err := os.WriteFile(other.Path, []byte(record0("F heard")), 0o600); err != nil {
		t.Fatal(err)
	}
	r.want(map[string]Source{"c1": r.wanted["c1"], "c2": other})
	r.expect("heard")
}
