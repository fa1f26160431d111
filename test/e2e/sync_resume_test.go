//go:build device

package e2e

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/site"
)

const (
	bulk = 200 << 20
	// middle is when a transfer is interrupted. Whoever begins anew after it moves
	// more than bulk and middle; whoever goes on, bulk and the parts under way.
	middle  = 120 << 20
	resumed = bulk + 80<<20
)

// TestInterruptedTransfersGoOn cuts the network and the power in the middle of
// large files, and counts what went over the line in all.
func TestInterruptedTransfersGoOn(t *testing.T) {
	t.Parallel()
	r := newRig(t, site.EdgeConfig{})
	r.save("w.yaml", r.workload("courier", "args: [serve, '8080']\nports: [{containerPort: 8080, hostPort: 18080}]", syncPaths))
	r.running("courier", "app")
	r.write("out/first", "first")
	r.object("from-device/first", "first")
	noNetwork := func(r *rig) {
		r.site.S3Path.Cut()
		time.Sleep(20 * time.Second) // the store keeps its own time
		r.site.S3Path.Mend()
	}
	noPower := func(r *rig) {
		must(r.T, r.edge.PowerCut())
		must(r.T, r.edge.PowerOn(r.ctx))
	}
	r.sub("the network is cut while a file is sent", func(r *rig) { r.interrupted("a", true, noNetwork) })
	r.sub("the network is cut while a file is received", func(r *rig) { r.interrupted("b", false, noNetwork) })
	r.sub("the power is cut while a file is sent", func(r *rig) { r.interrupted("c", true, noPower) })
	r.sub("the power is cut while a file is received", func(r *rig) { r.interrupted("d", false, noPower) })
	r.sub("a reboot moves nothing again", bulkStays)
}

// carried is what went over the line to the store: up to it or down.
func (r *rig) carried(up bool) int64 {
	sent, received := r.site.S3Path.Carried()
	if up {
		return sent
	}
	return received
}

func (r *rig) interrupted(name string, up bool, trouble func(*rig)) {
	content := make([]byte, bulk)
	_, _ = rand.Read(content)
	before := r.carried(up)
	// Into its place at once: a file that grows is sent more than once.
	at := func() string { return r.export("in/" + name) } // another one after each boot
	if up {
		stored := filepath.Join(r.site.BucketDir(), "from-device", name)
		at = func() string { return stored }
		must(r.T, os.WriteFile(r.export("new-"+name), content, 0o644))
		must(r.T, os.Rename(r.export("new-"+name), r.export("out/"+name)))
	} else {
		r.put("to-device/"+name, content)
	}
	r.until("half of it is on its way", func() error {
		if n := r.carried(up) - before; n < middle {
			return fmt.Errorf("%d bytes", n)
		}
		return nil
	})
	if _, err := os.Lstat(at()); err == nil {
		r.Fatal("it was there before it could be interrupted")
	}
	trouble(r)
	r.until("it arrives", func() error {
		got, err := os.ReadFile(at())
		if err == nil && !bytes.Equal(got, content) {
			r.Fatalf("it arrived with %d other bytes", len(got))
		}
		return err
	})
	if n := r.carried(up) - before; n > resumed {
		r.Errorf("%d MiB travelled for a file of %d: it was not resumed", n>>20, bulk>>20)
	} else {
		r.Logf("%d MiB travelled for a file of %d", n>>20, bulk>>20)
	}
}

func bulkStays(r *rig) {
	sent, received := r.site.S3Path.Carried()
	must(r.T, r.edge.Shutdown(r.ctx))
	must(r.T, r.edge.PowerOn(r.ctx))
	r.write("out/after", "the reboot")
	r.object("from-device/after", "the reboot")
	r.put("to-device/after", []byte("the reboot"))
	r.arrives("in/after", []byte("the reboot"))
	up, down := r.site.S3Path.Carried()
	if up-sent > 10<<20 || down-received > 10<<20 {
		r.Errorf("%d MiB were sent and %d received after a reboot", (up-sent)>>20, (down-received)>>20)
	}
}
