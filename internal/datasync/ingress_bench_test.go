package datasync

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
)

func cpuTime() time.Duration {
	var r unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkIngress tells the CPU time of a first download of small files, and of a
// cycle with nothing to do.
func BenchmarkIngress(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			store := newMemStore()
			store.page = 1000
			data := make([]byte, 4096)
			for i := range n {
				data[0], data[1], data[2] = byte(i), byte(i>>8), byte(i>>16)
				store.set(fmt.Sprintf("down/d%03d/f%06d", i/1000, i), data, s3.Upload{})
			}
			for b.Loop() {
				b.StopTimer()
				start, cpu := time.Now(), cpuTime()
				bench := newBench(b, store, paths(nil, down()), nil)
				b.ReportMetric(float64(time.Since(start).Milliseconds()), "first-ms")
				b.ReportMetric(float64((cpuTime() - cpu).Milliseconds()), "first-cpu-ms")
				b.StartTimer()
				cpu = cpuTime()
				const idle = 5
				for range idle {
					bench.mustSync(ingress)
				}
				b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/1000/idle, "idle-cpu-ms")
				bench.stop()
			}
		})
	}
}
