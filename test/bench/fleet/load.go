package fleet

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Exchange does one thing of the device of that number, for the n-th time. It is
// called by one goroutine at a time for each device.
type Exchange func(number, n int) error

// Result is what came of a load.
type Result struct {
	Elapsed   time.Duration
	latencies []time.Duration // sorted
}

// Count is how many exchanges there were.
func (r Result) Count() int { return len(r.latencies) }

// Rate is exchanges in a second.
func (r Result) Rate() float64 { return float64(r.Count()) / r.Elapsed.Seconds() }

// Quantile returns the latency that a share of the exchanges stayed within.
func (r Result) Quantile(share float64) time.Duration {
	if len(r.latencies) == 0 {
		return 0
	}
	return r.latencies[min(int(share*float64(len(r.latencies))), len(r.latencies)-1)]
}

// part is what one worker saw.
type part struct {
	latencies []time.Duration
	err       error
}

func collect(start time.Time, parts []part) (Result, error) {
	r := Result{Elapsed: time.Since(start)}
	for _, p := range parts {
		if p.err != nil {
			return r, p.err
		}
		r.latencies = append(r.latencies, p.latencies...)
	}
	slices.Sort(r.latencies)
	return r, nil
}

// Each does an exchange once for every device, by so many workers at a time.
func Each(ctx context.Context, devices, workers int, do Exchange) (Result, error) {
	return run(workers, func(worker int, p *part) {
		for number := worker; number < devices && ctx.Err() == nil; number += workers {
			begin := time.Now()
			if p.err = do(number, 0); p.err != nil {
				p.err = fmt.Errorf("device %d: %w", number, p.err)
				return
			}
			p.latencies = append(p.latencies, time.Since(begin))
		}
		p.err = ctx.Err()
	})
}

// Saturate does exchanges for a while, as fast as they are answered, with so many
// under way at a time. What it finds is the server's limit; its latencies say
// nothing, because no request is sent while one is awaited.
func Saturate(ctx context.Context, devices, workers int, lasting time.Duration, do Exchange) (Result, error) {
	workers = min(workers, devices)
	end := time.Now().Add(lasting)
	return run(workers, func(worker int, p *part) {
		for n := 0; ctx.Err() == nil; n++ {
			for number := worker; number < devices; number += workers {
				begin := time.Now()
				if begin.After(end) {
					return
				}
				if p.err = do(number, n); p.err != nil {
					p.err = fmt.Errorf("device %d: %w", number, p.err)
					return
				}
				p.latencies = append(p.latencies, time.Since(begin))
			}
		}
		p.err = ctx.Err()
	})
}

// Arrive does exchanges at a fixed rate a second, whatever the answers take. A
// latency counts from the moment at which the exchange was due, so that a server
// that stalls is charged for all that arrived meanwhile.
func Arrive(ctx context.Context, devices int, rate float64, lasting time.Duration, do Exchange) (Result, error) {
	total := int(rate * lasting.Seconds())
	// Time for all goroutines to be there.
	start := time.Now().Add(50 * time.Millisecond)
	return run(devices, func(number int, p *part) {
		for i, n := number, 0; i < total && ctx.Err() == nil; i, n = i+devices, n+1 {
			due := start.Add(time.Duration(float64(i) / rate * float64(time.Second)))
			time.Sleep(time.Until(due))
			if p.err = do(number, n); p.err != nil {
				p.err = fmt.Errorf("device %d: %w", number, p.err)
				return
			}
			p.latencies = append(p.latencies, time.Since(due))
		}
		p.err = ctx.Err()
	})
}

func run(workers int, work func(worker int, p *part)) (Result, error) {
	parts := make([]part, workers)
	var wg sync.WaitGroup
	start := time.Now()
	for worker := range workers {
		wg.Go(func() { work(worker, &parts[worker]) })
	}
	wg.Wait()
	return collect(start, parts)
}
