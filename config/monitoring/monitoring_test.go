package monitoring

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v2"
)

// panel is what a dashboard shows in one place.
type panel struct {
	ID      int    `json:"id"`
	Type    string `json:"type"`
	Title   string `json:"title"`
	GridPos struct {
		X, Y, W, H int
	} `json:"gridPos"`
	Datasource map[string]string `json:"datasource"`
	Targets    []struct {
		Expr       string            `json:"expr"`
		Datasource map[string]string `json:"datasource"`
	} `json:"targets"`
}

type dashboard struct {
	UID        string  `json:"uid"`
	Title      string  `json:"title"`
	Panels     []panel `json:"panels"`
	Templating struct {
		List []struct {
			Name  string `json:"name"`
			Query any    `json:"query"`
		} `json:"list"`
	} `json:"templating"`
}

func dashboards(t *testing.T) map[string]dashboard {
	t.Helper()
	paths, err := filepath.Glob("*.json")
	if err != nil || len(paths) < 2 {
		t.Fatalf("dashboards: %v, %v", paths, err)
	}
	out := map[string]dashboard{}
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var d dashboard
		if err := json.Unmarshal(raw, &d); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		out[path] = d
	}
	return out
}

// expressions returns all of the dashboards and the rules, as Prometheus would be
// asked, by where they are.
func expressions(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for path, d := range dashboards(t) {
		for _, p := range d.Panels {
			for i, target := range p.Targets {
				out[fmt.Sprintf("%s: %s %d", path, p.Title, i)] = strings.NewReplacer("$device", "edge-7", "$__rate_interval", "5m").Replace(target.Expr)
			}
		}
	}
	raw, err := os.ReadFile("alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	if err := yaml.Unmarshal(raw, &rules); err != nil {
		t.Fatal(err)
	}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			out["alerts.yaml: "+r.Alert] = r.Expr
		}
	}
	if len(out) < 40 {
		t.Fatalf("only %d expressions", len(out))
	}
	return out
}

var metricName = regexp.MustCompile(`^flotta_[a-z0-9_]+[a-z0-9]$`)

// exposed returns the names of all metrics in the programs' own source.
func exposed(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	err := filepath.WalkDir("../../internal", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if text, ok := n.(*ast.BasicLit); ok && text.Kind == token.STRING {
				if name, err := strconv.Unquote(text.Value); err == nil && metricName.MatchString(name) {
					names[name] = true
				}
			}
			return true
		})
		return nil
	})
	if err != nil || len(names) < 30 {
		t.Fatalf("%d names, %v", len(names), err)
	}
	return names
}

var used = regexp.MustCompile(`\bflotta_[a-z0-9_]+`)

// Every metric that is asked for is one that a program here exposes.
func TestEveryMetricExists(t *testing.T) {
	t.Parallel()
	names := exposed(t)
	for where, expr := range expressions(t) {
		all := used.FindAllString(expr, -1)
		if len(all) == 0 {
			t.Errorf("%s asks for none of our metrics: %s", where, expr)
		}
		for _, name := range all {
			plain := name
			for _, suffix := range []string{"_bucket", "_count", "_sum"} {
				if base, ok := strings.CutSuffix(name, suffix); ok && names[base] {
					plain = base
				}
			}
			if !names[plain] {
				t.Errorf("%s: nobody exposes %s", where, name)
			}
		}
	}
}

// Dashboards can be imported beside others: their panels ask the data source that
// is chosen, lie beside each other, and have ids of their own.
func TestDashboards(t *testing.T) {
	t.Parallel()
	uids := map[string]bool{}
	for path, d := range dashboards(t) {
		if d.UID == "" || d.Title == "" || uids[d.UID] {
			t.Errorf("%s: uid %q, title %q", path, d.UID, d.Title)
		}
		uids[d.UID] = true
		variables := map[string]bool{"__rate_interval": true}
		for _, v := range d.Templating.List {
			variables[v.Name] = true
		}
		ids := map[int]bool{}
		taken := map[[2]int]string{}
		for _, p := range d.Panels {
			if p.ID == 0 || ids[p.ID] || p.Title == "" {
				t.Errorf("%s: panel %q has the id %d", path, p.Title, p.ID)
			}
			ids[p.ID] = true
			for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
				for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
					if other, ok := taken[[2]int{x, y}]; ok || x >= 24 {
						t.Errorf("%s: %q lies over %q at %d, %d", path, p.Title, other, x, y)
					}
					taken[[2]int{x, y}] = p.Title
				}
			}
			if p.Type != "row" && (len(p.Targets) == 0 || p.Datasource["uid"] != "${datasource}") {
				t.Errorf("%s: %q has %d targets of %v", path, p.Title, len(p.Targets), p.Datasource)
			}
			for _, target := range p.Targets {
				if target.Datasource["uid"] != "${datasource}" {
					t.Errorf("%s: %q asks %v", path, p.Title, target.Datasource)
				}
				for _, m := range regexp.MustCompile(`\$(\w+)`).FindAllStringSubmatch(target.Expr, -1) {
					if !variables[m[1]] {
						t.Errorf("%s: %q: there is no variable %s", path, p.Title, m[0])
					}
				}
			}
		}
	}
}
