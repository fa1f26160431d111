package follow

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseRecord(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		raw             string
		stderr, partial bool
		text            string
		bad             bool
	}{
		{raw: "2026-11-21T22:09:34.304052939+00:00 stdout F line 0", text: "line 0"},
		{raw: "2026-11-21T22:09:34Z stderr P half", stderr: true, partial: true, text: "half"},
		{raw: "2026-11-21T22:09:34Z stdout F ", text: ""},
		{raw: "2026-11-21T22:09:34Z stdout F", text: ""},
		{raw: "2026-11-21T22:09:34Z stdout F  two  spaces ", text: " two  spaces "},
		{raw: "2026-11-21T22:09:34Z stdout X text", bad: true},
		{raw: "2026-11-21T22:09:34Z stdin F text", bad: true},
		{raw: "yesterday stdout F text", bad: true},
		{raw: "2026-11-21T22:09:34Z", bad: true},
		{raw: "", bad: true},
		{raw: strings.Repeat("\x00", 100), bad: true}, // what a power cut leaves
	} {
		r, err := parseRecord([]byte(c.raw))
		if (err != nil) != c.bad {
			t.Errorf("%q: %v", c.raw, err)
		}
		if err == nil && (r.stderr != c.stderr || r.partial != c.partial || string(r.text) != c.text) {
			t.Errorf("%q: %+v", c.raw, r)
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte("2026-11-21T22:09:34.304052939+00:00 stdout F line 0"))
	f.Add([]byte("2026-11-21T22:09:34Z stderr P "))
	f.Add([]byte("  "))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := parseRecord(raw)
		if err == nil && !bytes.HasSuffix(raw, r.text) {
			t.Errorf("the text of %q is %q", raw, r.text)
		}
	})
}

// field returns a field with a length in front of its value.
func field(name, value string) string {
	b := binary.LittleEndian.AppendUint64([]byte(name+"\n"), uint64(len(value)))
	return string(b) + value + "\n"
}

func TestExport(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", maxField+100)
	for _, c := range []struct {
		name, raw string
		want      []entry
		err       error
	}{
		{"nothing", "", nil, io.EOF},
		{"two", "__CURSOR=a\nMESSAGE=one\nOTHER=x\n\n__CURSOR=b\nMESSAGE=a=b\n\n", []entry{
			{"__CURSOR": []byte("a"), "MESSAGE": []byte("one")}, {"__CURSOR": []byte("b"), "MESSAGE": []byte("a=b")},
		}, io.EOF},
		{"binary", field("MESSAGE", "a\nb\n\nc") + field("OTHER", "\n") + "__CURSOR=c\n\n", []entry{
			{"__CURSOR": []byte("c"), "MESSAGE": []byte("a\nb\n\nc")},
		}, io.EOF},
		{"long", field("MESSAGE", long) + field("OTHER", long) + "__CURSOR=c\n\n", []entry{
			{"__CURSOR": []byte("c"), "MESSAGE": []byte(long[:maxField])},
		}, io.EOF},
		{"long text", "OTHER=" + strings.Repeat("x", 1<<20) + "\n__CURSOR=c\n\n", []entry{{"__CURSOR": []byte("c")}}, io.EOF},
		{"empty lines", "\n\n__CURSOR=c\n\n\n", []entry{{"__CURSOR": []byte("c")}}, io.EOF},
		{"an end inside of an entry", "__CURSOR=c\n", nil, io.ErrUnexpectedEOF},
		{"an end inside of a line", "__CURSOR=c", nil, io.ErrUnexpectedEOF},
		{"an end inside of a value", field("MESSAGE", "abc")[:18], nil, io.ErrUnexpectedEOF},
		{"an end inside of a length", "MESSAGE\n\x01\x00", nil, io.ErrUnexpectedEOF},
		{"no length", "MESSAGE\nhello hello\n\n", nil, ErrNoExport},
		{"another length", "MESSAGE\n\x02\x00\x00\x00\x00\x00\x00\x00abc\n", nil, ErrNoExport},
		{"no name", "=x\n\n", nil, ErrNoExport},
		{"a long name", strings.Repeat("N", maxName+1) + "=x\n\n", nil, ErrNoExport},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e := newExportReader(iotest.HalfReader(strings.NewReader(c.raw)), "__CURSOR", "MESSAGE")
			var got []entry
			for {
				one, err := e.next()
				if err != nil {
					if !errors.Is(err, c.err) {
						t.Errorf("error %v, want %v", err, c.err)
					}
					break
				}
				got = append(got, one)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func FuzzExport(f *testing.F) {
	f.Add([]byte("__CURSOR=a\nMESSAGE=one\n\n__CURSOR=b\nMESSAGE=two\n\n"))
	f.Add([]byte(field("MESSAGE", "a\nb") + "__CURSOR=c\n\n"))
	f.Add([]byte("MESSAGE\n\xff\xff\xff\x3f\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		e := newExportReader(bytes.NewReader(raw), "__CURSOR", "MESSAGE")
		for range len(raw) + 2 {
			one, err := e.next()
			if err != nil {
				return
			}
			for name, value := range one {
				if len(value) > maxField+maxName || !bytes.Contains(raw, value) {
					t.Fatalf("%s is %q", name, value)
				}
			}
		}
		t.Fatal("more entries than bytes")
	})
}

func TestJoiner(t *testing.T) {
	t.Parallel()
	now := time.Now()
	piece := func(id, text string, stderr bool) Line { return Line{ID: id, Text: []byte(text), Stderr: stderr} }
	j := newJoiner[int]()
	for i, step := range []struct {
		line    Line
		partial bool
		want    string // "": none
		held    int    // -1: none
	}{
		{piece("a", "1", false), true, "", 0},
		{piece("a", "e", true), false, "e", 0},
		{piece("b", "x", false), true, "", 0},
		{piece("a", "2", false), true, "", 0},
		{piece("a", "3", false), false, "123", 2},
		{piece("b", "y", false), false, "xy", -1},
	} {
		got := ""
		if whole := j.add(step.line, step.partial, i, now); whole != nil {
			got = string(whole.line.Text)
		}
		if got != step.want {
			t.Errorf("step %d: %q", i, got)
		}
		held, ok := j.held(func(a, b int) bool { return a < b })
		if !ok {
			held = -1
		}
		if held != step.held {
			t.Errorf("step %d: the mark stands at %d, want %d", i, held, step.held)
		}
	}
}

func TestJoinerBound(t *testing.T) {
	t.Parallel()
	j := newJoiner[int]()
	most := 0
	var whole []byte
	for i := range 100 {
		p := j.add(Line{ID: "a", Text: bytes.Repeat([]byte{'x'}, 8<<10)}, i < 99, i, time.Now())
		if p != nil {
			most = max(most, len(p.line.Text))
			whole = append(whole, p.line.Text...)
			if p.line.More != (i < 99) {
				t.Errorf("after piece %d, more is %t", i, p.line.More)
			}
		}
	}
	if most > MaxLine || len(whole) != 100*8<<10 {
		t.Errorf("the longest piece has %d bytes, all have %d", most, len(whole))
	}
}

func TestJoinerPatience(t *testing.T) {
	t.Parallel()
	j := newJoiner[int]()
	now := time.Now()
	j.add(Line{ID: "b", Text: []byte("second")}, true, 2, now.Add(time.Millisecond))
	j.add(Line{ID: "a", Text: []byte("first")}, true, 1, now)
	if got := j.overdue(now, patience); got != nil {
		t.Errorf("%q is overdue at once", got.line.Text)
	}
	now = now.Add(patience + time.Millisecond)
	for before, want := range []string{1: "first", 2: "second"} {
		if want == "" {
			continue
		}
		if got := j.overdue(now, patience); got == nil || string(got.line.Text) != want || got.before != before {
			t.Errorf("overdue is %+v, want %s", got, want)
		}
	}
	if got := j.overdue(now, patience); got != nil {
		t.Errorf("%q is overdue again", got.line.Text)
	}
}

func TestCursorLess(t *testing.T) {
	t.Parallel()
	const s = "s=8afd35c72f9348a9901d4371241ce2a8;i=%;b=8615bb7a3a4c48c6b73ab11bbc818b5a;m=fb3b73e29;t=#;x=8afd58539ea1fe28"
	at := func(i, t string) string { return strings.NewReplacer("%", i, "#", t).Replace(s) }
	other := strings.Replace(at("1", "660d0b70b3d23"), "8afd", "8bfd", 1)
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{at("9", "2"), at("a", "1"), true}, // the sequence counts, not the clock
		{at("a", "1"), at("9", "2"), false},
		{at("9", "1"), at("9", "1"), false},
		{"", at("1", "1"), true},
		{at("1", "1"), "", false},
		{"", "", false},
		{at("fff", "660d0b70b3d22"), other, true}, // of another journal: the clock
		{other, at("fff", "660d0b70b3d22"), false},
		{"rubbish", at("1", "1"), true},
		{at("1", "1"), "rubbish", false},
	} {
		if got := cursorLess(c.a, c.b); got != c.want {
			t.Errorf("%q before %q: %t", c.a, c.b, got)
		}
	}
}

func FuzzCursor(f *testing.F) {
	f.Add("s=8afd;i=1;t=2", "s=8afd;i=2;t=1")
	f.Add("s=;i=1", ";;=")
	f.Fuzz(func(t *testing.T, a, b string) {
		if cursorLess(a, b) && cursorLess(b, a) {
			t.Errorf("%q and %q are before each other", a, b)
		}
	})
}
