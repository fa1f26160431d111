package architecture

import (
	"bytes"
	"go/ast"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// root is the root of the repository, seen from this package's folder.
const root = "../.."

// maxLines is where a file stops being about one thing.
const maxLines = 600

// vague are names that say nothing about what a package owns, so everything
// ends up in them.
var vague = []string{
	"common", "errors", "helper", "helpers", "interfaces", "misc", "models", "shared", "types", "util", "utils",
}

// source is one hand-written Go file.
type source struct {
	path  string // relative to the root
	file  *ast.File
	set   *token.FileSet
	lines int
}

func (s source) test() bool { return strings.HasSuffix(s.path, "_test.go") }

// position returns where a node is, for messages.
func (s source) position(n ast.Node) string {
	p := s.set.Position(n.Pos())
	p.Filename = s.path
	return p.String()
}

func TestPackageHasOneDoc(t *testing.T) {
	t.Parallel()
	docs := map[string][]string{}
	for _, s := range sources(t) {
		dir := filepath.Dir(s.path)
		if s.test() || tagged(s.file) {
			continue
		}
		files := docs[dir]
		if s.file.Doc != nil {
			files = append(files, s.path)
		}
		docs[dir] = files // also when empty: a package without any comment counts
	}
	for dir, files := range docs {
		program := strings.HasPrefix(dir, "cmd"+string(filepath.Separator)) || strings.HasPrefix(dir, "test"+string(filepath.Separator))
		switch {
		case len(files) == 0 && generated(t, dir):
		case len(files) != 1:
			t.Errorf("%s has %d package comments %v, want one: what the package owns is said in one place", dir, len(files), files)
		case filepath.Base(files[0]) != "doc.go" && (!program || filepath.Base(files[0]) != "main.go"):
			t.Errorf("%s has its package comment in %s, want doc.go: that is where a reader looks", dir, files[0])
		}
	}
}

func TestPackageNames(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		if name := strings.TrimSuffix(s.file.Name.Name, "_test"); slices.Contains(vague, name) {
			t.Errorf("%s: package %s: the name says nothing about what it owns", s.path, name)
		}
	}
}

func TestFileLength(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		if s.lines > maxLines {
			t.Errorf("%s has %d lines, want at most %d: it is about more than one thing", s.path, s.lines, maxLines)
		}
	}
}

func TestNoInit(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				t.Errorf("%s: func init: what happens at start is decided in main, where it can be seen and fail", s.position(f))
			}
		}
	}
}

// TestNoSkippedTest: a test that skips when something is missing hides that
// `make test` did not install it.
func TestNoSkippedTest(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		if !s.test() {
			continue
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || strings.HasPrefix(f.Name.Name, "Fuzz") { // there it means: this input says nothing
				continue
			}
			ast.Inspect(f, func(n ast.Node) bool {
				if sel, ok := n.(*ast.SelectorExpr); ok && slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, sel.Sel.Name) {
					if x, ok := sel.X.(*ast.Ident); ok && slices.Contains([]string{"t", "b", "tb"}, x.Name) {
						t.Errorf("%s: skipped test: fail instead, and say what is missing", s.position(n))
					}
				}
				return true
			})
		}
	}
}

func TestModuleFile(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		switch {
		case words[0] == "replace":
			t.Errorf("go.mod: %s: a replaced module breaks everybody who imports pkg/", strings.TrimSpace(line))
		case words[0] == "tool":
			t.Errorf("go.mod: %s: tools are pinned in test/tools, where they cannot move our own dependencies", strings.TrimSpace(line))
		case strings.Contains(line, "redhatinsights/yggdrasil"):
			t.Errorf("go.mod: %s: it is GPL-3.0", strings.TrimSpace(line))
		}
	}
}

// sources parses every hand-written Go file of the module.
func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if nested(path) || path != root && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "testdata") {
				return filepath.SkipDir
			}
			return nil
		}
		if filepath.Ext(path) != ".go" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		s := source{set: token.NewFileSet(), lines: bytes.Count(text, []byte("\n"))}
		if s.file, err = parser.ParseFile(s.set, path, text, parser.ParseComments|parser.SkipObjectResolution); err != nil {
			return err
		}
		if s.path, err = filepath.Rel(root, path); err != nil {
			return err
		}
		if !ast.IsGenerated(s.file) {
			all = append(all, s)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("read source tree: %v", err)
	}
	if len(all) == 0 {
		t.Fatal("the source tree is empty")
	}
	return all
}

// nested reports whether a folder is the root of a module of its own.
func nested(dir string) bool {
	if dir == root {
		return false
	}
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

// generated reports whether a folder of the repository holds generated Go code.
func generated(t *testing.T, dir string) bool {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(root, dir, "*.pb.go"))
	if err != nil {
		t.Fatal(err)
	}
	return len(found) > 0
}

// tagged reports whether a file is built only with a build tag of ours.
func tagged(file *ast.File) bool {
	for _, group := range file.Comments {
		for _, c := range group.List {
			if c.Pos() < file.Package && constraint.IsGoBuild(c.Text) {
				return true
			}
		}
	}
	return false
}
