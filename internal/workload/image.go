package workload

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/project-flotta/flotta-agent/internal/secret"
	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// ImageConfig says how images come and go. Zero values are the defaults named
// here.
type ImageConfig struct {
	PullQuiet time.Duration // without progress until a pull no longer counts among MaxPulls; 20 s
	PullStall time.Duration // without progress until a pull is called off; 5 min

	// Unused images of ours are removed when more than this part of their disk
	// is in use, the oldest first, until less than the other part is. 0.85 and
	// 0.80; 1 means never.
	GCHigh, GCLow float64
	GCInterval    time.Duration // between two looks at the disk; 5 min
	// GCMinAge is how long an image stays after its last use: what was just
	// replaced may be wanted again. 10 min.
	GCMinAge time.Duration
}

func (c ImageConfig) withDefaults() ImageConfig {
	for d, fallback := range map[*time.Duration]time.Duration{
		&c.PullQuiet: 20 * time.Second, &c.PullStall: 5 * time.Minute,
		&c.GCInterval: 5 * time.Minute, &c.GCMinAge: 10 * time.Minute,
	} {
		if *d == 0 {
			*d = fallback
		}
	}
	if c.GCHigh == 0 {
		c.GCHigh = 0.85
	}
	if c.GCLow == 0 {
		c.GCLow = min(0.80, c.GCHigh)
	}
	return c
}

// Validate names the first setting that cannot be.
func (c ImageConfig) Validate() error {
	switch {
	case min(c.PullQuiet, c.PullStall, c.GCInterval, c.GCMinAge) < 0:
		return errors.New("image config: a duration is negative")
	case !(c.GCLow > 0 && c.GCLow <= c.GCHigh && c.GCHigh <= 1): // which a NaN is not
		return fmt.Errorf("image config: GCLow %v and GCHigh %v: 0 < low <= high <= 1", c.GCLow, c.GCHigh)
	}
	return nil
}

// haveImage makes sure that the image is in local storage, pulled as its policy
// says. With a registry out of reach, an image that is there is good enough.
func (a *attempt) haveImage(ctx context.Context, image manifest.Image) error {
	// Whatever is being removed is gone after this, and nothing is removed any
	// more that this workload needs.
	if err := a.r.images.gc.fence(ctx); err != nil {
		return err
	}
	there, err := a.lookForImage(ctx, image.Reference)
	if err != nil {
		return err
	}
	if there && image.Policy != manifest.PullAlways {
		return nil
	}
	if image.Policy == manifest.PullNever {
		return fmt.Errorf("image %s is not there, and its policy is never to pull it", image.Reference)
	}
	err = a.pullWithRoom(ctx, image.Reference, a.target.auth)
	if err != nil && ctx.Err() == nil && !there {
		// Somebody may have loaded it while the registry did not answer.
		if now, lookErr := a.lookForImage(ctx, image.Reference); lookErr == nil {
			there = now
		}
	}
	switch {
	case err == nil:
		a.r.images.notes.clear(a.target.name, image.Reference)
		return a.pulled(ctx, image.Reference)
	case ctx.Err() != nil || !there:
		return err
	}
	a.log.Warn("image not pulled, using the one that is there", "image", image.Reference, "err", err)
	note := fmt.Sprintf("image %s: not pulled since %s, the local one is used: %v",
		image.Reference, time.Now().UTC().Format(time.RFC3339), err)
	a.r.images.notes.set(a.target.name, image.Reference, bounded(note))
	a.progress(protocol.ReasonPulling, note)
	return nil
}

// lookForImage reports whether the image is in local storage, and keeps which one
// it is.
func (a *attempt) lookForImage(ctx context.Context, reference string) (bool, error) {
	image, there, err := a.r.cfg.Runtime.Image(ctx, reference)
	if err == nil {
		a.images[reference] = image.ID
	}
	return there, err
}

// pulled makes sure that what was pulled is not just being removed.
func (a *attempt) pulled(ctx context.Context, reference string) error {
	if err := a.r.images.gc.fence(ctx); err != nil {
		return err
	}
	there, err := a.lookForImage(ctx, reference)
	if err == nil && !there {
		err = fmt.Errorf("image %s was removed as soon as it was pulled", reference)
	}
	return err
}

// pullWithRoom pulls, and once more when a full disk was the trouble and unused
// images could be removed from it.
func (a *attempt) pullWithRoom(ctx context.Context, reference string, auth secret.Value) error {
	err := a.pull(ctx, reference, auth)
	full, ok := errors.AsType[*NoSpaceError](err)
	if !ok {
		return err
	}
	a.progress(protocol.ReasonPulling, "the disk is full: removing images that nothing uses")
	if removed := a.r.images.gc.makeRoom(ctx, full.Dir); removed == 0 {
		return err
	}
	return a.pull(ctx, reference, auth)
}
