package workload

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
)

// imageGC removes images that nothing needs any more, when their disk fills up.
// Only what was pulled by us, or by Podman in the place of that, is ever removed,
// never under a name that somebody else gave it, and never what a container was made from or
// a manifest, in force or kept aside, refers to.
//
// keep never waits for Podman, so that the loop can call it. An attempt that was
// begun after it passes fence before it counts on an image: then nothing that the
// keep set names is being removed, and nothing will be.
type imageGC struct {
	cfg     ImageConfig
	runtime PodRuntime
	store   store
	record  *imageRecord
	log     *slog.Logger
	wake    chan struct{}
	removal limit // one removal at a time, from its last check to its end

	mu      sync.Mutex
	wanted  map[string]bool // references of the newest snapshot; nil: not known yet
	version int             // of wanted
	full    bool            // said that the disk stays full
}

// imageGCConfig is what an imageGC needs.
type imageGCConfig struct {
	Images  ImageConfig
	Runtime PodRuntime
	Store   store
	Path    string // of the record
	Log     *slog.Logger
}

func newImageGC(cfg imageGCConfig) *imageGC {
	return &imageGC{
		cfg: cfg.Images, runtime: cfg.Runtime, store: cfg.Store, log: cfg.Log,
		record: &imageRecord{path: cfg.Path}, wake: make(chan struct{}, 1), removal: make(limit, 1),
	}
}

// keep says which images the newest snapshot refers to. Before the first call
// nothing is removed.
func (g *imageGC) keep(references []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.wanted = make(map[string]bool, len(references))
	for _, r := range references {
		g.wanted[r] = true
	}
	g.version++
}

// soon makes run look at the disk without waiting for its time.
func (g *imageGC) soon() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// fence waits until no image is being removed.
func (g *imageGC) fence(ctx context.Context) error {
	if err := g.removal.acquire(ctx); err != nil {
		return err
	}
	g.removal.release()
	return nil
}

// run looks at the disk again and again until ctx ends.
func (g *imageGC) run(ctx context.Context) {
	for ctx.Err() == nil {
		timer := time.NewTimer(jitter(g.cfg.GCInterval))
		select {
		case <-timer.C:
		case <-g.wake:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() == nil {
			g.look(ctx)
		}
	}
}

// look notes what is in use, and removes images if the disk is too full.
func (g *imageGC) look(ctx context.Context) {
	if err := g.see(ctx); err != nil {
		g.log.Debug("images in use not noted", "err", err)
		return // what is in use now must not be taken for old
	}
	disk, err := g.runtime.ImageDisk(ctx)
	if err != nil {
		g.log.Debug("image disk not looked at", "err", err)
		return
	}
	if used(disk) <= g.cfg.GCHigh || g.cfg.GCHigh >= 1 {
		g.setFull(false, disk)
		return
	}
	if _, err := g.sweep(ctx, false); err != nil {
		g.log.Warn("unused images not removed", "err", err)
		return
	}
	if disk, err = g.runtime.ImageDisk(ctx); err == nil {
		g.setFull(used(disk) > g.cfg.GCHigh, disk)
	}
}

// setFull logs once that the disk stays full, and once that it is not any more.
func (g *imageGC) setFull(full bool, disk Disk) {
	g.mu.Lock()
	changed := g.full != full
	g.full = full
	g.mu.Unlock()
	if changed && full {
		g.log.Warn("image disk is full and no unused image of ours is left to remove",
			"path", disk.Dir, "total", disk.Total, "free", disk.Free)
	} else if changed {
		g.log.Info("image disk has room again", "path", disk.Dir, "free", disk.Free)
	}
}

// used returns the part of the disk that is in use.
func used(d Disk) float64 {
	if d.Total == 0 {
		return 0
	}
	return 1 - float64(d.Free)/float64(d.Total)
}

// see notes the images that our pods were made from.
func (g *imageGC) see(ctx context.Context) error {
	pods, err := g.runtime.Pods(ctx)
	if err != nil {
		return err
	}
	list, err := g.runtime.Images(ctx)
	if err != nil {
		return err
	}
	inUse := map[string]bool{}
	for _, p := range pods {
		for _, c := range p.Containers {
			inUse[c.ImageID] = true
		}
	}
	return g.record.seen(list, inUse)
}

// before returns the images that are there before a pull, whose IDs are not made
// ours by it. Nil means that it is not known.
func (g *imageGC) before(ctx context.Context) map[string]bool {
	list, err := g.runtime.Images(ctx)
	if err != nil {
		return nil
	}
	out := make(map[string]bool, len(list))
	for _, i := range list {
		out[i.ID] = true
	}
	return out
}

// pulled notes an image that we pulled, unless somebody else had it before.
func (g *imageGC) pulled(ctx context.Context, reference string, before map[string]bool) {
	image, there, err := g.runtime.Image(ctx, reference)
	if err == nil && there && before != nil {
		err = g.record.pulled(image, before[image.ID])
	}
	if err != nil && ctx.Err() == nil {
		g.log.Warn("pulled image not noted, it will not be removed when unused", "image", reference, "err", err)
	}
}

// makeRoom removes all unused images because the disk of dir was full, unless
// they are on another one. It returns how many.
func (g *imageGC) makeRoom(ctx context.Context, dir string) int {
	disk, err := g.runtime.ImageDisk(ctx)
	if err != nil || disk.Dir != dir {
		return 0
	}
	removed := 0
	if err = g.see(ctx); err == nil {
		removed, err = g.sweep(ctx, true)
	}
	if err != nil && ctx.Err() == nil {
		g.log.Warn("unused images not removed", "err", err)
	}
	return removed
}

// errKeepChanged ends a sweep that was planned for another snapshot.
var errKeepChanged = errors.New("the desired images changed meanwhile")

// sweepRounds bounds how often a sweep begins anew.
const sweepRounds = 3

// sweep removes unused images, the one unused for longest first, until the disk
// has room or, if all, until there is none left. It returns how many.
func (g *imageGC) sweep(ctx context.Context, all bool) (removed int, err error) {
	for range sweepRounds {
		n, err := g.sweepOnce(ctx, all)
		removed += n
		if !errors.Is(err, errKeepChanged) {
			return removed, err
		}
	}
	return removed, nil // the next look goes on
}

func (g *imageGC) sweepOnce(ctx context.Context, all bool) (removed int, err error) {
	// The list first: what it does not show, such as an image that arrives now, is
	// not removed, and under what names it shows an image is compared again.
	list, err := g.runtime.Images(ctx)
	if err != nil {
		return 0, err
	}
	version, kept, err := g.kept(ctx)
	if err != nil || kept == nil {
		return 0, err
	}
	candidates, err := g.record.unused(list, kept, time.Now().Add(-g.cfg.GCMinAge))
	if err != nil {
		return 0, err
	}
	for _, image := range candidates {
		if !all {
			disk, err := g.runtime.ImageDisk(ctx)
			if err != nil || used(disk) <= g.cfg.GCLow {
				return removed, err
			}
		}
		gone, err := g.remove(ctx, image, func() bool { return g.isVersion(version) })
		if err != nil {
			return removed, err
		}
		if gone {
			removed++
		}
	}
	return removed, nil
}

// kept returns the IDs of the images that must stay, and for which snapshot that
// holds; nil as long as there is none.
func (g *imageGC) kept(ctx context.Context) (version int, ids map[string]bool, err error) {
	g.mu.Lock()
	references := maps.Clone(g.wanted)
	version = g.version
	g.mu.Unlock()
	if references == nil {
		return version, nil, nil
	}
	onDisk, err := g.store.imageReferences()
	if err != nil {
		return version, nil, fmt.Errorf("read manifests: %w", err)
	}
	maps.Copy(references, onDisk)
	ids = map[string]bool{}
	for _, r := range slices.Sorted(maps.Keys(references)) {
		image, there, err := g.runtime.Image(ctx, r)
		if err != nil {
			return version, nil, err
		}
		if there {
			ids[image.ID] = true
		}
	}
	return version, ids, nil
}

func (g *imageGC) isVersion(version int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.version == version
}

// remove removes one image, if it is still what it was when that was decided.
func (g *imageGC) remove(ctx context.Context, image Image, valid func() bool) (gone bool, err error) {
	if err := g.removal.acquire(ctx); err != nil {
		return false, err
	}
	defer g.removal.release()
	if !valid() {
		return false, errKeepChanged
	}
	list, err := g.runtime.Images(ctx)
	if err != nil {
		return false, err
	}
	i := slices.IndexFunc(list, func(other Image) bool { return other.ID == image.ID })
	if i < 0 || list[i].Containers > 0 || !slices.Equal(list[i].Names, image.Names) {
		return false, nil
	}
	if err := g.runtime.RemoveImage(ctx, image.ID); err != nil {
		if ctx.Err() != nil {
			return false, err
		}
		// Such as one that a container of another tool uses.
		g.log.Debug("image not removed", "image", image.ID, "names", image.Names, "err", err)
		return false, nil
	}
	g.log.Info("unused image removed", "image", image.ID, "names", image.Names, "bytes", image.Size)
	return true, g.record.removed(image.ID)
}

// purge removes every image of ours that no container uses, whoever else may
// want it, for a device that leaves.
func (g *imageGC) purge(ctx context.Context) error {
	list, err := g.runtime.Images(ctx)
	if err != nil {
		return fmt.Errorf("remove images: %w", err)
	}
	candidates, err := g.record.unused(list, nil, time.Now())
	if err != nil {
		return fmt.Errorf("remove images: %w", err)
	}
	for _, image := range candidates {
		if _, err := g.remove(ctx, image, func() bool { return true }); err != nil {
			return fmt.Errorf("remove images: %w", err)
		}
	}
	return g.record.forget()
}
