//go:build integration

package scrape_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/metrics/scrape"
	"github.com/project-flotta/flotta-agent/internal/netns"
)

type oraclePoint struct {
	Labels map[string]string
	Bits   uint64
	Timed  bool
	Millis int64
}

type oracle struct {
	in  io.Writer
	out *json.Decoder
}

// newOracle builds and starts the parser of Prometheus.
func newOracle(t *testing.T) *oracle {
	t.Helper()
	program := filepath.Join(t.TempDir(), "oracle")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".")
	build.Dir = filepath.Join("testdata", "oracle")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the oracle: %v: %s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), program)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	return &oracle{in: in, out: json.NewDecoder(bufio.NewReader(out))}
}

func (o *oracle) parse(t *testing.T, page string, format scrape.Format) ([]oraclePoint, string) {
	t.Helper()
	question := struct {
		Open bool   `json:"open"`
		Page []byte `json:"page"`
	}{format == scrape.OpenMetrics, []byte(page)}
	if err := json.NewEncoder(o.in).Encode(question); err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Error  string
		Points []oraclePoint
	}
	if err := o.out.Decode(&answer); err != nil {
		t.Fatal(err)
	}
	for i := range answer.Points {
		// It counts blanks before a name to the name, and rewrites the numbers in
		// le and quantile where a comment said that it is a histogram.
		l := answer.Points[i].Labels
		l["__name__"] = strings.TrimLeft(l["__name__"], " \t")
		for _, name := range []string{"le", "quantile"} {
			if l[name] != "" {
				l[name] = "a number"
			}
		}
	}
	return answer.Points, answer.Error
}

func ours(page string, format scrape.Format) ([]oraclePoint, error) {
	var points []oraclePoint
	err := scrape.Parse(page, format, scrape.Limits{}, func(p scrape.Point) error {
		one := oraclePoint{Labels: map[string]string{}, Bits: math.Float64bits(p.Value), Timed: p.Timed, Millis: p.Millis}
		for _, l := range p.Labels {
			if one.Labels[l.Name] = l.Value; l.Name == "le" || l.Name == "quantile" {
				one.Labels[l.Name] = "a number"
			}
		}
		points = append(points, one)
		return nil
	})
	return points, err
}

var quotedComment = regexp.MustCompile(`#[ \t]+[A-Z]+[ \t]+"`)

// TestLikePrometheus compares with the parser of Prometheus: what both take is
// the same to the bit, and they take and refuse the same, but for what is named
// here.
func TestLikePrometheus(t *testing.T) {
	o := newOracle(t)
	random := rand.New(rand.NewPCG(1, 2))
	for format, pages := range map[scrape.Format][]string{scrape.Classic: classicPages, scrape.OpenMetrics: openPages} {
		var agreed, refused int
		for i := range 20_000 {
			page := pages[i%len(pages)]
			if i >= len(pages) {
				page = mutate(random, pages[random.IntN(right)], pages)
			}
			if strings.ContainsRune(page, 0) || quotedComment.MatchString(page) {
				continue // the end of a page for Prometheus, and a name in quotes
			}
			theirs, theirErr := o.parse(t, page, format)
			got, err := ours(page, format)
			switch {
			case err == nil && theirErr == "":
				agreed++
				if diff := cmp.Diff(theirs, got); diff != "" {
					t.Errorf("format %d, page %q (-prometheus +ours):\n%s", format, page, diff)
				}
			case err != nil && theirErr != "":
				refused++
			case err != nil && lenient(err), err == nil && aboutComments(theirErr):
			default:
				t.Errorf("format %d, page %q: %v, prometheus: %s", format, page, err, theirErr)
			}
		}
		if t.Logf("format %d: %d pages taken, %d refused", format, agreed, refused); agreed < 1000 || refused < 1000 {
			t.Errorf("the pages are too much of one kind")
		}
	}
}

// lenient reports whether an error is about what Prometheus takes though its
// formats forbid it, or about names in quotes, which we do not ask for.
func lenient(err error) bool {
	for _, words := range []string{
		"is where a comma or a closing brace is expected", // it needs no comma
		"the closing quote is missing",                    // a value may go on in the next line
		"no number of seconds",                            // it lets them overflow
	} {
		if strings.Contains(err.Error(), words) {
			return true
		}
	}
	return strings.Contains(err.Error(), `\"`) && strings.Contains(err.Error(), "is where the name of a")
}

// aboutComments reports whether Prometheus minds what we do not read: it refuses
// a page for a type that it does not know.
func aboutComments(theirErr string) bool {
	for _, words := range []string{"HELP", "TYPE", "UNIT", "metric type", "help text", "unit"} {
		if strings.Contains(theirErr, words) {
			return true
		}
	}
	return false
}

// room starts a program in a network of its own and returns a client that gets
// there.
func room(t *testing.T, command string) *http.Client {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "unshare", "--net", "sh", "-c", "ip link set lo up && exec "+command)
	cmd.Dir = t.TempDir()
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(out.String())
		}
	})
	here, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		there, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid))
		if err == nil && there != here {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no network of its own: %v", err)
		}
	}
	process, err := netns.Find(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Transport: &http.Transport{DialContext: process.DialContext, DisableKeepAlives: true}}
}

// TestRealPages reads a node exporter and a Prometheus as they are, and finds in
// them what Prometheus's own parser finds.
func TestRealPages(t *testing.T) {
	o := newOracle(t)
	for address, c := range map[string]struct {
		command string
		least   int // samples
	}{
		"http://127.0.0.1:9100/metrics": {"prometheus-node-exporter", 200},
		"http://127.0.0.1:9090/metrics": {"prometheus --config.file=/dev/null --storage.tsdb.path=data", 100},
	} {
		client := room(t, c.command)
		var page scrape.Page
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			var err error
			if page, err = scrape.Fetch(t.Context(), client, address, scrape.Limits{}); err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %v: run test/setup/install.sh if it is not installed", c.command, err)
			}
		}
		theirs, theirErr := o.parse(t, page.Text, page.Format)
		got, err := ours(page.Text, page.Format)
		if err != nil || theirErr != "" || len(got) < c.least {
			t.Errorf("%s: %d samples, %v, prometheus: %s", c.command, len(got), err, theirErr)
		}
		if diff := cmp.Diff(theirs, got); diff != "" {
			t.Errorf("%s (-prometheus +ours):\n%s", c.command, diff)
		}
		s := newScraper(t, scrape.Config{Source: func(ctx context.Context) (scrape.Page, error) {
			return scrape.Fetch(ctx, client, address, scrape.Limits{})
		}})
		for range 2 {
			if r := s.Scrape(t.Context(), time.Now()); r.Err != nil || r.Kept < c.least {
				t.Errorf("%s: %d samples, %v", c.command, r.Kept, r.Err)
			}
		}
	}
}

// mutate changes a few bytes of a page, or puts a piece of another one into it.
func mutate(random *rand.Rand, page string, pages []string) string {
	const alphabet = "\n \t\"\\{},=#ab1.-+eE_:\xffüNI"
	b := []byte(page)
	for range 1 + random.IntN(3) {
		at := random.IntN(len(b) + 1)
		switch random.IntN(4) {
		case 0:
			b = append(b[:at:at], append([]byte{alphabet[random.IntN(len(alphabet))]}, b[at:]...)...)
		case 1:
			b = append(b[:at:at], b[min(len(b), at+1+random.IntN(3)):]...)
		case 2:
			if at < len(b) {
				b[at] = alphabet[random.IntN(len(alphabet))]
			}
		default:
			other := pages[random.IntN(len(pages))]
			from := random.IntN(len(other) + 1)
			b = append(b[:at:at], append([]byte(other[from:min(len(other), from+random.IntN(12))]), b[at:]...)...)
		}
	}
	return strings.Clone(string(b))
}
