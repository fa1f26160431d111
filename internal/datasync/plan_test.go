package datasync

import (
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

func TestPlanEgress(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	old := fingerprint{Size: 5, MTime: now.Add(-time.Hour).UnixNano(), CTime: now.Add(-time.Hour).UnixNano(), Inode: 7}
	young := old
	young.CTime = now.Add(-time.Millisecond).UnixNano()
	future := old
	future.MTime = now.Add(time.Hour).UnixNano()
	with := func(f func(*fingerprint)) *record {
		r := &record{fingerprint: old}
		f(&r.fingerprint)
		return r
	}
	same := with(func(*fingerprint) {})
	for name, c := range map[string]struct {
		kind  fileKind
		print fingerprint
		path  string
		known *record
		hint  *hint
		since time.Duration // before now; 0: not held back
		want  opKind
	}{
		"new":                            {print: old, want: opTransfer},
		"unchanged":                      {print: old, known: same, want: opNone},
		"other size":                     {print: old, known: with(func(f *fingerprint) { f.Size = 4 }), want: opTransfer},
		"older time, same size":          {print: old, known: with(func(f *fingerprint) { f.MTime++ }), want: opCompare},
		"newer time":                     {print: old, known: with(func(f *fingerprint) { f.MTime-- }), want: opCompare},
		"only ctime":                     {print: old, known: with(func(f *fingerprint) { f.CTime-- }), want: opCompare},
		"another file":                   {print: old, known: with(func(f *fingerprint) { f.Inode++ }), want: opCompare},
		"in the bucket, same size":       {print: old, hint: &hint{Size: 5}, want: opCompare},
		"in the bucket, other size":      {print: old, hint: &hint{Size: 6}, want: opTransfer},
		"written now":                    {print: young, want: opWait},
		"written now, unchanged":         {print: young, known: &record{fingerprint: young}, want: opNone},
		"always written":                 {print: young, since: settleAtMost, want: opTransfer},
		"always written, not yet":        {print: young, since: settleAtMost - 1, want: opWait},
		"from the future":                {print: future, want: opWait},
		"from the future, held back":     {print: future, since: settleAtMost, want: opTransfer},
		"link":                           {kind: kindSymlink, print: old, want: opSkip},
		"fifo":                           {kind: kindSpecial, print: old, want: opSkip},
		"name that is no text":           {print: old, path: "out/\xff", want: opRefuse},
		"name with a control character":  {print: old, path: "out/\x1b", want: opRefuse},
		"key that is too long":           {print: old, path: "out/" + strings.Repeat("n/", 600), want: opRefuse},
		"link with a name of no text":    {kind: kindSymlink, print: old, path: "out/\xff", want: opSkip},
		"written now, and also refused":  {print: young, path: "out/\xff", want: opRefuse},
		"in the bucket, and known so":    {print: old, known: same, hint: &hint{Size: 9}, want: opNone},
		"in the bucket, and known older": {print: old, known: with(func(f *fingerprint) { f.Size = 1 }), hint: &hint{Size: 5}, want: opTransfer},
	} {
		e := entry{fingerprint: c.print, Path: c.path, Kind: c.kind}
		if e.Kind == kindAbsent {
			e.Kind = kindRegular
		}
		if e.Path == "" {
			e.Path = "out/f"
		}
		var since time.Time
		if c.since > 0 {
			since = now.Add(-c.since)
		}
		op := planEgress(route{local: "out", prefix: "up"}, e, c.known, c.hint, now, since, settle{time.Second, settleAtMost})
		if op.Kind != c.want {
			t.Errorf("%s: %s, want %s", name, op.Kind, c.want)
		}
		if (op.Kind == opTransfer || op.Kind == opCompare) && op.Key != "up/f" {
			t.Errorf("%s: key %q", name, op.Key)
		}
	}
}

func TestPlanIngress(t *testing.T) {
	t.Parallel()
	o := s3.Object{Key: "down/f", Size: 5, ETag: "new"}
	known := &record{fingerprint: fingerprint{Size: 5, Inode: 1}, ETag: "new"}
	older := &record{fingerprint: fingerprint{Size: 5, Inode: 1}, ETag: "old"}
	for name, c := range map[string]struct {
		kind  fileKind
		size  int64
		inode uint64
		known *record
		want  opKind
	}{
		"new":                            {want: opTransfer},
		"removed here":                   {known: known, want: opTransfer},
		"unchanged":                      {kind: kindRegular, size: 5, inode: 1, known: known, want: opNone},
		"changed here":                   {kind: kindRegular, size: 9, inode: 2, known: known, want: opNone},
		"changed there":                  {kind: kindRegular, size: 5, inode: 1, known: older, want: opCompare},
		"changed there, and here":        {kind: kindRegular, size: 9, inode: 1, known: older, want: opTransfer},
		"unknown file, same size":        {kind: kindRegular, size: 5, want: opCompare},
		"unknown file, other size":       {kind: kindRegular, size: 6, want: opTransfer},
		"folder":                         {kind: kindDir, known: known, want: opRefuse},
		"link":                           {kind: kindSymlink, size: 5, known: known, want: opRefuse},
		"fifo":                           {kind: kindSpecial, want: opRefuse},
		"same ETag, other size in there": {kind: kindRegular, size: 5, known: &record{ETag: "new"}, want: opCompare},
	} {
		local := entry{Path: "in/f", Kind: c.kind, fingerprint: fingerprint{Size: c.size, Inode: c.inode}}
		if op := planIngress(o, local, c.known); op.Kind != c.want {
			t.Errorf("%s: %s, want %s", name, op.Kind, c.want)
		}
	}
}

// TestPlanProperties holds for whatever is compared with whatever.
func TestPlanProperties(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	number := func() int64 { return random.Int64N(3) }
	s := settle{time.Second, settleAtMost}
	for range 20_000 {
		e := entry{
			Path: "out/f", Kind: fileKind(1 + random.IntN(4)),
			fingerprint: fingerprint{number(), number(), number(), uint64(number())},
		}
		var known *record
		if random.IntN(2) == 0 {
			known = &record{fingerprint: fingerprint{number(), number(), number(), uint64(number())}}
		}
		now := time.Unix(random.Int64N(3), 0)
		op := planEgress(route{local: "out"}, e, known, nil, now, time.Time{}, s)
		switch {
		case e.Kind != kindRegular && op.Kind != opSkip:
			t.Fatalf("%v is not skipped", e)
		case e.Kind == kindRegular && (op.Kind == opNone) != (known != nil && known.fingerprint == e.fingerprint):
			t.Fatalf("%v known as %v: %s", e, known, op.Kind)
		case op.Kind != opNone && op.Kind != opSkip && op.Kind != opWait:
			// What is done once and recorded is not done again.
			again := planEgress(route{local: "out"}, e, &record{fingerprint: e.fingerprint}, nil, now, time.Time{}, s)
			if again.Kind != opNone {
				t.Fatalf("%v is planned again", e)
			}
		}
	}
}

func TestKeyFilter(t *testing.T) {
	t.Parallel()
	f := keyFilter{route: route{local: "in", prefix: "p"}}
	for _, c := range []struct {
		key  string
		size int64
		want string // empty: nothing; "!": refused
	}{
		{"p/", 0, ""},
		{"p/a", 1, "in/a"},
		{"p/a!", 1, "in/a!"},
		{"p/a!/x", 1, "!"},
		{"p/a.b", 1, "in/a.b"},
		{"p/a/", 0, ""},
		{"p/a/b", 1, "!"},
		{"p/a/b/c", 1, "!"},
		{"p/ab", 1, "in/ab"},
		{"p/b/", 1, "!"},
		{"p/c/d", 1, "in/c/d"},
		{"other", 1, "!"},
	} {
		got, err := f.path(s3.Object{Key: c.key, Size: c.size})
		if (err != nil) != (c.want == "!") || (err == nil && got != c.want) {
			t.Errorf("%q: %q, %v; want %q", c.key, got, err, c.want)
		}
	}
}

func TestRoutes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		source, target string
		want           route
		bad            bool
	}{
		{source: "stats", target: "statistics", want: route{"stats", "statistics"}},
		{source: "a//b/", target: "c/./d/", want: route{"a/b", "c/d"}},
		{source: "", target: "", want: route{".", ""}},
		{source: "/abs", bad: true},
		{source: "a", target: "/abs", bad: true},
		{source: "a/../b", bad: true},
		{source: "..", bad: true},
		{source: "a", target: "b/../../c", bad: true},
		{source: "a\x00", bad: true},
		{source: "a", target: "\xff", bad: true},
		{source: strings.Repeat("n", 256), bad: true},
		{source: "..a", target: "a..", want: route{"..a", "a.."}},
	} {
		got, err := egressRoute(protocol.DataPath{Source: c.source, Target: c.target})
		if (err != nil) != c.bad || got != c.want {
			t.Errorf("%q to %q: %+v, %v", c.source, c.target, got, err)
		}
	}
}

func TestLoopsAreSplitOff(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		out, in []route
		loops   int
	}{
		"apart":                       {[]route{{"a", "p"}}, []route{{"b", "q"}}, 0},
		"same on one side":            {[]route{{"a", "p"}}, []route{{"a", "q"}}, 0},
		"same on the other":           {[]route{{"a", "p"}}, []route{{"b", "p"}}, 0},
		"same on both":                {[]route{{"a", "p"}}, []route{{"a", "p"}}, 1},
		"nested on both":              {[]route{{"a", "p"}}, []route{{"a/x", "p/y"}}, 1},
		"nested crosswise":            {[]route{{"a/x", "p"}}, []route{{"a", "p/y"}}, 1},
		"whole volume":                {[]route{{".", "p"}}, []route{{"a", "p"}}, 1},
		"whole bucket":                {[]route{{"a", ""}}, []route{{"a", "p"}}, 1},
		"names that begin alike":      {[]route{{"a", "p"}}, []route{{"ab", "pq"}}, 0},
		"over two pairs":              {[]route{{"a", "q"}, {"b", "p"}}, []route{{"a", "p"}, {"b", "q"}}, 2},
		"a chain that does not close": {[]route{{"a", "q"}}, []route{{"a", "p"}, {"b", "q"}}, 0},
	} {
		ok, looped := (ends{c.out, c.in}).splitAlone()
		out, in := ok.out, ok.in
		if len(looped) != c.loops {
			t.Errorf("%s: %v", name, looped)
		}
		if c.loops == 0 && (len(out) != len(c.out) || len(in) != len(c.in)) {
			t.Errorf("%s: left %v and %v", name, out, in)
		}
		if _, again := ok.splitAlone(); len(again) != 0 {
			t.Errorf("%s: still %v", name, again)
		}
	}
}

// TestLoopsOverTwoWorkloads: a file would come back through the other's volume.
func TestLoopsOverTwoWorkloads(t *testing.T) {
	t.Parallel()
	a := ends{[]route{{".", "p"}}, []route{{"in", "q"}}}
	b := ends{[]route{{"x", "q"}}, []route{{"x", "p"}}}
	apart := ends{[]route{{"in", "r"}}, []route{{"x", "p"}}} // has folders of the same names
	var all ends
	for name, e := range map[string]ends{"a": a, "b": b, "c": apart} {
		all.add(name, e)
	}
	for name, want := range map[string]int{"a": 1, "b": 1, "c": 0} {
		mine := map[string]ends{"a": a, "b": b, "c": apart}[name]
		if ok, looped := splitLoops(name, mine, all); len(looped) != want || len(ok.out) != 1-want {
			t.Errorf("%s: %v", name, looped)
		}
	}
}

func FuzzKeyToPath(f *testing.F) {
	for _, key := range []string{"p/a", "p/../x", "p//x", "p/a/./b", "p/\x00", "x", "p/" + strings.Repeat("d/", 600), "p/a\xff", "p/.flotta-0123456789abcdef"} {
		f.Add("p", key)
		f.Add("", key)
	}
	dir := f.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = root.Close() })
	f.Fuzz(func(t *testing.T, prefix, key string) {
		r, err := ingressRoute(protocol.DataPath{Source: prefix, Target: "in"})
		if err != nil {
			return
		}
		rel, err := relPath(r.prefix, key)
		if err != nil {
			return
		}
		name := below(r.local, rel)
		if !filepath.IsLocal(name) || path.Clean(name) != name || !strings.HasPrefix(name, "in/") || strings.ContainsRune(name, 0) {
			t.Errorf("key %q of prefix %q is %q", key, prefix, name)
		}
		if back, err := objectKey(r.prefix, within(r.local, name)); err != nil || back != key {
			t.Errorf("key %q comes back as %q (err %v)", key, back, err)
		}
	})
}

func FuzzDataPath(f *testing.F) {
	f.Add("a/b", "c")
	f.Add("../x", "/y")
	f.Add("a/..", "./")
	f.Fuzz(func(t *testing.T, source, target string) {
		r, err := egressRoute(protocol.DataPath{Source: source, Target: target})
		if err != nil {
			return
		}
		if !filepath.IsLocal(r.local) || strings.HasPrefix(r.prefix, "/") || strings.HasSuffix(r.prefix, "/") || strings.Contains(r.prefix, "..") && !validParts(r.prefix) {
			t.Errorf("%q to %q: %+v", source, target, r)
		}
	})
}

func validParts(p string) bool {
	for part := range strings.SplitSeq(p, "/") {
		if part == ".." || part == "" {
			return false
		}
	}
	return true
}

func FuzzRecord(f *testing.F) {
	f.Add(record{fingerprint: fingerprint{1, -2, 3, 4}, ETag: "e", When: 5}.encode())
	f.Add(hint{Size: 1, ETag: "x"}.encode())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, ok := decodeRecord(b); ok {
			if back, ok := decodeRecord(r.encode()); !ok || back != r {
				t.Errorf("%+v came back as %+v", r, back)
			}
		}
		if h, ok := decodeHint(b); ok {
			if back, ok := decodeHint(h.encode()); !ok || back != h {
				t.Errorf("%+v came back as %+v", h, back)
			}
		}
	})
}

func TestRecordRoundTrip(t *testing.T) {
	t.Parallel()
	want := record{fingerprint: fingerprint{1 << 40, -7, 1 << 60, 1 << 63}, ETag: strings.Repeat("e", 100), When: 9}
	want.SHA256[3] = 5
	b := want.encode()
	got, ok := decodeRecord(b)
	if !ok || got != want {
		t.Errorf("%+v came back as %+v", want, got)
	}
	for i := range b {
		damaged := append([]byte(nil), b...)
		damaged[i] ^= 0x10
		if r, ok := decodeRecord(damaged); ok && r != want {
			t.Errorf("damage at byte %d goes unnoticed", i)
		}
	}
}
