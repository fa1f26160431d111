//go:build bench

package observe_test

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/bench/fleet"
)

const (
	ours    = "flotta-agent"
	patient = 2 * time.Minute
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits for something that is about to happen.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patient); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patient, what)
		}
	}
}

// engine builds the agent's part as a program of its own.
func engine(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "engine")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-tags", "grpcnotrace", "-o", path, "./engine")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build engine: %v\n%s", err, out)
	}
	return path
}

// program is a contender that runs.
type program struct {
	*testing.T
	fleet.Process
	dir   string // what it keeps
	cmd   *exec.Cmd
	said  bytes.Buffer
	in    io.WriteCloser
	ended bool
}

func start(t *testing.T, name, dir, path string, args ...string) *program {
	t.Helper()
	p := &program{T: t, dir: dir, cmd: exec.Command(path, args...)}
	p.cmd.Stdout, p.cmd.Stderr = &p.said, &p.said
	var err error
	p.in, err = p.cmd.StdinPipe()
	must(t, err)
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s, of the Debian package of that name: %v", name, err)
	}
	p.Process = fleet.Process{Name: name, PID: p.cmd.Process.Pid}
	t.Cleanup(func() {
		p.stop()
		if said := p.said.Bytes(); t.Failed() && len(said) > 0 {
			t.Logf("%s says:\n%s", name, said[max(0, len(said)-4000):])
		}
	})
	return p
}

// stop ends it, by force if it does not end itself.
func (p *program) stop() {
	if p.ended {
		return
	}
	p.ended = true
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	late := time.AfterFunc(20*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer late.Stop()
	_ = p.cmd.Wait()
}

// usage is what a program has used since it began.
type usage struct {
	at       time.Time
	cpu      time.Duration
	written  int64 // bytes to disks, by pages made dirty and not given up
	resident int64
	peak     int64 // of resident, since the last call of calm
	kept     int64 // bytes of its files
}

func (p *program) now() usage {
	p.Helper()
	u := usage{at: time.Now(), peak: p.number("status", "VmHWM:") << 10}
	var err error
	u.cpu, err = p.CPU()
	must(p.T, err)
	u.resident, err = p.Resident()
	must(p.T, err)
	u.written = p.number("io", "write_bytes:") - p.number("io", "cancelled_write_bytes:")
	u.kept = size(p.T, p.dir)
	return u
}

// calm makes the peak that of from now on.
func (p *program) calm() {
	p.Helper()
	must(p.T, os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.PID), []byte("5"), 0))
}

func (p *program) number(file, key string) int64 {
	p.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.PID, file))
	must(p.T, err)
	for line := range strings.Lines(string(raw)) {
		if rest, found := strings.CutPrefix(line, key); found {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			must(p.T, err)
			return n
		}
	}
	p.Fatalf("/proc/%d/%s has no %s", p.PID, file, key)
	return 0
}

// size is the space that the files of a folder take.
func size(t *testing.T, dir string) (n int64) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil // they come and go
		}
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if stat, ok := sys(info); err == nil && ok && !d.IsDir() {
			n += stat.Blocks * 512
		}
		return nil
	}))
	return n
}

func sys(info os.FileInfo) (*syscall.Stat_t, bool) {
	if info == nil {
		return nil, false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return stat, ok
}

// report is a table: a row for each figure, a column for each contender. Of
// several rounds it has the median.
type report struct {
	who, rows []string
	format    map[string]func(float64) string
	values    map[string]map[string][]float64
}

func (r *report) add(who, what string, format func(float64) string, value float64) {
	if r.values == nil {
		r.values, r.format = map[string]map[string][]float64{}, map[string]func(float64) string{}
	}
	if !slices.Contains(r.who, who) {
		r.who = append(r.who, who)
	}
	if r.values[what] == nil {
		r.rows, r.values[what], r.format[what] = append(r.rows, what), map[string][]float64{}, format
	}
	r.values[what][who] = append(r.values[what][who], value)
}

// addFunc adds a figure and says it.
type addFunc func(what string, format func(float64) string, value float64)

// of adds figures of one contender in one phase.
func (r *report) of(t *testing.T, who, phase string) addFunc {
	return func(what string, format func(float64) string, value float64) {
		t.Helper()
		t.Logf("%s: %s: %s", phase, what, format(value))
		r.add(who, phase+": "+what, format, value)
	}
}

// print writes the table as Markdown, and what each round gave.
func (r *report) print(t *testing.T) {
	t.Helper()
	var text strings.Builder
	fmt.Fprintf(&text, "| | %s |\n|%s\n", strings.Join(r.who, " | "), strings.Repeat("---|", len(r.who)+1))
	for _, row := range r.rows {
		fmt.Fprintf(&text, "| %s |", row)
		for _, who := range r.who {
			all := r.values[row][who]
			if len(all) == 0 {
				text.WriteString(" – |")
				continue
			}
			fmt.Fprintf(&text, " %s", r.format[row](median(all)))
			if len(all) > 1 {
				fmt.Fprintf(&text, " (%s to %s)", r.format[row](slices.Min(all)), r.format[row](slices.Max(all)))
			}
			text.WriteString(" |")
		}
		text.WriteByte('\n')
	}
	t.Logf("figures:\n%s", text.String())
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[len(sorted)/2] + sorted[(len(sorted)-1)/2]) / 2
}

func count(v float64) string     { return fmt.Sprintf("%.0f", v) }
func megabytes(v float64) string { return fmt.Sprintf("%.1f MB", v/1e6) }
func seconds(v float64) string   { return fmt.Sprintf("%.2f s", v) }
func factor(v float64) string    { return fmt.Sprintf("%.2f", v) }
