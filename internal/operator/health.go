package operator

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"k8s.io/client-go/discovery"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
)

const (
	// pulse is how often it is tried whether the cache answers, and stuckAfter
	// how long it may not before the program counts as stuck.
	pulse      = 10 * time.Second
	stuckAfter = time.Minute
	// askTimeout bounds the question of a readiness probe to the API server.
	askTimeout = 2 * time.Second
)

// addHealth adds /healthz, which fails when the operator is stuck and only a
// restart helps, and /readyz, which fails while it has not read the objects, or
// the API server does not serve them.
//
// It also makes an operator that waits for its turn read all objects, so that it
// need not when its turn comes.
func (e env) addHealth(_ context.Context, mgr manager.Manager) error {
	asked, err := discovery.NewDiscoveryClientForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return fmt.Errorf("make discovery client: %w", err)
	}
	var last, synced atomic.Int64
	last.Store(time.Now().UnixNano())
	err = mgr.Add(everywhere(func(ctx context.Context) error {
		if err := readAll(ctx, mgr.GetCache()); err != nil {
			return err
		}
		if !mgr.GetCache().WaitForCacheSync(ctx) {
			return nil
		}
		synced.Store(1)
		ticker := time.NewTicker(pulse)
		defer ticker.Stop()
		for {
			var one v1alpha1.EdgeDeviceList
			if err := mgr.GetClient().List(ctx, &one, client.Limit(1), client.UnsafeDisableDeepCopy); err == nil {
				last.Store(time.Now().UnixNano())
			}
			select {
			case <-ctx.Done():
				return nil
			case <-ticker.C:
			}
		}
	}))
	if err != nil {
		return err
	}
	live := func(*http.Request) error {
		silent := time.Since(time.Unix(0, last.Load()))
		if synced.Load() == 1 && silent > stuckAfter {
			return fmt.Errorf("the cache has not answered for %s", silent.Round(time.Second))
		}
		return nil
	}
	ready := func(r *http.Request) error {
		if synced.Load() == 0 {
			return errors.New("the objects are not read yet")
		}
		ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
		defer cancel()
		_, err := asked.RESTClient().Get().AbsPath("/apis/" + v1alpha1.APIVersion).DoRaw(ctx)
		if err != nil {
			return fmt.Errorf("ask the API server for %s: %w", v1alpha1.APIVersion, err)
		}
		return nil
	}
	return errors.Join(mgr.AddHealthzCheck("cache", live), mgr.AddReadyzCheck("objects", ready))
}

// readAll begins to read all objects, which the controllers do only when it is
// the operator's turn.
func readAll(ctx context.Context, into cache.Cache) error {
	for _, object := range []client.Object{
		&v1alpha1.EdgeDevice{}, &v1alpha1.EdgeDeviceSet{}, &v1alpha1.EdgeDeviceSignedRequest{},
		&v1alpha1.EdgeWorkload{}, &v1alpha1.EdgeConfig{}, &v1alpha1.PlaybookExecution{},
	} {
		if _, err := into.GetInformer(ctx, object, cache.BlockUntilSynced(false)); err != nil && ctx.Err() == nil {
			return fmt.Errorf("watch %T: %w", object, err)
		}
	}
	return nil
}

// everywhere runs on operators that are not the leader, too.
type everywhere func(context.Context) error

func (f everywhere) Start(ctx context.Context) error { return f(ctx) }

// NeedLeaderElection implements manager.LeaderElectionRunnable.
func (everywhere) NeedLeaderElection() bool { return false }
