package console

import (
	"math"
	"time"
)

// smoothing is over how long rates are averaged: a number that jumps with every
// part of a file cannot be read.
const smoothing = 5 * time.Second

// rates turns counts of successive documents into rates.
type rates struct {
	last map[rateKey]ratePoint
	next map[rateKey]ratePoint // of the document that is being looked at
}

// rateKey is a transfer, or with an empty path a direction.
type rateKey struct {
	workload, direction, path string
	since                     time.Time
}

type ratePoint struct {
	bytes int64
	at    time.Time
	rate  float64 // bytes per second
}

// turn begins with the next document; what the one before did not have is
// forgotten.
func (r *rates) turn() {
	r.last, r.next = r.next, map[rateKey]ratePoint{}
}

// observe returns the smoothed rate of what has moved so many bytes by now. First
// is what it is taken for at its first sight.
func (r *rates) observe(key rateKey, bytes int64, now time.Time, first float64) float64 {
	p := ratePoint{bytes: bytes, at: now, rate: first}
	if last, ok := r.last[key]; ok {
		p.rate = last.rate
		// A repeated attempt takes bytes back, which is no speed.
		if dt := now.Sub(last.at).Seconds(); dt > 0 {
			speed := float64(max(bytes-last.bytes, 0)) / dt
			p.rate += (speed - last.rate) * (1 - math.Exp(-dt/smoothing.Seconds()))
		}
	}
	if p.rate < 1 {
		p.rate = 0
	}
	r.next[key] = p
	return p.rate
}

// measure replaces the rates in d, and returns those of all directions.
func (r *rates) measure(d Document, now time.Time) map[rateKey]float64 {
	r.turn()
	totals := map[rateKey]float64{}
	for _, s := range d.DataSync {
		for _, direction := range s.directions() {
			moved, first := direction.Bytes, 0.
			for i := range direction.InFlight {
				t := &direction.InFlight[i]
				moved += t.Done
				first += float64(t.Rate)
				t.Rate = int64(r.observe(rateKey{s.Workload, direction.name, t.Path, t.Since}, t.Done, now, float64(t.Rate)))
			}
			key := rateKey{workload: s.Workload, direction: direction.name}
			totals[key] = r.observe(key, moved, now, first)
		}
	}
	return totals
}
