//go:build bench

package sync_test

import (
	"cmp"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

type execCmd = exec.Cmd

func withArgs(cmd *exec.Cmd, args ...string) *exec.Cmd {
	cmd.Args = append(cmd.Args, args...)
	return cmd
}

// report collects what every contender needed for every piece of work.
type report struct {
	work []string // in the order of their first appearance
	all  map[string]map[string][]cost
}

func (r *report) add(work, who string, c cost) {
	if r.all == nil {
		r.all = map[string]map[string][]cost{}
	}
	if r.all[work] == nil {
		r.work = append(r.work, work)
		r.all[work] = map[string][]cost{}
	}
	r.all[work][who] = append(r.all[work][who], c)
	fmt.Printf("  %-34s %-13s wall %8s  cpu %8s  rss %5.1f MB  requests %d\n", work, who, short(c.wall), short(c.cpu), float64(c.rss)/1e6, c.requests)
}

func median[T cmp.Ordered](costs []cost, of func(cost) T) T {
	values := make([]T, len(costs))
	for i, c := range costs {
		values[i] = of(c)
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// print writes the table, as Markdown.
func (r *report) print(t *testing.T) {
	t.Helper()
	peers := []string{"rclone", "mc", "s5cmd"}
	var text strings.Builder
	text.WriteString("| work | | " + ours + " | rclone | mc | s5cmd | flotta v0.2 | of the best peer |\n|---|---|---|---|---|---|---|---|\n")
	for _, work := range r.work {
		by := r.all[work]
		for _, unit := range []struct {
			name string
			of   func(cost) float64
			text func(float64) string
		}{
			{"time", func(c cost) float64 { return float64(c.wall) }, func(v float64) string { return short(time.Duration(v)) }},
			{"CPU", func(c cost) float64 { return float64(c.cpu) }, func(v float64) string { return short(time.Duration(v)) }},
			{"memory", func(c cost) float64 { return float64(c.rss) }, func(v float64) string { return fmt.Sprintf("%.0f MB", v/1e6) }},
			{"requests", func(c cost) float64 { return float64(c.requests) }, func(v float64) string { return fmt.Sprint(int(v)) }},
		} {
			best := -1.0
			fmt.Fprintf(&text, "| %s | %s ", work, unit.name)
			for _, who := range append([]string{ours}, append(peers, "flotta v0.2")...) {
				if len(by[who]) == 0 {
					text.WriteString("| – ")
					continue
				}
				v := median(by[who], unit.of)
				if slices.Contains(peers, who) && (best < 0 || v < best) {
					best = v
				}
				if v < 0 {
					text.WriteString("| – ")
				} else {
					text.WriteString("| " + unit.text(v) + " ")
				}
			}
			if mine := median(by[ours], unit.of); best > 0 && mine >= 0 {
				fmt.Fprintf(&text, "| %.2f |\n", mine/best)
			} else {
				text.WriteString("| |\n")
			}
		}
	}
	t.Logf("figures:\n%s", text.String())
}

func short(d time.Duration) string {
	switch {
	case d < 0:
		return "–"
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < 100*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1e3)
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}
