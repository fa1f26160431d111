package diskq

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// BenchmarkQueue takes and gives entries in batches, as a spool does whose
// receiver is there. It also says how many bytes are written to the disk for each
// that is delivered, without those of the file system itself (0 on a tmpfs).
func BenchmarkQueue(b *testing.B) {
	for _, bc := range []struct{ size, batch int }{{200, 1}, {200, 100}, {10_000, 1}, {10_000, 20}} {
		for _, every := range []time.Duration{0, time.Minute} {
			b.Run(fmt.Sprintf("size=%d/batch=%d/sync=%s", bc.size, bc.batch, every), func(b *testing.B) {
				q, err := Open(Config{Dir: b.TempDir(), SyncEvery: every, SyncBytes: 1 << 20})
				if err != nil {
					b.Fatal(err)
				}
				defer q.Close()
				var payloads [][]byte
				for range bc.batch {
					payloads = append(payloads, make([]byte, bc.size))
				}
				before, delivered := written(b), 0
				for b.Loop() {
					if err := q.Append(payloads...); err != nil {
						b.Fatal(err)
					}
					es, err := q.Read(bc.batch)
					if err != nil || len(es) != bc.batch {
						b.Fatalf("%d entries, %v", len(es), err)
					}
					if err := q.Ack(es[len(es)-1].Seq); err != nil {
						b.Fatal(err)
					}
					delivered += len(es)
				}
				if err := q.Sync(); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(delivered)/b.Elapsed().Seconds(), "entries/s")
				b.ReportMetric(float64(written(b)-before)/float64(delivered*bc.size), "written/delivered")
			})
		}
	}
}

// written returns how many bytes this process had written to disks.
func written(b *testing.B) int64 {
	b.Helper()
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "write_bytes: "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return n
		}
	}
	b.Fatal("/proc/self/io has no write_bytes")
	return 0
}
