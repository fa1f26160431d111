package datasync

import (
	"strings"
	"time"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
)

// opKind is what has to be done with one file.
type opKind int

const (
	opNone    opKind = iota // it is where it should be
	opWait                  // it was written a moment ago and may still be
	opSkip                  // it is no regular file
	opRefuse                // its name means no file, or no object
	opCompare               // both sides are there: equal content needs no transfer
	opTransfer
)

func (k opKind) String() string {
	return [...]string{"none", "wait", "skip", "refuse", "compare", "transfer"}[k]
}

// egressOp is what has to be done with one file of a volume.
type egressOp struct {
	Kind  opKind
	Entry entry
	Key   string
	Known *record // of the last transfer, if there was one
	Hint  *hint   // of the object, if the bucket held one when it was listed
	Why   error   // of opRefuse
}

// hinted returns the ETag of the object that the bucket held; empty: none.
func (op egressOp) hinted() string {
	if op.Hint == nil {
		return ""
	}
	return op.Hint.ETag
}

// settle is how long a file has to rest before it is sent, and how long it may
// be held back at most because it does not.
type settle struct{ rest, atMost time.Duration }

// waits reports whether a file that changed at the given time has to rest, when
// it has been held back since the given time (zero: it has not).
func (s settle) waits(now, changed, since time.Time) bool {
	if s.rest <= 0 || (!since.IsZero() && now.Sub(since) >= s.atMost) {
		return false
	}
	// A time in the future is a clock that was set, and says nothing.
	return now.Sub(changed) < s.rest
}

func (f fingerprint) changed() time.Time { return time.Unix(0, max(f.MTime, f.CTime)) }

// planEgress decides about one file. known and hinted are nil when there is
// nothing; since is when the file was first held back.
func planEgress(r route, e entry, known *record, hinted *hint, now, since time.Time, s settle) egressOp {
	op := egressOp{Entry: e, Known: known, Hint: hinted}
	if e.Kind != kindRegular {
		op.Kind = opSkip
		return op
	}
	if known != nil && known.fingerprint == e.fingerprint {
		return op
	}
	if op.Key, op.Why = objectKey(r.prefix, within(r.local, e.Path)); op.Why != nil {
		op.Kind = opRefuse
		return op
	}
	switch {
	case s.waits(now, e.changed(), since):
		op.Kind = opWait
	case known != nil && known.Size == e.Size, known == nil && hinted != nil && hinted.Size == e.Size:
		op.Kind = opCompare
	default:
		op.Kind = opTransfer
	}
	return op
}

// ingressOp is what has to be done with one object.
type ingressOp struct {
	Kind   opKind
	Object s3.Object
	Path   string // in the volume
	Local  entry  // what is there now
	Known  *record
	Why    error // of opRefuse
}

// planIngress decides about one object whose path is known to be sound.
func planIngress(o s3.Object, local entry, known *record) ingressOp {
	op := ingressOp{Object: o, Path: local.Path, Local: local, Known: known}
	switch local.Kind {
	case kindAbsent:
		op.Kind = opTransfer
		return op
	case kindRegular:
	default:
		op.Kind, op.Why = opRefuse, &inTheWayError{kind: local.Kind}
		return op
	}
	if known != nil && known.ETag == o.ETag && known.Size == o.Size {
		return op // what the workload made of it since is the workload's
	}
	if local.Size == o.Size {
		op.Kind = opCompare
	} else {
		op.Kind = opTransfer
	}
	return op
}

// inTheWayError says that something that is no regular file has an object's name.
type inTheWayError struct{ kind fileKind }

func (e *inTheWayError) Error() string { return "there is a " + e.kind.String() + " of that name" }

// keyFilter maps the keys of one listing, in the order of the listing, to paths.
type keyFilter struct {
	route route
	// parents are the keys seen so far that the current one begins with: in a
	// sorted listing only these can turn out to be folders as well.
	parents []string
}

// path returns the volume path of an object. An empty path without an error is a
// folder's marker, which some tools make and which is not a file.
func (f *keyFilter) path(o s3.Object) (string, error) {
	for n := len(f.parents); n > 0 && !strings.HasPrefix(o.Key, f.parents[n-1]); n-- {
		f.parents = f.parents[:n-1]
	}
	if o.Size == 0 && strings.HasSuffix(o.Key, "/") {
		return "", nil
	}
	rel, err := relPath(f.route.prefix, o.Key)
	if err != nil {
		return "", err
	}
	for _, parent := range f.parents {
		if o.Key[len(parent):] != "" && o.Key[len(parent)] == '/' {
			return "", &fileAndFolderError{key: parent}
		}
	}
	f.parents = append(f.parents, o.Key)
	return below(f.route.local, rel), nil
}

// fileAndFolderError says that an object's key is the folder of another one.
type fileAndFolderError struct{ key string }

func (e *fileAndFolderError) Error() string {
	return "would need a folder where object " + e.key + " is a file"
}
