package adapter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/project-flotta/flotta-agent/internal/podman"
	"github.com/project-flotta/flotta-agent/internal/secret"
	"github.com/project-flotta/flotta-agent/internal/workload"
)

// growthPause is the time between two looks at what a pull has downloaded.
const growthPause = 2 * time.Second

// PullImage pulls the image. While a layer is downloaded Podman says nothing, for
// hours over a slow line: the growth of its temporary files is reported instead.
func (p *Pods) PullImage(ctx context.Context, reference string, auth secret.Value, progress func(string)) error {
	var one sync.Mutex
	tell := func(line string) {
		one.Lock()
		defer one.Unlock()
		progress(line)
	}
	store, err := p.where(ctx)
	if err != nil {
		return err
	}
	g := p.beginGrowth(store.TemporaryDir)
	defer p.endGrowth(g)
	watchCtx, stop := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	watcher.Go(func() { p.watchGrowth(watchCtx, g, tell) })
	defer watcher.Wait()
	defer stop()
	_, err = p.client.PullImage(ctx, podman.Pull{Reference: reference, AuthFile: auth.Reveal(), Progress: tell})
	if errors.Is(err, podman.ErrNoSpace) {
		return &workload.NoSpaceError{Dir: fullDir(err, store), Err: err}
	}
	return err
}

// fullDir returns the folder whose file system was full. Afterwards there is room
// again, because Podman has thrown away what it had downloaded: only its message
// tells whether that is a file system of its own.
func fullDir(err error, store podman.Store) string {
	if store.TemporaryDir == "" || !strings.Contains(err.Error(), store.TemporaryDir+"/") {
		return store.Root
	}
	var images, temporary syscall.Stat_t
	if syscall.Stat(store.Root, &images) == nil && syscall.Stat(store.TemporaryDir, &temporary) == nil &&
		images.Dev == temporary.Dev {
		return store.Root
	}
	return store.TemporaryDir
}

// growth is what one pull does to the disk. Its fields but own belong to the
// goroutine that watches it.
type growth struct {
	dir      string
	before   map[string]bool // folders that were there when the pull began
	own      string          // the folder that is surely this pull's; under Pods.mu
	sizes    map[string]int64
	unpacked map[string]uint64 // by process
}

func (p *Pods) beginGrowth(dir string) *growth {
	g := &growth{dir: dir, before: map[string]bool{}, sizes: map[string]int64{}, unpacked: map[string]uint64{}}
	for _, name := range downloads(dir) {
		g.before[name] = true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.growths[g] = true
	return g
}

func (p *Pods) endGrowth(g *growth) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.growths, g)
}

// watchGrowth reports as long as something grows. Where nothing can be seen it
// reports so again and again: a pull must not be taken for dead because of it.
func (p *Pods) watchGrowth(ctx context.Context, g *growth, tell func(string)) {
	tick := time.NewTicker(growthPause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		mine := p.claim(g, downloads(g.dir))
		switch size, grown, err := g.measure(mine); {
		case err != nil:
			tell("downloading")
		case grown:
			tell("downloaded " + megabytes(size))
		case g.unpacks():
			tell("unpacking")
		}
	}
}

// claim returns those folders that may be the pull's: none that was there before,
// and none that is surely another's.
func (p *Pods) claim(g *growth, names []string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	foreign, searching := map[string]bool{}, 0
	for other := range p.growths {
		if other != g && other.own != "" {
			foreign[other.own] = true
		}
		if other.own == "" {
			searching++
		}
	}
	var mine []string
	there := false
	for _, name := range names {
		if !g.before[name] && !foreign[name] {
			mine = append(mine, name)
			there = there || name == g.own
		}
	}
	if !there {
		g.own = ""
	}
	if g.own == "" && len(mine) == 1 && searching == 1 {
		g.own = mine[0]
	}
	return mine
}

// measure adds up what is in the folders and says whether any became larger.
func (g *growth) measure(names []string) (size int64, grown bool, err error) {
	if _, err := os.Stat(g.dir); err != nil || g.dir == "" {
		return 0, false, errors.Join(err, errors.New("no folder"))
	}
	for _, name := range names {
		n, err := folderSize(filepath.Join(g.dir, name))
		if errors.Is(err, os.ErrNotExist) {
			continue // the pull just ended
		}
		if err != nil {
			return 0, false, err
		}
		grown = grown || n > g.sizes[name]
		g.sizes[name] = n
		size += n
	}
	return size, grown, nil
}

// downloads returns the folders that pulls download into.
func downloads(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		rest, ok := strings.CutPrefix(strings.TrimPrefix(e.Name(), "container_images_"), "storage")
		if _, err := strconv.ParseUint(rest, 10, 64); ok && err == nil && e.IsDir() {
			out = append(out, e.Name())
		}
	}
	return out
}

func folderSize(dir string) (int64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	var size int64
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, err
		}
		size += info.Size()
	}
	return size, nil
}

// unpacks reports whether a process of Podman's that unpacks a layer has done
// something since the last time.
func (g *growth) unpacks() bool {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return false
	}
	now, busy := map[string]uint64{}, false
	for _, e := range entries {
		if e.Name()[0] < '0' || e.Name()[0] > '9' {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		// Podman starts itself under these names: storage-untar, storage-applyLayer.
		if err != nil || !strings.HasPrefix(string(line), "storage-") {
			continue
		}
		done := readBytes(e.Name())
		before, known := g.unpacked[e.Name()]
		busy = busy || !known || done > before
		now[e.Name()] = done
	}
	g.unpacked = now
	return busy
}

// readBytes returns how much a process has read so far.
func readBytes(pid string) uint64 {
	raw, err := os.ReadFile(filepath.Join("/proc", pid, "io"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(raw)) {
		if text, ok := strings.CutPrefix(line, "rchar: "); ok {
			n, _ := strconv.ParseUint(strings.TrimSpace(text), 10, 64)
			return n
		}
	}
	return 0
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
