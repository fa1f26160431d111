package syslog

import (
	"bytes"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

var noon = time.Date(2026, 11, 21, 13, 0, 0, 123456789, time.FixedZone("", 3600))

func text(messages [][]byte) []string {
	var all []string
	for _, m := range messages {
		all = append(all, string(m))
	}
	return all
}

func TestMessages(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		f    Format
		m    Message
		want []string
	}{
		{
			"everything",
			Format{},
			Message{
				Time: noon, Severity: Error, Hostname: "device-1", AppName: "shop", ProcID: "app", MsgID: "stderr",
				Params: []Param{{"device", "device-1"}, {"workload", "shop"}}, Text: []byte("it broke"),
			},
			[]string{`<11>1 2026-11-21T12:00:00.123456Z device-1 shop app stderr [flotta@32473 device="device-1" workload="shop"] it broke`},
		},
		{"nothing", Format{}, Message{}, []string{`<8>1 - - - - - [flotta@32473]`}},
		{"own number", Format{SDID: "x@1"}, Message{Severity: Info}, []string{`<14>1 - - - - - [x@1]`}},
		{
			"what is no header",
			Format{},
			Message{Hostname: "ein gerät\n", AppName: strings.Repeat("a", 60), ProcID: strings.Repeat("b", 200), MsgID: strings.Repeat("c", 40)},
			[]string{"<8>1 - ein?ger?t? " + strings.Repeat("a", 48) + " " + strings.Repeat("b", 128) + " " + strings.Repeat("c", 32) + " [flotta@32473]"},
		},
		{
			"what ends a parameter",
			Format{},
			Message{Params: []Param{{"a", "\"\\]\n\xffü"}}},
			[]string{`<8>1 - - - - - [flotta@32473 a="\"\\\]?` + "\ufffdü" + `"]`},
		},
		{
			"what is no text",
			Format{},
			Message{Text: []byte("tab\t red\x1b[31m nul\x00 line\n bad\xff\xfe half\xc3 ü")},
			[]string{"<8>1 - - - - - [flotta@32473] tab\t red\x1b[31m nul" + `\x00 line\x0a bad\xff\xfe half\xc3 ü`},
		},
		{"a year beyond the format", Format{}, Message{Time: noon.AddDate(9000, 0, 0)}, []string{`<8>1 - - - - - [flotta@32473]`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(c.want, text(c.f.Messages(c.m))); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// TestLongLine cuts a line of characters of three bytes into messages that are as
// long as they may be.
func TestLongLine(t *testing.T) {
	t.Parallel()
	line := strings.Repeat("€", 5000)
	messages := Format{MaxBytes: 4096}.Messages(Message{Time: noon, Text: []byte(line)})
	if len(messages) != 4 {
		t.Fatalf("%d messages, want 4", len(messages))
	}
	var whole strings.Builder
	for i, m := range messages {
		if len(m) > 4096 || i < 3 && len(m) < 4096-50 {
			t.Errorf("message %d has %d bytes", i, len(m))
		}
		if !utf8.Valid(m) {
			t.Errorf("message %d is cut inside of a character", i)
		}
		head, piece, _ := strings.Cut(string(m), "] ")
		if want := ` part="` + strconv.Itoa(i+1) + `/4"`; !strings.HasSuffix(head, want) {
			t.Errorf("message %d begins with %s", i, head)
		}
		whole.WriteString(piece)
	}
	if whole.String() != line {
		t.Error("the pieces are not the line")
	}
}

// grammar is a message as RFC 5424, section 6, has it.
var grammar = regexp.MustCompile(`(?s)^<\d{1,3}>1 (-|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) [!-~]{1,255} [!-~]{1,48} [!-~]{1,128} [!-~]{1,32} ` +
	`\[flotta@32473( [a-z]+="([^"\\\]]|\\["\\\]])*")*\]( .*)?$`)

func FuzzMessages(f *testing.F) {
	f.Add("host", "app", "proc", []byte("line"), 0, int64(0))
	f.Add("hö st", "a\x00", "\"]\\", []byte("\xff\x00\n€"), 2048, int64(1<<40))
	f.Add(strings.Repeat("h", 300), strings.Repeat("]", 300), strings.Repeat("\\", 300), bytes.Repeat([]byte("€\xff"), 4000), 3000, int64(-1))
	f.Fuzz(func(t *testing.T, host, app, proc string, line []byte, limit int, us int64) {
		if limit < 0 || limit > 1<<20 {
			return
		}
		format := Format{MaxBytes: limit}
		messages := format.Messages(Message{
			Time: time.UnixMicro(us), Severity: Info, Hostname: host, AppName: app, ProcID: proc, MsgID: "stdout", Text: line,
			Params: []Param{{"device", host}, {"workload", app}, {"container", proc}},
		})
		var whole []byte
		for _, m := range messages {
			if !grammar.Match(m) {
				t.Fatalf("not a message: %q", m)
			}
			if !utf8.Valid(m) || bytes.ContainsAny(m, "\x00\n") {
				t.Fatalf("not text: %q", m)
			}
			// Three parameters of nothing but what is escaped, and the header.
			if len(m) > max(format.maxBytes(), 3*2*maxParam+1024) {
				t.Fatalf("%d bytes, %d are allowed", len(m), format.maxBytes())
			}
			if _, piece, ok := bytes.Cut(m, []byte(`"] `)); ok {
				whole = append(whole, piece...)
			}
		}
		if clean := clean(line); !bytes.Equal(whole, clean) && !strings.Contains(host+app+proc, `"]`) {
			t.Fatalf("the pieces are %q, the line is %q", whole, clean)
		}
	})
}
