package workload

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/project-flotta/flotta-agent/internal/durable"
)

const (
	imagesFile    = "images.json"
	imagesKind    = "images"
	imagesVersion = 1

	// seenAgain is how much later an image has to be seen in use again for that
	// to be worth a write: the disk may be a memory card.
	seenAgain = 24 * time.Hour
)

// imageEntry is one image of ours.
type imageEntry struct {
	// Names are those that it got through us; under any other it is somebody's.
	Names    []string  `json:"names,omitempty"`
	LastUsed time.Time `json:"lastUsed"`
}

// imageRecord is the durable list of the images that are ours, by ID.
type imageRecord struct {
	path string

	mu      sync.Mutex
	loaded  bool
	entries map[string]imageEntry
	saved   map[string]time.Time // LastUsed as on the disk
	inUse   map[string]bool      // at the last look
}

// load reads the document once. A damaged one is set aside: then only what is
// seen from now on is ours. The caller holds mu.
func (r *imageRecord) load() error {
	if r.loaded {
		return nil
	}
	entries := map[string]imageEntry{}
	err := durable.LoadDocument(r.path, imagesKind, imagesVersion, &entries)
	switch {
	case err == nil, errors.Is(err, fs.ErrNotExist):
	case errors.Is(err, durable.ErrCorrupt), errors.Is(err, durable.ErrVersion):
		entries = map[string]imageEntry{}
		if _, err := durable.SetAside(r.path); err != nil {
			return fmt.Errorf("set aside %s: %w", r.path, err)
		}
	default:
		return err
	}
	r.loaded, r.entries, r.saved, r.inUse = true, entries, map[string]time.Time{}, map[string]bool{}
	for id, e := range entries {
		r.saved[id] = e.LastUsed
	}
	return nil
}

// save writes the document. The caller holds mu.
func (r *imageRecord) save() error {
	if err := os.MkdirAll(filepath.Dir(r.path), 0o750); err != nil {
		return err
	}
	if err := durable.SaveDocument(r.path, imagesKind, imagesVersion, r.entries, 0o600); err != nil {
		return fmt.Errorf("write list of images: %w", err)
	}
	r.saved = make(map[string]time.Time, len(r.entries))
	for id, e := range r.entries {
		r.saved[id] = e.LastUsed
	}
	return nil
}

// add notes that the image is ours under the names it has now. The caller holds
// mu. It reports whether that is news.
func (r *imageRecord) add(image Image) bool {
	e, known := r.entries[image.ID]
	news := !known
	for _, name := range image.Names {
		if !slices.Contains(e.Names, name) {
			e.Names = append(slices.Clone(e.Names), name)
			news = true
		}
	}
	e.LastUsed = time.Now().UTC()
	r.entries[image.ID] = e
	return news
}

// pulled notes an image that we pulled. One that was there before without being
// ours stays somebody else's.
func (r *imageRecord) pulled(image Image, before bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.load(); err != nil {
		return err
	}
	if _, ours := r.entries[image.ID]; before && !ours {
		return nil
	}
	if r.add(image) {
		return r.save()
	}
	return nil
}

// seen notes which of the images are in use by our pods, and drops those that are
// gone. One in use is ours if it has a name that we pulled: then Podman updated
// it. One that somebody loaded may be had nowhere else, and stays.
func (r *imageRecord) seen(list []Image, inUse map[string]bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.load(); err != nil {
		return err
	}
	dirty := false
	names := map[string]bool{}
	for _, e := range r.entries {
		for _, name := range e.Names {
			names[name] = true
		}
	}
	there := make(map[string]bool, len(list))
	for _, image := range list {
		there[image.ID] = true
		if !inUse[image.ID] {
			continue
		}
		e, ours := r.entries[image.ID]
		switch {
		case !ours && slices.ContainsFunc(image.Names, func(name string) bool { return names[name] }):
			r.add(image)
			dirty = true
		case ours:
			e.LastUsed = time.Now().UTC()
			r.entries[image.ID] = e
		}
	}
	for id, e := range r.entries {
		if !there[id] {
			delete(r.entries, id)
			dirty = true
		}
		left := r.inUse[id] && !inUse[id]
		dirty = dirty || left || e.LastUsed.Sub(r.saved[id]) > seenAgain
	}
	r.inUse = inUse
	if dirty {
		return r.save()
	}
	return nil
}

// unused returns those of the images that are ours, under names of ours alone,
// that no container was made from, that are not kept, and that were last used
// before then; the oldest first.
func (r *imageRecord) unused(list []Image, kept map[string]bool, before time.Time) ([]Image, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.load(); err != nil {
		return nil, err
	}
	var out []Image
	for _, image := range list {
		e, ours := r.entries[image.ID]
		foreign := slices.ContainsFunc(image.Names, func(name string) bool { return !slices.Contains(e.Names, name) })
		if ours && !foreign && image.Containers == 0 && !kept[image.ID] && !e.LastUsed.After(before) {
			out = append(out, image)
		}
	}
	slices.SortStableFunc(out, func(a, b Image) int {
		return r.entries[a.ID].LastUsed.Compare(r.entries[b.ID].LastUsed)
	})
	return out, nil
}

func (r *imageRecord) removed(id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.entries, id)
	return r.save()
}

// forget removes the document.
func (r *imageRecord) forget() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.loaded = false
	if err := os.Remove(r.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget images: %w", err)
	}
	return nil
}

// imageReferences returns the references of the images that any manifest on the
// disk names. Text that only looks like one is returned too.
func (s store) imageReferences() (map[string]bool, error) {
	// As manifests are rendered: one key a line, plain or in double quotes.
	line := regexp.MustCompile(`(?m)^\s*(?:- )*image: (.+)$`)
	out := map[string]bool{}
	workloads, err := s.names()
	if err != nil {
		return nil, err
	}
	for _, w := range workloads {
		for _, file := range []string{manifestFile, nextFile, previousFile} {
			data, err := os.ReadFile(s.path(w, file))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
			for _, m := range line.FindAllSubmatch(data, -1) {
				reference := string(m[1])
				if plain, err := strconv.Unquote(reference); err == nil {
					reference = plain
				}
				out[reference] = true
			}
		}
	}
	return out, nil
}
