package console

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"time"
)

// View shows the data synchronisation for as long as somebody looks.
type View struct {
	// Fetch returns the document of this moment.
	Fetch func(context.Context) (Document, error)
	Every time.Duration // between two pictures
	Out   io.Writer
	// Size returns the columns and lines of the terminal that Out is, now; nil:
	// it is none, and gets a line for each change.
	Size  func() (width, height int)
	Color bool // of no effect without Size
}

// What a terminal is told. While pictures are drawn, lines that are taken for
// shorter than they are must not run over into the next one.
const (
	termBegin = "\x1b[?25l\x1b[?7l" // no cursor, no wrapping
	termEnd   = "\x1b[?7h\x1b[?25h"
	termClear = "\x1b[H\x1b[2J"
	termEOL   = "\x1b[K\r\n" // clears the rest of the line
	termBelow = "\x1b[J"     // clears what is below
)

// Run shows until ctx ends, and then returns nil. It returns an error when there
// is no first document, or nothing can be written.
func (v View) Run(ctx context.Context) error {
	d, err := v.Fetch(ctx)
	if err != nil {
		return err
	}
	var show func(Document, string, time.Time) error
	if v.Size == nil {
		log := changes{out: v.Out, told: map[string]string{}}
		show = log.show
	} else {
		if _, err := io.WriteString(v.Out, termBegin); err != nil {
			return err
		}
		defer func() { _, _ = io.WriteString(v.Out, termEnd) }() // nobody is left to be told
		screen := screen{view: v}
		show = screen.show
	}
	tick := time.NewTicker(v.Every)
	defer tick.Stop()
	for trouble := ""; ; {
		if err := show(d, trouble, time.Now()); err != nil {
			return fmt.Errorf("show status: %w", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		fresh, err := v.Fetch(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			trouble = err.Error()
		default:
			d, trouble = fresh, ""
		}
	}
}

// screen draws one picture over the other.
type screen struct {
	view          View
	rates         rates
	drawn         int // lines of the last picture
	width, height int
}

func (s *screen) show(d Document, trouble string, now time.Time) error {
	width, height := s.view.Size()
	width, height = max(width, 1), max(height, 1)
	d = printable(d)
	f := frame{document: d, now: now, trouble: printableText(trouble)}
	f.totals = s.rates.measure(d, now)
	var b strings.Builder
	switch {
	case s.drawn > 0 && (width != s.width || height != s.height):
		b.WriteString(termClear) // the terminal has moved the lines
	case s.drawn > 0:
		fmt.Fprintf(&b, "\r\x1b[%dA", s.drawn)
	}
	s.width, s.height = width, height
	// The cursor is below the last line, which takes one.
	lines := f.lines(width, height-1)
	for _, l := range lines {
		b.WriteString(l.render(width, s.view.Color))
		b.WriteString(termEOL)
	}
	b.WriteString(termBelow)
	s.drawn = len(lines)
	_, err := io.WriteString(s.view.Out, b.String())
	return err
}

// changes writes a line for each thing that is another one than before.
type changes struct {
	out  io.Writer
	told map[string]string
}

func (c *changes) show(d Document, trouble string, now time.Time) error {
	d = printable(d)
	var b strings.Builder
	tell := func(what, text string) {
		if c.told[what] != text {
			c.told[what] = text
			fmt.Fprintf(&b, "%s %s: %s\n", now.UTC().Format(time.RFC3339), what, text)
		}
	}
	state := health(d)
	if trouble != "" {
		state = printableText(trouble)
	}
	tell(cmp.Or(d.Device.ID, "device"), state)
	for _, s := range d.DataSync {
		for _, direction := range s.directions() {
			parts := []string{
				direction.state(), counted(direction.Files, "file"), size(direction.Bytes),
				pendingText(direction.Pending, 0), fmt.Sprintf("%d failed", direction.Failed),
			}
			tell(s.Workload+" "+direction.name, strings.Join(append(parts, complaints(direction.DataDirection)...), ", "))
		}
	}
	_, err := io.WriteString(c.out, b.String())
	return err
}
