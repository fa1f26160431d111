package datasync

import (
	"slices"
	"sync"
)

// maxMarks bounds the memory for marks of one route; beyond it everything is
// marked, and a walk finds what changed.
const maxMarks = 65536

// marks are the paths of one route that may differ from what was recorded: files,
// and folders of which nothing is known. A path stays marked until somebody
// looked at it after the mark and found nothing left to do. Marks are not kept
// over a restart, which begins with a walk. They are safe for concurrent use.
type marks struct {
	most int

	mu    sync.Mutex
	now   uint64            // counts what was marked
	begun uint64            // when the newest cycle began
	all   uint64            // when everything was marked; 0: it is not
	paths map[string]uint64 // when each was marked last
	high  int               // most paths since the map was made
}

func newMarks() *marks {
	return &marks{most: maxMarks, now: 1, all: 1, paths: map[string]uint64{}}
}

// touch marks a path. It allocates nothing when the path is marked already: a log
// that is written all the time is.
func (m *marks) touch(path []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now++
	if when, ok := m.paths[string(path)]; ok {
		if when <= m.begun { // else no cycle can take it for looked at
			m.paths[string(path)] = m.now
		}
		return
	}
	m.insert(string(path), m.now)
}

// insert adds a path; m.mu is held.
func (m *marks) insert(path string, when uint64) {
	if len(m.paths) >= m.most {
		m.now++
		m.all = m.now
		m.paths, m.high = map[string]uint64{}, 0
		return
	}
	m.paths[path] = when
	m.high = max(m.high, len(m.paths))
}

// touchAll marks everything.
func (m *marks) touchAll() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now++
	m.all = m.now
}

// everything reports whether everything is marked.
func (m *marks) everything() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.all != 0
}

// count returns how many paths are marked, as far as they are known.
func (m *marks) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.paths)
}

// begin returns what is marked, sorted, for a cycle that will look at it. The
// cycle answers with the moment: a mark that is newer stays.
func (m *marks) begin() (paths []string, moment uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.paths) > 0 {
		paths = make([]string, 0, len(m.paths))
		for path := range m.paths {
			paths = append(paths, path)
		}
		slices.Sort(paths)
	}
	m.begun = m.now
	return paths, m.now
}

// beginWalk is begin for a cycle that will look at everything. Everything stays
// marked until the walk ends well.
func (m *marks) beginWalk() (moment uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now++
	m.all, m.begun = m.now, m.now
	m.paths, m.high = map[string]uint64{}, 0
	return m.now
}

// walked says that everything was looked at; what has to be looked at again is
// held.
func (m *marks) walked(moment uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.all <= moment {
		m.all = 0
	}
}

// hold keeps a path marked that was looked at.
func (m *marks) hold(path string, moment uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.paths[path]; !ok {
		m.insert(path, moment)
	}
}

// done removes the mark of a path, unless it was marked after the moment.
func (m *marks) done(path string, moment uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if when, ok := m.paths[path]; !ok || when > moment {
		return
	}
	delete(m.paths, path)
	if len(m.paths) == 0 && m.high > 1024 {
		m.paths, m.high = map[string]uint64{}, 0 // a map does not shrink
	}
}
