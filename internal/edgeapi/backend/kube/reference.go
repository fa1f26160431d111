package kube

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/project-flotta/flotta-agent/internal/render"
)

// reference is an object that configurations are made of.
type reference struct {
	key render.Source
	// version counts the changes. A configuration that was made at the same
	// count is current, as far as this object goes.
	version atomic.Uint64

	// What follows is guarded by referenceStore.mu.
	users int // renderings, past and present, that hold a pin

	known   bool   // content is what is there, as far as anybody told
	content any    // *corev1.Secret, *corev1.ConfigMap or a Route's host; nil: not there
	at      string // resourceVersion of content; empty when there is none
	denied  error  // why it could not be read, other than for not being there
	seen    string // the resourceVersion that the watch told last; empty: deleted, or nothing told
	tidings uint64 // how often the watch told something
	until   time.Time
	failed  error     // of the last try to read it
	retry   time.Time // when it may be tried again
}

// pin says that a rendering was made of an object, and of which state of it.
type pin struct {
	reference *reference
	version   uint64
}

func (p pin) current() bool { return p.reference.version.Load() == p.version }

// referenceStore is all objects that are referred to, and no others.
type referenceStore struct {
	mu      sync.Mutex
	entries map[render.Source]*reference
	watched map[render.Source]bool // by kind and namespace: everything was listed once
}

func (s *referenceStore) init() {
	s.entries = make(map[render.Source]*reference)
	s.watched = make(map[render.Source]bool)
}

// pin returns a pin on an object, which is released later.
func (s *referenceStore) pin(key render.Source) pin {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.entries[key]
	if !ok {
		r = &reference{key: key}
		s.entries[key] = r
	}
	r.users++
	return pin{reference: r, version: r.version.Load()}
}

func (s *referenceStore) release(pins []pin) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range pins {
		if p.reference.users--; p.reference.users == 0 {
			delete(s.entries, p.reference.key)
		}
	}
}

// touch notes that an object changed whose content is kept elsewhere.
func (s *referenceStore) touch(key render.Source) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r, ok := s.entries[key]; ok {
		r.version.Add(1)
	}
}

// changed notes that the content is no longer what it was. The store is locked.
func (r *reference) changed() {
	if r.known {
		r.known = false
		r.version.Add(1)
	}
}

// referenceView is the sink of a watch of metadata.
type referenceView struct {
	store *referenceStore
	of    render.Source // kind and namespace
}

func (s *referenceStore) view(namespace, kind string) sink {
	return &referenceView{store: s, of: render.Source{Kind: kind, Namespace: namespace}}
}

func (v *referenceView) key(object any) (key render.Source, version string, ok bool) {
	o, ok := object.(*metav1.PartialObjectMetadata)
	if !ok {
		return render.Source{}, "", false
	}
	key = v.of
	key.Name = o.Name
	return key, o.ResourceVersion, true
}

// put implements sink.
func (v *referenceView) put(object any) {
	key, version, ok := v.key(object)
	if !ok {
		return
	}
	v.store.mu.Lock()
	defer v.store.mu.Unlock()
	if r, ok := v.store.entries[key]; ok {
		r.told(version)
	}
}

// told takes over which version there is. The store is locked.
func (r *reference) told(version string) {
	r.seen = version
	r.tidings++
	// What was read may be newer than what the watch tells.
	if r.at == "" || older(r.at, version) {
		r.changed()
	}
}

// remove implements sink.
func (v *referenceView) remove(object any) {
	key, _, ok := v.key(object)
	if !ok {
		return
	}
	v.store.mu.Lock()
	defer v.store.mu.Unlock()
	if r, ok := v.store.entries[key]; ok {
		r.deleted()
	}
}

// deleted takes over that there is none. The store is locked.
func (r *reference) deleted() {
	r.seen = ""
	r.tidings++
	if r.at != "" || r.denied != nil {
		r.changed()
	}
}

// replace implements sink.
func (v *referenceView) replace(objects []any) {
	v.store.mu.Lock()
	defer v.store.mu.Unlock()
	there := make(map[render.Source]string)
	for _, o := range objects {
		if key, version, ok := v.key(o); ok && v.store.entries[key] != nil {
			there[key] = version
		}
	}
	v.store.watched[v.of] = true
	for key, r := range v.store.entries {
		if key.Kind != v.of.Kind || key.Namespace != v.of.Namespace {
			continue
		}
		r.until = time.Time{}
		version, ok := there[key]
		if !ok {
			r.deleted()
			continue
		}
		r.seen = version
		r.tidings++
		if r.at != version {
			r.changed()
		}
	}
}

const (
	// readTimeout bounds one read of an object. Devices wait for it.
	readTimeout = 10 * time.Second
	// readRetry is how soon a read is tried again that failed: each device
	// that needs the object asks every 5 s.
	readRetry = time.Second
	// unwatchedInterval is how often an object is read that should be watched
	// and is not, for the lack of a Role or because the watch is starting.
	unwatchedInterval = 30 * time.Second
)

// fetched is what a read found.
type fetched struct {
	content any    // nil: nothing
	version string // empty when there is none
}

// read returns the content of an object that is pinned: nil when there is none,
// denied when it may not be read.
func (b *Backend) read(ctx context.Context, r *reference) (content any, denied, err error) {
	s := &b.references
	for range 3 {
		s.mu.Lock()
		switch {
		case r.known:
			defer s.mu.Unlock()
			return r.content, r.denied, nil
		case r.failed != nil && time.Now().Before(r.retry):
			defer s.mu.Unlock()
			return nil, nil, r.failed
		}
		s.mu.Unlock()
		key := r.key.Kind + "/" + r.key.Namespace + "/" + r.key.Name
		_, err, _ := b.fetches.Do(key, func() (any, error) {
			return nil, b.refetch(context.WithoutCancel(ctx), r)
		})
		if err != nil {
			return nil, nil, err
		}
	}
	return nil, nil, fmt.Errorf("read %s %s/%s: it changes all the time", r.key.Kind, r.key.Namespace, r.key.Name)
}

// refetch reads an object and takes over what it found.
func (b *Backend) refetch(ctx context.Context, r *reference) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	b.metrics.reads.Inc()
	s := &b.references
	s.mu.Lock()
	tidings := r.tidings
	s.mu.Unlock()
	found, err := b.fetch(ctx, r.key)
	var denied error
	switch {
	case apierrors.IsForbidden(err):
		denied, err = err, nil
	case apierrors.IsNotFound(err): // also when the kind is unknown
		err = nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r.failed, r.retry = nil, time.Time{}
	if err != nil {
		r.failed = fmt.Errorf("read %s %s/%s: %w", r.key.Kind, r.key.Namespace, r.key.Name, err)
		r.retry = time.Now().Add(readRetry)
		return r.failed
	}
	if r.known && (r.at != found.version || found.version == "" && r.content != found.content || (r.denied == nil) != (denied == nil)) {
		r.version.Add(1)
	}
	r.known, r.content, r.at, r.denied, r.until = true, found.content, found.version, denied, time.Time{}
	if r.tidings != tidings && found.version != r.seen {
		r.changed() // overtaken by what the watch told meanwhile, an end perhaps
	}
	switch {
	case !s.watched[render.Source{Kind: r.key.Kind, Namespace: r.key.Namespace}] && b.ours(r.key.Namespace), denied != nil:
		r.until = time.Now().Add(min(unwatchedInterval, b.cfg.ForeignInterval))
	case !s.watched[render.Source{Kind: r.key.Kind, Namespace: r.key.Namespace}]:
		r.until = time.Now().Add(b.cfg.ForeignInterval)
	}
	return nil
}

// ours reports whether a namespace is one that devices are in.
func (b *Backend) ours(namespace string) bool {
	b.devices.mu.RLock()
	defer b.devices.mu.RUnlock()
	return len(b.devices.namespaces[namespace]) > 0
}

func (b *Backend) fetch(ctx context.Context, key render.Source) (fetched, error) {
	switch key.Kind {
	case kindSecret:
		object, err := b.client.secret(ctx, key.Namespace, key.Name)
		if err != nil {
			return fetched{}, err
		}
		object.ManagedFields, object.Annotations = nil, nil
		return fetched{content: object, version: object.ResourceVersion}, nil
	case kindConfigMap:
		object, err := b.client.configMap(ctx, key.Namespace, key.Name)
		if err != nil {
			return fetched{}, err
		}
		object.ManagedFields, object.Annotations = nil, nil
		return fetched{content: object, version: object.ResourceVersion}, nil
	case kindRoute:
		host, err := b.client.routeHost(ctx, key.Namespace, key.Name)
		if err != nil {
			return fetched{}, err
		}
		return fetched{content: host}, nil
	}
	return fetched{}, errors.New("unknown kind " + key.Kind)
}

// runForeign reads what cannot be watched, every now and then, until ctx ends.
func (b *Backend) runForeign(ctx context.Context) {
	ticker := time.NewTicker(min(unwatchedInterval, b.cfg.ForeignInterval) / 2)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			for _, r := range b.references.due(time.Now()) {
				// What fails is logged by the reads of devices that need it, and
				// what was read before stays in force.
				_ = b.refetch(ctx, r)
			}
		}
	}
}

// due returns what is to be read again.
func (s *referenceStore) due(now time.Time) []*reference {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*reference
	for _, r := range s.entries {
		if r.known && !r.until.IsZero() && now.After(r.until) {
			list = append(list, r)
		}
	}
	return list
}
