package file

import (
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/project-flotta/flotta-agent/internal/durable"
)

// writeProblems tells the log of problems that came and went, and writes the
// list of those there are. It is called by the goroutine that scans.
func (b *Backend) writeProblems() {
	b.mu.RLock()
	now := slices.Clone(b.catalog.problems)
	for path, message := range b.state {
		now = append(now, Problem{File: path, Message: message})
	}
	if b.scanErr != nil {
		now = append(now, Problem{File: manifestsDir, Message: b.scanErr.Error()})
	}
	before := b.problems
	b.mu.RUnlock()
	slices.SortStableFunc(now, func(x, y Problem) int { return strings.Compare(x.text(), y.text()) })
	if before != nil && slices.EqualFunc(now, before, Problem.same) {
		return
	}
	for _, p := range now {
		if !slices.ContainsFunc(before, p.same) {
			b.log.Warn("file not usable as it is", "path", p.File, "line", p.Line, "object", p.Object, "reason", p.Message)
		}
	}
	for _, p := range before {
		if !slices.ContainsFunc(now, func(o Problem) bool { return o.File == p.File }) {
			b.log.Info("file usable again or gone", "path", p.File)
		}
	}
	if now == nil {
		now = []Problem{}
	}
	data, err := yaml.Marshal(map[string][]Problem{"problems": now})
	if err == nil {
		err = durable.WriteFile(filepath.Join(b.cfg.Dir, statusDir, problemsFile), data, filePerm)
	}
	if err != nil {
		b.log.Warn("list of problems not written", "err", err)
		return
	}
	b.mu.Lock()
	b.problems = now
	b.mu.Unlock()
}
