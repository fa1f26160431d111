package follow

import (
	"bytes"
	"context"
	"strconv"
	"strings"
)

// place is a journal cursor that was taken apart, as far as it is for ordering:
// `s=<id>;i=<hex>;b=<id>;m=<hex>;t=<hex>;x=<hex>`.
type place struct {
	log  string // s: sequence numbers are of one order below one such id
	seq  uint64 // i
	time uint64 // t: microseconds since 1970
}

// parsePlace returns false when the cursor is none.
func parsePlace(cursor string) (place, bool) {
	var p place
	found := 0
	for field := range strings.SplitSeq(cursor, ";") {
		key, value, _ := strings.Cut(field, "=")
		var err error
		switch key {
		case "s":
			p.log = value
		case "i":
			p.seq, err = strconv.ParseUint(value, 16, 64)
		case "t":
			p.time, err = strconv.ParseUint(value, 16, 64)
		default:
			continue
		}
		if err != nil {
			return place{}, false
		}
		found++
	}
	return p, found == 3 && p.log != ""
}

// cursorLess reports whether entry a comes before entry b. The empty cursor is
// before all others. Where the journal began anew between the two, the clock
// decides, which is all that there is.
func cursorLess(a, b string) bool {
	if a == b || b == "" {
		return false
	}
	p, ok := parsePlace(a)
	q, also := parsePlace(b)
	switch {
	case !ok || !also:
		return !ok && also
	case p.log == q.log:
		return p.seq < q.seq
	}
	return p.time < q.time
}

// sequenceID begins the line of a journal file's header that says which sequence
// its entries are numbered in.
const sequenceID = "sequential number id:"

// knows reports whether the journal has a file of the sequence that the cursor is
// of. Where nobody can tell, it has.
func (j *Journal) knows(ctx context.Context, cursor string) bool {
	at, ok := parsePlace(cursor)
	if !ok {
		return false
	}
	cmd := j.cfg.Command(ctx, "--quiet", "--no-pager", "--header")
	cmd.WaitDelay = stopDelay
	headers, err := cmd.Output()
	if err != nil {
		return true
	}
	told := false
	for line := range bytes.Lines(headers) {
		if id, ok := bytes.CutPrefix(bytes.ToLower(bytes.TrimSpace(line)), []byte(sequenceID)); ok {
			if told = true; string(bytes.TrimSpace(id)) == at.log {
				return true
			}
		}
	}
	return !told
}
