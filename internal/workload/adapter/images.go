package adapter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/project-flotta/flotta-agent/internal/podman"
	"github.com/project-flotta/flotta-agent/internal/workload"
)

// versionAge is how long a version is believed: Podman is upgraded under a
// socket that only waits.
const versionAge = 5 * time.Minute

type cachedVersion struct {
	engine  string
	askedAt time.Time
}

// Version returns Podman's version.
func (p *Pods) Version(ctx context.Context) (string, error) {
	p.mu.Lock()
	known := p.version
	p.mu.Unlock()
	if known.engine != "" && time.Since(known.askedAt) < versionAge {
		return known.engine, nil
	}
	v, err := p.client.Version(ctx)
	if err != nil {
		return "", err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.version = cachedVersion{engine: v.Engine, askedAt: time.Now()}
	return v.Engine, nil
}

func (p *Pods) forgetVersion() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.version, p.store = cachedVersion{}, podman.Store{}
}

// versionNumbers returns the first two numbers of a version; zeros for what is
// none.
func versionNumbers(version string) (major, minor int) {
	first, rest, _ := strings.Cut(version, ".")
	second, _, _ := strings.Cut(rest, ".")
	second = strings.TrimRight(second, "-abcdefghijklmnopqrstuvwxyz")
	major, _ = strconv.Atoi(first)
	minor, _ = strconv.Atoi(second)
	return major, minor
}

// Image returns the image of that reference, if it is in local storage.
func (p *Pods) Image(ctx context.Context, reference string) (workload.Image, bool, error) {
	img, err := p.client.Image(ctx, reference)
	switch {
	case err == nil:
		return image(img), true, nil
	case errors.Is(err, podman.ErrNotFound):
		return workload.Image{}, false, nil
	default:
		return workload.Image{}, false, err
	}
}

// Images returns all images in local storage.
func (p *Pods) Images(ctx context.Context) ([]workload.Image, error) {
	list, err := p.client.Images(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]workload.Image, 0, len(list))
	for _, img := range list {
		out = append(out, image(img))
	}
	return out, nil
}

func image(img podman.Image) workload.Image {
	return workload.Image{
		ID: img.ID, Names: img.Names, Digests: img.Digests, Size: img.Size, Containers: img.Containers,
	}
}

// RemoveImage removes an image with all its names. Podman takes one name after
// the other and refuses only the last one of an image in use, so this looks
// first.
func (p *Pods) RemoveImage(ctx context.Context, id string) error {
	list, err := p.client.Images(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(list, func(img podman.Image) bool { return img.ID == id })
	if i < 0 {
		return nil
	}
	if n := list[i].Containers; n > 0 {
		return fmt.Errorf("remove image %s: %d containers were made from it", id, n)
	}
	for _, name := range list[i].Names[:max(0, len(list[i].Names)-1)] {
		if err := p.client.RemoveImage(ctx, name); err != nil && !errors.Is(err, podman.ErrNotFound) {
			return err
		}
	}
	if err := p.client.RemoveImage(ctx, id); err != nil && !errors.Is(err, podman.ErrNotFound) {
		return err
	}
	return nil
}

// ImageDisk returns the file system that the images are on.
func (p *Pods) ImageDisk(ctx context.Context) (workload.Disk, error) {
	store, err := p.where(ctx)
	if err != nil {
		return workload.Disk{}, err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(store.Root, &fs); err != nil {
		return workload.Disk{}, fmt.Errorf("look at file system of %s: %w", store.Root, err)
	}
	size := uint64(fs.Bsize) //nolint:gosec // a block has a positive size
	return workload.Disk{Dir: store.Root, Total: fs.Blocks * size, Free: fs.Bavail * size}, nil
}

// where returns where Podman keeps things, which it is asked once.
func (p *Pods) where(ctx context.Context) (podman.Store, error) {
	p.mu.Lock()
	known := p.store
	p.mu.Unlock()
	if known.Root != "" {
		return known, nil
	}
	store, err := p.client.Store(ctx)
	if err != nil {
		return podman.Store{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.store = store
	return store, nil
}
