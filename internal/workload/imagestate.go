package workload

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
)

// images is what the reconciler keeps of images.
type images struct {
	gc     *imageGC
	notes  imageNotes
	failed imageFailures
}

// forget drops what is remembered of a workload.
func (i *images) forget(workload string) {
	i.notes.forget(workload)
	i.failed.forget(workload)
}

// imageNotes are things to know about the images of workloads.
type imageNotes struct {
	mu    sync.Mutex
	texts map[string]map[string]string // by workload and reference
}

func (n *imageNotes) set(workload, reference, text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.texts == nil {
		n.texts = map[string]map[string]string{}
	}
	if n.texts[workload] == nil {
		n.texts[workload] = map[string]string{}
	}
	n.texts[workload][reference] = text
}

func (n *imageNotes) clear(workload, reference string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.texts[workload], reference)
	if len(n.texts[workload]) == 0 {
		delete(n.texts, workload)
	}
}

// of returns the notes about those images of a workload that its plan uses.
func (n *imageNotes) of(plan manifest.Plan) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []string
	for _, reference := range slices.Sorted(maps.Keys(n.texts[plan.Name])) {
		if slices.ContainsFunc(plan.Images, func(i manifest.Image) bool { return i.Reference == reference }) {
			out = append(out, n.texts[plan.Name][reference])
		}
	}
	return out
}

// forget drops all notes about a workload.
func (n *imageNotes) forget(workload string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.texts, workload)
}

// imageFailures remembers with which images a plan failed.
type imageFailures struct {
	mu   sync.Mutex
	with map[string]string // by workload: digest of the plan and IDs of its images
}

// note remembers the images of a plan that has just failed: those that it was
// tried with, by reference, and for the others what is there now. It asks the
// runtime, so it is not for the loop.
func (f *imageFailures) note(ctx context.Context, runtime PodRuntime, plan manifest.Plan, tried map[string]string) {
	now, err := imageIDs(ctx, runtime, plan, tried)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.with == nil {
		f.with = map[string]string{}
	}
	if err != nil {
		delete(f.with, plan.Name)
		return
	}
	f.with[plan.Name] = now
}

// forget drops what is remembered of a workload.
func (f *imageFailures) forget(workload string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.with, workload)
}

// changed returns the names of those plans of which an image is another one, or
// there at all, since they failed. It asks the runtime once for each image.
func (f *imageFailures) changed(ctx context.Context, runtime PodRuntime, plans []manifest.Plan) map[string]bool {
	out := map[string]bool{}
	known := map[string]string{}
	for _, plan := range plans {
		f.mu.Lock()
		before, noted := f.with[plan.Name]
		f.mu.Unlock()
		if !noted || !strings.HasPrefix(before, plan.Digest+"\n") {
			continue
		}
		now, err := imageIDs(ctx, runtime, plan, known)
		if err == nil && now != before {
			out[plan.Name] = true
		}
	}
	return out
}

// imageIDs writes down which images the plan would run with. Known holds the ID
// by reference of those that were asked for before, and is added to.
func imageIDs(ctx context.Context, runtime PodRuntime, plan manifest.Plan, known map[string]string) (string, error) {
	var b strings.Builder
	b.WriteString(plan.Digest + "\n")
	for _, i := range plan.Images {
		id, asked := known[i.Reference]
		if !asked {
			img, _, err := runtime.Image(ctx, i.Reference)
			if err != nil {
				return "", fmt.Errorf("look up image %s: %w", i.Reference, err)
			}
			id = img.ID // empty: it is not there
			known[i.Reference] = id
		}
		b.WriteString(i.Reference + " " + id + "\n")
	}
	return b.String(), nil
}

// imagesOf returns the references of the images that the targets need.
func imagesOf(targets map[string]target) []string {
	var out []string
	for _, t := range targets {
		for _, i := range t.plan.Images {
			out = append(out, i.Reference)
		}
	}
	return out
}

// newImages returns the reconciler's part that looks after images.
func newImages(cfg Config, store store) *images {
	return &images{gc: newImageGC(imageGCConfig{
		Images: cfg.Images, Runtime: cfg.Runtime, Store: store,
		Path: filepath.Join(cfg.StateDir, imagesFile), Log: cfg.Log,
	})}
}

// PurgeImages removes every image that came because of our workloads and that no
// container uses, for a device that is no longer managed. It may be repeated.
func (r *Reconciler) PurgeImages(ctx context.Context) error { return r.images.gc.purge(ctx) }
