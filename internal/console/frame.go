package console

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Styles of a span, as parameters of the terminal's own sequence.
const (
	styleNone   = ""
	styleStrong = "1"
	styleFaint  = "2"
	styleBad    = "31"
	styleGood   = "32"
	styleWait   = "33"
)

// span is a printable text in one style.
type span struct{ text, style string }

// line is one line of a frame.
type line []span

// render returns the line as a terminal gets it, in at most width cells.
func (l line) render(width int, color bool) string {
	var b strings.Builder
	for _, s := range l {
		text := fit(s.text, width)
		width -= cells(text)
		if color && s.style != styleNone && text != "" {
			text = "\x1b[" + s.style + "m" + text + "\x1b[0m"
		}
		b.WriteString(text)
	}
	return b.String()
}

// frame is one picture of the data synchronisation. The document is printable.
type frame struct {
	document Document
	totals   map[rateKey]float64 // bytes per second of the directions
	now      time.Time
	trouble  string // why the document is an old one; empty: it is not
}

// block is what is said of one workload.
type block struct {
	lines []line
	busy  bool
}

// lines returns the frame in at most height lines. When there are more, the
// workloads of which there is something to see come first.
func (f frame) lines(width, height int) []line {
	out := []line{f.title()}
	if f.trouble != "" {
		out = append(out, line{{f.trouble, styleBad}})
	}
	var blocks []block
	total := len(out)
	for _, s := range f.document.DataSync {
		b := f.workload(s, width)
		blocks = append(blocks, b)
		total += len(b.lines)
	}
	if len(blocks) == 0 {
		return append(out, nil, line{{"no workload has data paths", styleFaint}})
	}
	if total > height {
		slices.SortStableFunc(blocks, func(a, b block) int { return cmp.Compare(rank(a), rank(b)) })
	}
	for _, b := range blocks {
		out = append(out, b.lines...)
	}
	if height = max(height, 1); len(out) > height {
		hidden := len(out) - height + 1
		out = append(out[:height-1], line{{fmt.Sprintf("%s and %d more lines", ellipsis, hidden), styleFaint}})
	}
	return out
}

func rank(b block) int {
	if b.busy {
		return 0
	}
	return 1
}

func (f frame) title() line {
	state := span{health(f.document), styleGood}
	if !f.document.Healthy {
		state.style = styleBad
	}
	return line{{f.document.Device.ID, styleStrong}, {"  ", styleNone}, state, {"  " + f.now.Format("15:04:05"), styleFaint}}
}

// workload returns the totals of one workload, its directions, and its transfers.
func (f frame) workload(s DataSync, width int) block {
	var pending, bytes int64
	var rate float64
	for _, d := range s.directions() {
		pending += d.Pending
		bytes += d.PendingBytes
		rate += f.totals[rateKey{workload: s.Workload, direction: d.name}]
	}
	b := block{lines: []line{nil, {
		{s.Workload, styleStrong},
		{"  " + pendingText(pending, bytes), styleNone},
		{speed(rate), styleNone},
		{"  last upload " + ago(s.LastUpload, f.now), styleFaint},
	}}}
	for _, d := range s.directions() {
		b.lines = append(b.lines, f.direction(s.Workload, d))
		for _, text := range complaints(d.DataDirection) {
			b.lines = append(b.lines, line{{"    " + shorten(text, width-4), styleWait}})
		}
		for _, t := range d.InFlight {
			b.lines = append(b.lines, transferLine(t, width))
		}
		b.busy = b.busy || d.state() != "ok"
	}
	return b
}

// complaints are all texts that say what is not as it should be.
func complaints(d *DataDirection) []string {
	var out []string
	for _, text := range []string{d.LastError, d.Blocked, d.Paused} {
		if text != "" {
			out = append(out, text)
		}
	}
	for _, p := range d.Problems {
		out = append(out, p.Reason+": "+p.Message)
	}
	return out
}

func (f frame) direction(workload string, d namedDirection) line {
	out := line{
		{"  " + pad(d.name, 8), styleNone},
		{pad(d.state(), 13), d.style()},
		{" " + pad(counted(d.Files, "file"), 12) + " " + pad(size(d.Bytes), 9) + " " + pendingText(d.Pending, d.PendingBytes), styleNone},
		{speed(f.totals[rateKey{workload: workload, direction: d.name}]), styleNone},
	}
	for _, n := range []struct {
		count int64
		what  string
	}{{d.Failed, "failed"}, {d.Skipped, "skipped"}, {d.Refused, "refused"}} {
		if n.count > 0 {
			out = append(out, span{fmt.Sprintf("  %d %s", n.count, n.what), styleWait})
		}
	}
	return append(out, span{"  last ok " + ago(d.LastSuccess, f.now), styleFaint})
}

// transferLine shows one file on its way. The name gets what the rest leaves.
func transferLine(t Transfer, width int) line {
	bar := min(max(width/4, 5), 30)
	text := "    " + progress(t.Done, t.Size, bar) + " " + pad(percent(t.Done, t.Size), 4) + " " + pad(speed(float64(t.Rate)), 12) + " " + pad(remaining(t), 7) + " "
	return line{{text, styleNone}, {shorten(t.Path, width-cells(text)), styleNone}}
}

// progress is a bar of width cells.
func progress(done, all int64, width int) string {
	inner := max(width-2, 1)
	filled := int(part(done, all) * float64(inner))
	head := ""
	if filled < inner {
		head = ">"
	}
	return "[" + pad(strings.Repeat("=", filled)+head, inner) + "]"
}

func percent(done, all int64) string { return strconv.Itoa(int(part(done, all)*100)) + "%" }

// part is from 0 to 1, whatever was counted: a file can grow while it is sent. An
// empty one has always arrived.
func part(done, all int64) float64 {
	if all <= 0 {
		return 1
	}
	return min(max(float64(done)/float64(all), 0), 1)
}

// remaining is how long the rest takes when all goes on as it does.
func remaining(t Transfer) string {
	left := t.Size - t.Done
	if t.Rate <= 0 || left < 0 {
		return ""
	}
	const longest = 99 * 24 * time.Hour
	took := min(float64(left)/float64(t.Rate), longest.Seconds())
	return age(time.Time{}.Add(time.Second), time.Time{}.Add(time.Second+time.Duration(took*float64(time.Second))))
}

func speed(rate float64) string {
	if rate < 1 {
		return ""
	}
	return "  " + size(int64(rate)) + "/s"
}

func pendingText(files, bytes int64) string {
	text := strconv.FormatInt(files, 10) + " pending"
	if bytes > 0 {
		text += " (" + size(bytes) + ")"
	}
	return text
}

func counted(n int64, what string) string {
	if n != 1 {
		what += "s"
	}
	return strconv.FormatInt(n, 10) + " " + what
}
