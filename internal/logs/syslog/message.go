package syslog

import (
	"strconv"
	"time"
	"unicode/utf8"
)

// Severity is how urgent a message is, as in RFC 5424.
type Severity uint8

// The severities of what containers write.
const (
	Error Severity = 3 // standard error
	Info  Severity = 6 // standard output
)

// facilityUser is "user-level messages": workloads are neither the kernel nor
// one of the system's own services.
const facilityUser = 1

// Bounds of header fields, from RFC 5424, section 6.
const (
	maxHostname = 255
	maxAppName  = 48
	maxProcID   = 128
	maxMsgID    = 32
)

// DefaultSDID is the SD-ID of a Format that names none; see the package comment.
const DefaultSDID = "flotta@32473"

// DefaultMaxBytes is the size that rsyslog and most other receivers take as a
// whole when nobody changed their settings.
const DefaultMaxBytes = 8 << 10

// minBytes leaves room for text behind the longest header and parameters.
const minBytes = 2 << 10

// maxParam bounds a parameter's value before it is escaped.
const maxParam = 256

// minText is the room that a text has in any case, though a message with the
// longest header and nothing but characters to escape is larger than it may be.
const minText = 256

// Param is one parameter of the structured data. The name consists of letters.
type Param struct{ Name, Value string }

// Message is one line.
type Message struct {
	Time     time.Time
	Severity Severity
	Hostname string
	AppName  string
	ProcID   string
	MsgID    string
	Params   []Param // at most 8
	Text     []byte  // any bytes, without the line's end
}

// Format says how messages are written. The zero value is ready for use.
type Format struct {
	// MaxBytes bounds a message, the count in front of it not included; 0: 8 KiB.
	// Less than 2 KiB counts as 2 KiB.
	MaxBytes int
	// SDID is the name of the structured data; "": DefaultSDID.
	SDID string
}

func (f Format) maxBytes() int {
	if f.MaxBytes == 0 {
		return DefaultMaxBytes
	}
	return max(f.MaxBytes, minBytes)
}

// Messages returns m as RFC 5424 has it, as one message, or as several when it
// is too long for one.
func (f Format) Messages(m Message) [][]byte {
	head := f.head(m)
	// What every part has besides: the end of the structured data, and `part="n/m"`.
	room := max(f.maxBytes()-len(head)-len("] "), minText)
	text := clean(m.Text)
	if len(text) <= room {
		return [][]byte{join(head, "", text)}
	}
	pieces := cut(text, room-len(` part="999999/999999"`))
	messages := make([][]byte, len(pieces))
	for i, piece := range pieces {
		part := ` part="` + strconv.Itoa(i+1) + "/" + strconv.Itoa(len(pieces)) + `"`
		messages[i] = join(head, part, piece)
	}
	return messages
}

// head returns everything up to the end of the structured data, which is left
// open.
func (f Format) head(m Message) []byte {
	b := make([]byte, 0, 512)
	b = append(b, '<')
	b = strconv.AppendUint(b, uint64(facilityUser)<<3|uint64(min(m.Severity, 7)), 10)
	b = append(b, ">1 "...)
	if year := m.Time.UTC().Year(); m.Time.IsZero() || year < 0 || year > 9999 {
		b = append(b, '-')
	} else {
		b = m.Time.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z")
	}
	b = appendHeader(b, m.Hostname, maxHostname)
	b = appendHeader(b, m.AppName, maxAppName)
	b = appendHeader(b, m.ProcID, maxProcID)
	b = appendHeader(b, m.MsgID, maxMsgID)
	b = append(b, " ["...)
	if f.SDID == "" {
		b = append(b, DefaultSDID...)
	} else {
		b = append(b, f.SDID...)
	}
	for _, p := range m.Params {
		b = append(b, ' ')
		b = append(b, p.Name...)
		b = append(b, `="`...)
		b = appendParam(b, p.Value)
		b = append(b, '"')
	}
	return b
}

func join(head []byte, part string, text []byte) []byte {
	b := make([]byte, 0, len(head)+len(part)+2+len(text))
	b = append(b, head...)
	b = append(b, part...)
	b = append(b, ']')
	if len(text) > 0 {
		b = append(b, ' ')
		b = append(b, text...)
	}
	return b
}

// appendHeader appends a field of the header and the space in front of it.
func appendHeader(b []byte, value string, limit int) []byte {
	b = append(b, ' ')
	if value == "" {
		return append(b, '-')
	}
	n := 0
	for _, r := range value {
		if n++; n > limit {
			break
		}
		if r <= ' ' || r > '~' {
			r = '?'
		}
		b = append(b, byte(r))
	}
	return b
}

// appendParam appends the value of a parameter: valid UTF-8 with the three
// characters escaped that RFC 5424, section 6.3.3, names.
func appendParam(b []byte, value string) []byte {
	n := 0
	for _, r := range value {
		if n += utf8.RuneLen(r); n > maxParam {
			break
		}
		switch {
		case r == '"' || r == '\\' || r == ']':
			b = append(b, '\\', byte(r))
		case r < ' ' || r == 0x7f:
			b = append(b, '?')
		default:
			b = utf8.AppendRune(b, r) // what is no UTF-8 is U+FFFD by now
		}
	}
	return b
}

const hexDigits = "0123456789abcdef"

// clean returns text as valid UTF-8 without NUL and line feed; see the package
// comment. It returns text itself when there is nothing to do.
func clean(text []byte) []byte {
	bad := func(r rune, size int) bool { return r == 0 || r == '\n' || r == utf8.RuneError && size == 1 }
	i := 0
	for i < len(text) {
		r, size := utf8.DecodeRune(text[i:])
		if bad(r, size) {
			break
		}
		i += size
	}
	if i == len(text) {
		return text
	}
	b := append(make([]byte, 0, len(text)+64), text[:i]...)
	for i < len(text) {
		r, size := utf8.DecodeRune(text[i:])
		if bad(r, size) {
			b = append(b, '\\', 'x', hexDigits[text[i]>>4], hexDigits[text[i]&15])
		} else {
			b = append(b, text[i:i+size]...)
		}
		i += size
	}
	return b
}

// cut divides valid UTF-8 into pieces of at most limit bytes, never inside of a
// character.
func cut(text []byte, limit int) [][]byte {
	var pieces [][]byte
	for len(text) > limit {
		end := limit
		for end > 0 && !utf8.RuneStart(text[end]) {
			end--
		}
		pieces = append(pieces, text[:end])
		text = text[end:]
	}
	return append(pieces, text)
}
