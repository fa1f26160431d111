//go:build bench

package fleet_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// profiler is compiled into the server when it is to be profiled, and only then:
// SIGUSR1 starts a profile of the processor, SIGUSR2 ends it.
const profiler = `package main

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"syscall"
)

func init() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGUSR2)
	go func() {
		var out *os.File
		for n := 0; ; {
			if <-signals == syscall.SIGUSR1 {
				n++
				out, _ = os.Create(filepath.Join(os.Getenv("FLEET_PROFILE"), fmt.Sprintf("%d-%d.cpu", os.Getpid(), n)))
				_ = pprof.StartCPUProfile(out)
				continue
			}
			pprof.StopCPUProfile()
			_ = out.Close()
			heap, _ := os.Create(filepath.Join(os.Getenv("FLEET_PROFILE"), fmt.Sprintf("%d-%d.heap", os.Getpid(), n)))
			_ = pprof.WriteHeapProfile(heap)
			_ = heap.Close()
		}
	}()
}
`

// profiledBinary builds the server with the profiler laid over its sources.
func (r *rig) profiledBinary() string {
	r.Helper()
	must(r.T, os.MkdirAll(r.settings.profile, 0o750))
	dir := r.TempDir()
	source, overlay, binary := filepath.Join(dir, "profiler.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "flotta-edge-api")
	must(r.T, os.WriteFile(source, []byte(profiler), 0o600))
	text, err := json.Marshal(map[string]map[string]string{
		"Replace": {filepath.Join(r.root, "cmd/flotta-edge-api/profiler.go"): source},
	})
	must(r.T, err)
	must(r.T, os.WriteFile(overlay, text, 0o600))
	cmd := exec.CommandContext(r.Context(), "go", "build", "-overlay", overlay, "-o", binary, "./cmd/flotta-edge-api")
	cmd.Dir = r.root
	if out, err := cmd.CombinedOutput(); err != nil {
		r.Fatalf("build the server with a profiler: %v\n%s", err, out)
	}
	return binary
}

// profile profiles the first replica until what it returns is called.
func (r *rig) profile(what string) (stop func()) {
	r.Helper()
	if r.settings.profile == "" {
		return func() {}
	}
	r.profiles++
	pid := r.apis[0].process.PID
	r.Logf("profile %d of process %d: %s", r.profiles, pid, what)
	must(r.T, syscall.Kill(pid, syscall.SIGUSR1))
	return func() {
		must(r.T, syscall.Kill(pid, syscall.SIGUSR2))
		time.Sleep(100 * time.Millisecond) // it writes files
	}
}
