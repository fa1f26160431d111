package workloadtest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/project-flotta/flotta-agent/internal/secret"
	"github.com/project-flotta/flotta-agent/internal/workload"
)

// ImageSize is what each image takes of the disk of a World, and ImageDir is on
// that disk.
const (
	ImageSize = 100
	ImageDir  = "/images"
)

// Hanging is an image whose pull never ends, as that of all whose name begins
// so.
const Hanging = "hanging:1"

// Crawling is an image that takes half an hour, and tells so all the time.
const Crawling = "crawling:1"

// storage is what a World knows of images beside their names and behaviours. An
// image whose ID was not set has its name for one.
type storage struct {
	local    map[string]string // ID by name
	registry map[string]string // ID by name
	untagged map[string]bool   // IDs
	disk     int64             // bytes; zero: no end of them
	other    int64             // bytes of it that are no images'
	pulls    int
	removing func(id string) // called when a removal begins; may be nil
}

func newStorage() storage {
	return storage{local: map[string]string{}, registry: map[string]string{}, untagged: map[string]bool{}}
}

func (s storage) id(name string) string {
	if id := s.local[name]; id != "" {
		return id
	}
	return name
}

// Publish puts an image into the registry.
func (w *World) Publish(image string, b Behaviour) { w.PublishAs(image, image, b) }

// PublishAs is Publish with an ID.
func (w *World) PublishAs(image, id string, b Behaviour) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.registry[image] = b
	w.storage.registry[image] = id
}

// Withdraw takes an image out of the registry and the local storage.
func (w *World) Withdraw(image string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.registry, image)
	delete(w.local, image)
}

// CutOff takes an image out of the registry only.
func (w *World) CutOff(image string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.registry, image)
}

// Load puts an image into the local storage as a person would.
func (w *World) Load(image, id string, b Behaviour) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settle(image, id, b)
	w.wake()
}

// settle gives the name to an image. What had it before stays without.
func (w *World) settle(image, id string, b Behaviour) {
	if _, there := w.local[image]; there && w.storage.id(image) != id {
		if old := w.storage.id(image); len(w.namesOf(old)) == 1 {
			w.storage.untagged[old] = true
		}
	}
	delete(w.storage.untagged, id)
	w.local[image], w.storage.local[image] = b, id
}

// SetDisk sets the size of the disk that the images are on, and how much of it is
// taken by other things.
func (w *World) SetDisk(size, other int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.storage.disk, w.storage.other = size, other
}

// OnRemove has f called whenever the removal of an image begins.
func (w *World) OnRemove(f func(id string)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.storage.removing = f
}

// ImageIDs returns the IDs of all local images, sorted.
func (w *World) ImageIDs() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.imageIDs()
}

// Pulls returns how many pulls there were.
func (w *World) Pulls() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.storage.pulls
}

func (w *World) imageIDs() []string {
	var out []string
	for name := range w.local {
		out = append(out, w.storage.id(name))
	}
	for id := range w.storage.untagged {
		out = append(out, id)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (w *World) namesOf(id string) []string {
	var out []string
	for name := range w.local {
		if w.storage.id(name) == id {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func (w *World) image(id string) workload.Image {
	image := workload.Image{ID: id, Names: w.namesOf(id), Size: ImageSize}
	for _, p := range w.pods {
		for _, c := range p.Containers {
			if c.ImageID == id {
				image.Containers++
			}
		}
	}
	return image
}

// Image returns the image if it is local.
func (w *World) Image(ctx context.Context, reference string) (workload.Image, bool, error) {
	if err := w.lock(ctx); err != nil {
		return workload.Image{}, false, err
	}
	defer w.mu.Unlock()
	if _, there := w.local[reference]; !there {
		return workload.Image{}, false, nil
	}
	return w.image(w.storage.id(reference)), true, nil
}

// Images returns what is local. It takes a moment.
func (w *World) Images(ctx context.Context) ([]workload.Image, error) {
	if err := pass(ctx, 20*time.Millisecond); err != nil {
		return nil, err
	}
	if err := w.lock(ctx); err != nil {
		return nil, err
	}
	defer w.mu.Unlock()
	var out []workload.Image
	for _, id := range w.imageIDs() {
		out = append(out, w.image(id))
	}
	return out, nil
}

// RemoveImage removes it, after a moment.
func (w *World) RemoveImage(ctx context.Context, id string) error {
	w.mu.Lock()
	removing := w.storage.removing
	w.mu.Unlock()
	if removing != nil {
		removing(id)
	}
	if err := pass(ctx, 50*time.Millisecond); err != nil {
		return err
	}
	if err := w.lock(ctx); err != nil {
		return err
	}
	defer w.mu.Unlock()
	image := w.image(id)
	if image.Containers > 0 {
		return fmt.Errorf("image %s is in use", id)
	}
	for _, name := range image.Names {
		delete(w.local, name)
		delete(w.storage.local, name)
	}
	delete(w.storage.untagged, id)
	return nil
}

// ImageDisk returns the disk that SetDisk made.
func (w *World) ImageDisk(ctx context.Context) (workload.Disk, error) {
	if err := w.lock(ctx); err != nil {
		return workload.Disk{}, err
	}
	defer w.mu.Unlock()
	if w.storage.disk == 0 {
		return workload.Disk{Dir: ImageDir, Total: 1 << 40, Free: 1 << 40}, nil
	}
	return workload.Disk{Dir: ImageDir, Total: uint64(max(0, w.storage.disk)), Free: uint64(max(0, w.free()))}, nil
}

func (w *World) free() int64 {
	return max(0, w.storage.disk-w.storage.other-ImageSize*int64(len(w.imageIDs())))
}

// PullImage takes a second.
func (w *World) PullImage(ctx context.Context, reference string, _ secret.Value, progress func(string)) error {
	progress("pulling")
	w.mu.Lock()
	w.storage.pulls++
	w.mu.Unlock()
	if strings.HasPrefix(reference, strings.TrimSuffix(Hanging, ":1")) {
		<-ctx.Done()
		return ctx.Err()
	}
	if reference == Crawling {
		for range 360 {
			if err := pass(ctx, 5*time.Second); err != nil {
				return err
			}
			progress("a little more")
		}
	}
	if err := pass(ctx, time.Second); err != nil {
		return err
	}
	if err := w.lock(ctx); err != nil {
		return err
	}
	defer w.mu.Unlock()
	b, there := w.registry[reference]
	if !there {
		return fmt.Errorf("no image %s in the registry", reference)
	}
	id := w.storage.registry[reference]
	if w.storage.disk > 0 && w.free() < ImageSize && !slices.Contains(w.imageIDs(), id) {
		return &workload.NoSpaceError{Dir: ImageDir, Err: fmt.Errorf("write layer")}
	}
	w.settle(reference, id, b)
	return nil
}
