package kube

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
)

// Kinds of Kubernetes that configurations are made of.
const (
	kindSecret    = "Secret"
	kindConfigMap = "ConfigMap"
	kindRoute     = "Route"
)

// sink takes what a watch delivers. Calls come one after the other.
type sink interface {
	put(object any)
	remove(object any)
	// replace says what there is: anything else is gone.
	replace(objects []any)
}

// feed is one watch.
type feed struct {
	kind      string
	namespace string // empty: all
	list      cache.ListWithContextFunc
	watch     cache.WatchFuncWithContext
	example   runtime.Object
	client    any
	sink      sink
	synced    atomic.Bool

	mu     sync.Mutex
	err    error     // the last one, nil when it went well
	logged time.Time // when it was last logged
}

// newFeed watches a kind of ours in all namespaces.
func newFeed(c *client, kind string, into sink) *feed {
	example := map[string]struct {
		resource     string
		object, list runtime.Object
	}{
		v1alpha1.KindEdgeDevice:              {edgeDevices, &v1alpha1.EdgeDevice{}, &v1alpha1.EdgeDeviceList{}},
		v1alpha1.KindEdgeDeviceSet:           {edgeDeviceSets, &v1alpha1.EdgeDeviceSet{}, &v1alpha1.EdgeDeviceSetList{}},
		v1alpha1.KindEdgeWorkload:            {edgeWorkloads, &v1alpha1.EdgeWorkload{}, &v1alpha1.EdgeWorkloadList{}},
		v1alpha1.KindEdgeDeviceSignedRequest: {signedRequests, &v1alpha1.EdgeDeviceSignedRequest{}, &v1alpha1.EdgeDeviceSignedRequestList{}},
		v1alpha1.KindPlaybookExecution:       {playbookExecutions, &v1alpha1.PlaybookExecution{}, &v1alpha1.PlaybookExecutionList{}},
	}[kind]
	return &feed{
		kind: kind, sink: into, example: example.object, client: c.flotta,
		list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			into := example.list.DeepCopyObject()
			err := c.flotta.Get().Resource(example.resource).VersionedParams(&o, c.parameters).Do(ctx).Into(into)
			return into, err
		},
		watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.Watch = true
			return c.flotta.Get().Resource(example.resource).VersionedParams(&o, c.parameters).Watch(ctx)
		},
	}
}

// newMetadataFeed watches the metadata of Secrets or ConfigMaps.
func newMetadataFeed(c *client, namespace, kind string, into sink) *feed {
	resource := corev1.SchemeGroupVersion.WithResource("secrets")
	if kind == kindConfigMap {
		resource = corev1.SchemeGroupVersion.WithResource("configmaps")
	}
	of := c.metadata.Resource(resource).Namespace(namespace)
	return &feed{
		kind: kind, namespace: namespace, sink: into, example: &metav1.PartialObjectMetadata{}, client: c.metadata,
		list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return of.List(ctx, o) },
		watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return of.Watch(ctx, o)
		},
	}
}

// run watches until ctx ends.
func (f *feed) run(ctx context.Context, log *slog.Logger) {
	source := cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := f.list(ctx, o)
			f.note(ctx, log, err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			w, err := f.watch(ctx, o)
			f.note(ctx, log, err)
			return w, err
		},
	}, f.client)
	quiet := klog.NewContext(ctx, logr.Discard())
	r := cache.NewReflectorWithOptions(source, f.example, (*feedStore)(f), cache.ReflectorOptions{Name: f.kind})
	r.RunWithContext(quiet)
}

// complaintInterval is how often the same trouble of a watch is logged.
const complaintInterval = time.Minute

// note remembers how a request ended. The reflector tries again by itself.
func (f *feed) note(ctx context.Context, log *slog.Logger, err error) {
	if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || ctx.Err() != nil {
		return // the ordinary course of a watch
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	recovered := f.err != nil && err == nil
	f.err = err
	switch {
	case recovered:
		f.logged = time.Time{}
		log.Info("watching again", "kind", f.kind, "namespace", f.namespace)
	case err != nil && time.Since(f.logged) >= complaintInterval:
		f.logged = time.Now()
		log.Warn("not watched, trying again", "kind", f.kind, "namespace", f.namespace, "err", err)
	}
}

// interrupted reports whether what is known may be out of date.
func (f *feed) interrupted() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err != nil
}

// lastError is why the feed does not get on, as part of a sentence.
func (f *feed) lastError() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		return ""
	}
	return fmt.Sprintf(": %v", f.err)
}

// feedStore is the store that a reflector fills.
type feedStore feed

// Add implements cache.ReflectorStore.
func (s *feedStore) Add(object any) error {
	s.sink.put(object)
	return nil
}

// Update implements cache.ReflectorStore.
func (s *feedStore) Update(object any) error {
	s.sink.put(object)
	return nil
}

// Delete implements cache.ReflectorStore.
func (s *feedStore) Delete(object any) error {
	s.sink.remove(object)
	return nil
}

// Replace implements cache.ReflectorStore.
func (s *feedStore) Replace(objects []any, _ string) error {
	s.sink.replace(objects)
	s.synced.Store(true)
	return nil
}

// Resync implements cache.ReflectorStore.
func (s *feedStore) Resync() error { return nil }

// Transformer implements cache.TransformingStore: what is not needed is dropped
// before a whole list of it is in memory.
func (s *feedStore) Transformer() cache.TransformFunc {
	return func(object any) (any, error) {
		switch o := object.(type) {
		case *metav1.PartialObjectMetadata:
			// An annotation of kubectl holds the whole of a Secret once more.
			o.ObjectMeta = metav1.ObjectMeta{Namespace: o.Namespace, Name: o.Name, ResourceVersion: o.ResourceVersion}
		case metav1.Object:
			o.SetManagedFields(nil)
		}
		return object, nil
	}
}
