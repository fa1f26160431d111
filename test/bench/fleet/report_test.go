//go:build bench

package fleet_test

import (
	"fmt"
	"strings"
	"testing"
)

// figure is one line of the table.
type figure struct {
	what string
	ours string
	// value, before and aim are in the unit of the line; before is what flotta
	// v0.2 does, and zero is not known, not wanted.
	value, before, aim float64
	less               bool // is better
	note               string
}

// report collects the figures.
type report []figure

func (r *report) add(t *testing.T, f figure) {
	t.Helper()
	t.Logf("%-44s %-28s %s", f.what, f.ours, f.note)
	*r = append(*r, f)
}

// print writes the table as Markdown that reads as text too.
func (r *report) print(t *testing.T) {
	t.Helper()
	rows := [][]string{{"", "ours", "flotta v0.2", "ratio", "aim", "beside it"}}
	for _, f := range *r {
		rows = append(rows, []string{f.what, f.ours, known(f.before), ratio(f), f.wanted(), f.note})
	}
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	var text strings.Builder
	for n, row := range rows {
		for i, cell := range row {
			fmt.Fprintf(&text, "| %-*s ", widths[i], cell)
		}
		text.WriteString("|\n")
		if n == 0 {
			for _, width := range widths {
				text.WriteString("|" + strings.Repeat("-", width+2))
			}
			text.WriteString("|\n")
		}
	}
	t.Logf("figures:\n%s", text.String())
}

func known(v float64) string {
	if v == 0 {
		return "–"
	}
	return thousands(v)
}

// ratio says how many times better than before.
func ratio(f figure) string {
	switch {
	case f.before == 0 || f.value == 0:
		return "–"
	case f.less:
		return fmt.Sprintf("%.2g", f.before/f.value)
	}
	return fmt.Sprintf("%.2g", f.value/f.before)
}

func (f figure) wanted() string {
	if f.aim == 0 {
		return "–"
	}
	sign, met := "≥", f.value >= f.aim
	if f.less {
		sign, met = "≤", f.value <= f.aim
	}
	text := sign + " " + thousands(f.aim)
	if !met {
		text += ", missed"
	}
	return text
}

// thousands writes a number with three digits that count and commas.
func thousands(v float64) string {
	switch {
	case v < 10:
		return fmt.Sprintf("%.1f", v)
	case v < 1000:
		return fmt.Sprintf("%.0f", v)
	}
	text := fmt.Sprintf("%.0f", v)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
