package console

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// maxMarks is how many combining marks may follow each other in a name that is
// shown as it is: more of them would be stacked over the lines around it.
const maxMarks = 2

// escaped returns the name of a file as a terminal may show it: as it is when it
// consists of what can be seen, or else quoted, so that no two names look alike.
func escaped(name string) string {
	marks, plain := 0, name != "" && utf8.ValidString(name)
	for i, r := range name {
		switch {
		case !strconv.IsPrint(r), r == '"', r == '\\', r == ' ' && (i == 0 || i == len(name)-1):
			plain = false
		case unicode.Is(unicode.M, r):
			marks++
		default:
			marks = 0
		}
		if marks > maxMarks {
			return strconv.QuoteToASCII(name)
		}
	}
	if plain {
		return name
	}
	return strconv.Quote(name)
}

// wide are the characters that take two cells of a terminal.
var wide = &unicode.RangeTable{
	R16: []unicode.Range16{
		{0x1100, 0x115f, 1},
		{0x2329, 0x232a, 1},
		{0x23e9, 0x23f3, 1},
		{0x25fd, 0x25fe, 1},
		{0x2614, 0x2615, 1},
		{0x2648, 0x2653, 1},
		{0x2705, 0x2705, 1},
		{0x270a, 0x270b, 1},
		{0x274c, 0x2757, 1},
		{0x2795, 0x2797, 1},
		{0x2b1b, 0x2b1c, 1},
		{0x2e80, 0x303e, 1},
		{0x3041, 0x33ff, 1},
		{0x3400, 0x4dbf, 1},
		{0x4e00, 0x9fff, 1},
		{0xa000, 0xa4cf, 1},
		{0xa960, 0xa97c, 1},
		{0xac00, 0xd7a3, 1},
		{0xf900, 0xfaff, 1},
		{0xfe30, 0xfe6f, 1},
		{0xff01, 0xff60, 1},
		{0xffe0, 0xffe6, 1},
	},
	R32: []unicode.Range32{{0x16fe0, 0x18aff, 1}, {0x1b000, 0x1b2ff, 1}, {0x1f004, 0x1faff, 1}, {0x20000, 0x3fffd, 1}},
}

// runeCells is how many cells of a terminal a printable character takes. Emoji
// differ from terminal to terminal: they are taken for wide.
func runeCells(r rune) int {
	switch {
	case unicode.Is(unicode.Mn, r), unicode.Is(unicode.Me, r):
		return 0
	case unicode.Is(wide, r):
		return 2
	}
	return 1
}

// cells is how many cells of a terminal a printable text takes.
func cells(text string) int {
	n := 0
	for _, r := range text {
		n += runeCells(r)
	}
	return n
}

// fit cuts a printable text at its end to at most width cells.
func fit(text string, width int) string {
	n := 0
	for i, r := range text {
		if n += runeCells(r); n > width {
			return text[:i]
		}
	}
	return text
}

const ellipsis = "..."

// shorten cuts a printable text in its middle to at most width cells: the names
// of folders at its begin and of the file at its end tell most.
func shorten(text string, width int) string {
	if cells(text) <= width {
		return text
	}
	if width <= len(ellipsis) {
		return fit(text, max(width, 0))
	}
	room := width - len(ellipsis)
	head := fit(text, room/3)
	room -= cells(head)
	runes := []rune(text[len(head):])
	from := len(runes)
	for from > 0 && room-runeCells(runes[from-1]) >= 0 {
		from--
		room -= runeCells(runes[from])
	}
	for from < len(runes) && runeCells(runes[from]) == 0 { // a mark without its letter
		from++
	}
	return head + ellipsis + string(runes[from:])
}

// pad fills a text up with spaces.
func pad(text string, width int) string {
	return text + strings.Repeat(" ", max(width-cells(text), 0))
}

// size writes bytes with three digits at most, in units of 1024.
func size(n int64) string {
	if n < 1024 {
		return strconv.FormatInt(max(n, 0), 10) + " B"
	}
	v := float64(n)
	unit := -1
	for ; v >= 1023.5; unit++ {
		v /= 1024
	}
	digits := 0
	if v < 9.95 {
		digits = 1
	}
	return fmt.Sprintf("%.*f %ciB", digits, v, "KMGTPE"[max(unit, 0)])
}

// ago writes how long something is past.
func ago(then, now time.Time) string {
	if then.IsZero() {
		return "never"
	}
	return age(then, now) + " ago"
}
