package follow

import "maps"

// Spot is a place in the journal: behind the entry that Cursor names, or with
// From in front of it. The zero value is the beginning.
type Spot struct {
	Cursor string `json:"cursor,omitempty"`
	From   bool   `json:"from,omitempty"`
}

// less reports whether s comes before other.
func (s Spot) less(other Spot) bool {
	if s.Cursor == other.Cursor {
		return s.From && !other.From
	}
	return cursorLess(s.Cursor, other.Cursor)
}

// JournalMark says how far the journal was read: everything up to the spot was
// handed on, of all containers that are followed.
type JournalMark struct {
	Spot
	// Names are the containers that are read, or were and may be again. Nobody
	// changes the map once it is in a mark.
	Names map[string]NameMark `json:"names,omitempty"`
}

// NameMark says from where on the lines of a container are handed on, besides
// what JournalMark says.
type NameMark struct {
	Spot
	Paused bool `json:"paused,omitempty"` // not followed
}

// FileMark says how far one file was read.
type FileMark struct {
	ID     string `json:"id"`     // of the container
	Inode  uint64 `json:"inode"`  // of the file
	Offset int64  `json:"offset"` // everything in front of it was handed on
	Head   string `json:"head"`   // digest of the first headBytes, or of Offset bytes if that is less
}

// takes reports whether the entry at cursor of that container is still to be
// handed on.
func (m JournalMark) takes(name, cursor string) bool {
	n, ok := m.Names[name]
	if !ok || n.Paused || cursor == m.Cursor && !m.From {
		return false
	}
	if n.Cursor == cursor {
		return n.From
	}
	return cursorLess(n.Cursor, cursor)
}

// rewrite returns the mark for another set of names. Begin says where a name
// begins that is not in the mark yet.
func (m JournalMark) rewrite(wanted map[string]Origin, begin map[string]Spot) JournalMark {
	next := JournalMark{Spot: m.Spot, Names: map[string]NameMark{}}
	first := true
	for name, origin := range wanted {
		n, known := m.Names[name]
		switch {
		case !known:
			n.Spot = begin[name]
		case !n.Paused && n.less(m.Spot):
			n.Spot = m.Spot
		}
		n.Paused = origin.Paused
		next.Names[name] = n
		if !n.Paused && (first || n.less(next.Spot)) {
			next.Spot, first = n.Spot, false
		}
	}
	return next
}

// same reports whether the mark is for just these names.
func (m JournalMark) same(wanted map[string]Origin) bool {
	if len(m.Names) != len(wanted) {
		return false
	}
	for name, origin := range wanted {
		if n, ok := m.Names[name]; !ok || n.Paused != origin.Paused {
			return false
		}
	}
	return true
}

// clone is for those that keep a mark beyond its use here.
func (m JournalMark) clone() JournalMark {
	m.Names = maps.Clone(m.Names)
	return m
}
