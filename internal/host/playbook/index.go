package playbook

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// index is all that is remembered of runs.
type index struct {
	Seq  int // of the latest record
	Runs []record
}

// record is one run, which is one digest for ever.
type record struct {
	Name     string
	ID       string
	Config   string
	Strategy string
	Digest   string
	Seq      int      // in the order of taking them in
	Order    int      // in the list that it was in last
	After    []string // digests of runs without whose success it is skipped
	Timeout  time.Duration
	Bytes    int // of the playbook

	State   string // as on the wire
	Reason  string
	Message string
	Since   time.Time // of State

	Attempt   int  // from 1; 0: it never becomes one
	Starts    int  // of the attempt, in vain
	Begun     bool // its unit may have been started: it goes on to its end
	Listed    bool // in the latest list
	Delivered bool // the control plane knows State, which is a final one
}

func (r *record) final() bool {
	return r.State == protocol.PlaybookSuccessfullyCompleted || r.State == protocol.PlaybookCompletedWithError
}

func (r *record) waiting() bool { return !r.final() && !r.Begun }

func (r *record) instance() string { return instance(r.Digest, max(1, r.Attempt)) }

func (r *record) unit() string { return unitPrefix + r.instance() + unitSuffix }

// enter puts the run into a state.
func (r *record) enter(state, reason, message string) {
	if r.State != state {
		r.Since = time.Now().UTC().Truncate(time.Millisecond) // as on the wire
	}
	r.State, r.Reason, r.Message = state, reason, message
}

func (x index) clone() index {
	x.Runs = slices.Clone(x.Runs)
	return x
}

// find returns the record of that digest; nil: there is none.
func (x *index) find(digest string) *record {
	if i := slices.IndexFunc(x.Runs, func(r record) bool { return r.Digest == digest }); i >= 0 {
		return &x.Runs[i]
	}
	return nil
}

func (x *index) add(r record) {
	x.Seq++
	r.Seq = x.Seq
	x.Runs = append(x.Runs, r)
}

// current returns the run that has begun and has not ended; nil: none.
func (x *index) current() *record {
	return x.least(func(r *record) bool { return r.Begun && !r.final() })
}

// next returns the run whose turn it is when nothing runs; nil: none.
func (x *index) next() *record { return x.least((*record).waiting) }

func (x *index) least(of func(*record) bool) *record {
	var found *record
	for i := range x.Runs {
		if r := &x.Runs[i]; of(r) && (found == nil || r.before(found)) {
			found = r
		}
	}
	return found
}

func (r *record) before(other *record) bool {
	return cmp.Or(cmp.Compare(r.Order, other.Order), cmp.Compare(r.Seq, other.Seq)) < 0
}

// bytes is how much the playbooks have that wait.
func (x *index) bytes() int {
	n := 0
	for i := range x.Runs {
		if !x.Runs[i].final() {
			n += x.Runs[i].Bytes
		}
	}
	return n
}

// room forgets runs until there is room for one more: those that are over and
// that nobody asks about any more, the oldest first. It reports whether there is.
func (x *index) room() bool {
	for len(x.Runs) >= maxRuns {
		oldest := -1
		for i := range x.Runs {
			r := &x.Runs[i]
			if r.final() && r.Delivered && !r.Listed && (oldest < 0 || r.Seq < x.Runs[oldest].Seq) {
				oldest = i
			}
		}
		if oldest < 0 {
			return false
		}
		x.Runs = slices.Delete(x.Runs, oldest, oldest+1)
	}
	return true
}

// loadIndex reads what is remembered. What is damaged is set aside, and made
// anew from the folders of the runs.
func loadIndex(dir string) (x index, note, err error) {
	path := filepath.Join(dir, indexFile)
	err = durable.LoadDocument(path, indexKind, indexVersion, &x)
	switch {
	case err == nil:
		return x, nil, nil
	case errors.Is(err, durable.ErrNotExist):
	case errors.Is(err, durable.ErrCorrupt), errors.Is(err, durable.ErrVersion):
		note = err
		if _, err := durable.SetAside(path); err != nil {
			return index{}, note, err
		}
	default:
		return index{}, nil, err
	}
	x, err = rebuildIndex(dir)
	return x, note, err
}

// rebuildIndex makes records of the folders of runs. Whatever they were, they are
// looked at like runs that have begun, unless nothing in them says so.
func rebuildIndex(dir string) (index, error) {
	names, err := instances(dir)
	if err != nil {
		return index{}, err
	}
	var x index
	for _, name := range names {
		p, _ := readPapers(filepath.Join(dir, name)) // what cannot be read is not there
		r := p.request
		_, attempt, _ := strings.Cut(name, ".")
		number, _ := strconv.Atoi(attempt)
		if r.Digest == "" || instance(r.Digest, number) != name || x.find(r.Digest) != nil {
			continue
		}
		rec := record{
			Name: r.Name, ID: r.ID, Config: r.Config, Strategy: r.Strategy, Digest: r.Digest,
			Timeout: r.Timeout, Bytes: len(r.Playbook), Attempt: number,
			Begun: p.phase.State != "" || p.result != nil || number > 1,
		}
		rec.enter(protocol.PlaybookDeploying, "", "")
		x.add(rec)
	}
	return x, nil
}

// instances lists the folders of runs.
func instances(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list runs: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && instanceName.MatchString(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}
