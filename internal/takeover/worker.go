package takeover

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"golang.org/x/sys/unix"

	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Flags and errors of system calls.
const (
	noFollow  = unix.O_NOFOLLOW | unix.O_NONBLOCK // a pipe is refused, not waited for
	errNotDir = unix.ENOTDIR
)

const (
	// asideSuffix is added to the name of the file of a worker.
	asideSuffix = ".flotta-v0.2"
	// yggd ends a worker whose file is gone. After politeWait it is ended here, and
	// after endWait that is given up.
	politeWait = 5 * time.Second
	endWait    = 30 * time.Second
	endPoll    = 100 * time.Millisecond
)

// programs are the names of flotta v0.2's program.
func programs() []string { return []string{"device-worker", "device-worker-race"} }

// worker is a file that makes yggd run flotta v0.2.
type worker struct {
	path string
	raw  []byte
	exec string // the program
}

// findWorkers returns the files of yggd's workers that run flotta v0.2.
func (c Config) findWorkers() ([]worker, error) {
	var out []worker
	for _, dir := range c.WorkerDirs {
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNotDir) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			raw, err := readBounded(path, maxSmallBytes)
			if err != nil {
				continue // a link or a folder is nobody's whom we know
			}
			if program := workerProgram(raw); program != "" {
				out = append(out, worker{path: path, raw: raw, exec: program})
			}
		}
	}
	return out, nil
}

// workerProgram returns the program of flotta v0.2 that the file of a worker names, or
// "".
func workerProgram(raw []byte) string {
	var w struct {
		Exec string `toml:"exec"`
	}
	if toml.Unmarshal(raw, &w) != nil {
		return ""
	}
	command := strings.Fields(w.Exec)
	if len(command) == 0 || !filepath.IsAbs(command[0]) || !slices.Contains(programs(), filepath.Base(command[0])) {
		return ""
	}
	return filepath.Clean(command[0])
}

// endWorkers sets the files of the workers aside and waits until what they ran has
// ended.
func (t *Takeover) endWorkers(ctx context.Context, workers []worker) error {
	for _, w := range workers {
		if err := t.setAside(w); err != nil {
			return err
		}
	}
	programs := t.now().Programs
	if len(programs) == 0 {
		return nil
	}
	for _, program := range programs {
		if err := t.ended(ctx, program); err != nil {
			return err
		}
	}
	return t.update(func(r *record) { r.Programs = nil })
}

// setAside keeps the file of a worker in another folder and removes it from that of
// yggd. It is removed and not moved: that is what yggd notices, which then ends the
// process.
func (t *Takeover) setAside(w worker) error {
	if err := os.MkdirAll(t.cfg.AsideDir, 0o755); err != nil {
		return err
	}
	aside := filepath.Join(t.cfg.AsideDir, filepath.Base(w.path)+asideSuffix)
	if err := durable.WriteFile(aside, w.raw, 0o644); err != nil {
		return err
	}
	t.step("takeover-worker-kept")
	if err := os.Remove(w.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := durable.SyncDir(filepath.Dir(w.path)); err != nil {
		return err
	}
	t.step("takeover-worker-removed")
	t.tell(protocol.EventInfoType, reasonWorker, "the worker of flotta v0.2 is not started any more; its file "+w.path+" is now "+aside)
	return nil
}

// ended waits until no process runs the program, and ends those that stay.
func (t *Takeover) ended(ctx context.Context, program string) error {
	began := time.Now()
	tick := time.NewTicker(endPoll)
	defer tick.Stop()
	for {
		running := t.cfg.running(program)
		waited := time.Since(began)
		switch {
		case len(running) == 0:
			return nil
		case waited > endWait:
			return fmt.Errorf("%s still runs (PID %d): stop it, and see to it that nothing starts it again", program, running[0])
		case waited > politeWait:
			for _, pid := range running {
				_ = unix.Kill(pid, unix.SIGKILL) // it writes nothing in place that we rely on
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// running returns the processes that run the program, by its path, which may have been
// removed since. A process that already ended and was not yet waited for has none.
func (c Config) running(program string) []int {
	entries, _ := os.ReadDir(c.ProcDir)
	var out []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		exe, err := os.Readlink(filepath.Join(c.ProcDir, e.Name(), "exe"))
		if err == nil && strings.TrimSuffix(exe, " (deleted)") == program {
			out = append(out, pid)
		}
	}
	return out
}
