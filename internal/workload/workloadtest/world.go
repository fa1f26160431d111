package workloadtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/project-flotta/flotta-agent/internal/secret"
	"github.com/project-flotta/flotta-agent/internal/workload"
	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
)

// Behaviour is what a container of an image does.
type Behaviour int

// The behaviours.
const (
	Good   Behaviour = iota // runs
	Exits                   // ends at once, and is restarted for ever
	Broken                  // cannot even be played
	Ends                    // ends by itself, and well
	Fails                   // ends by itself, with exit code 3
	Sick                    // runs, and its probe fails
	Slow                    // takes minutes to start
)

// ErrDown is every call's error while the world is down.
var ErrDown = errors.New("nobody answers")

// World is a device: it outlives the reconcilers that are run on it. Make it
// with NewWorld; methods that are not of an interface are the test's hands.
type World struct {
	stateDir string

	mu       sync.Mutex
	local    map[string]Behaviour
	registry map[string]Behaviour
	pods     map[string]workload.Pod
	units    map[string]workload.Unit
	secrets  map[string]string
	foreign  map[string]bool // secrets that are not ours
	storage  storage
	mounted  map[string]bool
	devices  map[string]*workload.DeviceError // what is wrong with one, by path
	sockets  []workload.Socket
	starts   map[string]int
	watchers map[int]func()
	sequence int
	down     bool
}

// NewWorld returns a device with nothing on it.
func NewWorld(stateDir string) *World {
	return &World{
		stateDir: stateDir,
		local:    map[string]Behaviour{}, registry: map[string]Behaviour{},
		pods: map[string]workload.Pod{}, units: map[string]workload.Unit{},
		secrets: map[string]string{}, foreign: map[string]bool{}, storage: newStorage(), mounted: map[string]bool{}, devices: map[string]*workload.DeviceError{}, starts: map[string]int{}, watchers: map[int]func(){},
	}
}

// lock returns ErrDown while the world is down. The caller unlocks if it is nil.
func (w *World) lock(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w.mu.Lock()
	if w.down {
		w.mu.Unlock()
		return ErrDown
	}
	return nil
}

// SetDown makes every call fail, or work again; watchers end.
func (w *World) SetDown(down bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = down
}

// StopByHand stops a unit as a person would.
func (w *World) StopByHand(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stop(name)
	w.wake()
}

// Meddle lets a person change the containers of a workload.
func (w *World) Meddle(name string, change func(*workload.Container)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p, there := w.pods[name]
	if !there {
		return
	}
	p.Containers = slices.Clone(p.Containers)
	for i := range p.Containers {
		change(&p.Containers[i])
	}
	w.pods[name] = p
	w.wake()
}

// PowerCut ends everything that runs and boots again: enabled units start.
func (w *World) PowerCut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pods = map[string]workload.Pod{}
	for name, u := range w.units {
		u.State, u.Waiting = workload.UnitInactive, false
		w.units[name] = u
		if u.Enabled {
			_ = w.start(name)
		}
	}
}

// PlaceStranger puts a secret there that is not ours.
func (w *World) PlaceStranger(secretName string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.secrets[secretName] = "theirs"
	w.foreign[secretName] = true
}

// Containers returns the IDs of the containers of a workload that runs.
func (w *World) Containers(name string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, c := range w.pods[name].Containers {
		out = append(out, c.ID)
	}
	return out
}

// Digest returns the digest of the pod that runs, or "".
func (w *World) Digest(name string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pods[name].Digest
}

// Left returns everything that is there, for messages and comparison.
func (w *World) Left() (pods, enabled, secrets []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, u := range w.units {
		if u.Enabled {
			enabled = append(enabled, name)
		}
	}
	slices.Sort(enabled)
	return slices.Sorted(maps.Keys(w.pods)), enabled, slices.Sorted(maps.Keys(w.secrets))
}

// wake tells watchers. It does not wait for them: they only note it.
func (w *World) wake() {
	for _, changed := range w.watchers {
		changed()
	}
}

// Pods returns every pod.
func (w *World) Pods(ctx context.Context) ([]workload.Pod, error) {
	if err := w.lock(ctx); err != nil {
		return nil, err
	}
	defer w.mu.Unlock()
	var out []workload.Pod
	for _, p := range w.pods {
		out = append(out, w.seenNow(p))
	}
	return out, nil
}

// seenNow returns a copy of p in which what exits has done so each second.
func (w *World) seenNow(p workload.Pod) workload.Pod {
	p.Containers = slices.Clone(p.Containers)
	for i, c := range p.Containers {
		if w.local[c.Image] == Exits && c.Restarts > 0 {
			p.Containers[i].Restarts = 1 + int(time.Since(c.StartedAt).Seconds())
		}
	}
	return p
}

// Pod returns one pod.
func (w *World) Pod(ctx context.Context, name string) (workload.Pod, bool, error) {
	if err := w.lock(ctx); err != nil {
		return workload.Pod{}, false, err
	}
	defer w.mu.Unlock()
	p, there := w.pods[name]
	return w.seenNow(p), there, nil
}

// RemovePod removes a pod; its unit ends with it.
func (w *World) RemovePod(ctx context.Context, name string) error {
	if err := w.lock(ctx); err != nil {
		return err
	}
	defer w.mu.Unlock()
	w.stop(name)
	return nil
}

// RemoveRemains removes nothing: a start that fails leaves nothing here.
func (w *World) RemoveRemains(ctx context.Context, _ string) error {
	if err := w.lock(ctx); err != nil {
		return err
	}
	w.mu.Unlock()
	return nil
}

// UnpausePod lets what is paused run.
func (w *World) UnpausePod(ctx context.Context, name string) error {
	if err := w.lock(ctx); err != nil {
		return err
	}
	defer w.mu.Unlock()
	for i, c := range w.pods[name].Containers {
		if c.Status == workload.ContainerPaused {
			w.pods[name].Containers[i].Status = workload.ContainerRunning
		}
	}
	return nil
}

// Logs returns a line.
func (w *World) Logs(ctx context.Context, _ string, _ int) ([]string, error) {
	return []string{"last words"}, ctx.Err()
}

// Version returns the oldest version that is supported.
func (w *World) Version(ctx context.Context) (string, error) { return "4.2.0", ctx.Err() }

// Secrets returns the names of those that were made here.
func (w *World) Secrets(ctx context.Context) ([]string, error) {
	if err := w.lock(ctx); err != nil {
		return nil, err
	}
	defer w.mu.Unlock()
	var out []string
	for name := range w.secrets {
		if !w.foreign[name] {
			out = append(out, name)
		}
	}
	return out, nil
}

// CreateSecret makes a secret.
func (w *World) CreateSecret(ctx context.Context, name string, data secret.Value) error {
	if err := w.lock(ctx); err != nil {
		return err
	}
	defer w.mu.Unlock()
	if _, there := w.secrets[name]; !there {
		w.secrets[name] = data.Reveal()
	}
	return nil
}

// RemoveSecret removes a secret.
func (w *World) RemoveSecret(ctx context.Context, name string) error {
	if err := w.lock(ctx); err != nil {
		return err
	}
	defer w.mu.Unlock()
	delete(w.secrets, name)
	return nil
}

// Watch calls changed on every change of state that nobody here asked for.
func (w *World) Watch(ctx context.Context, changed func()) error {
	if err := w.lock(ctx); err != nil {
		return err
	}
	w.sequence++
	id := w.sequence
	w.watchers[id] = changed
	w.mu.Unlock()
	changed()
	<-ctx.Done()
	w.mu.Lock()
	delete(w.watchers, id)
	w.mu.Unlock()
	return nil
}

// pass waits.
func pass(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(max(1, d))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// pod is as much of a manifest as the world understands.
type pod struct {
	Metadata struct {
		Name   string            `json:"name"`
		Labels map[string]string `json:"labels"`
	} `json:"metadata"`
	Spec struct {
		RestartPolicy string `json:"restartPolicy"`
		Containers    []struct {
			Name    string `json:"name"`
			Image   string `json:"image"`
			EnvFrom []struct {
				SecretRef *struct {
					Name string `json:"name"`
				} `json:"secretRef"`
			} `json:"envFrom"`
		} `json:"containers"`
	} `json:"spec"`
}

// play starts what the workload's manifest says.
func (w *World) play(name string) error {
	raw, err := os.ReadFile(filepath.Join(w.stateDir, "workloads", name, "manifest.yaml"))
	if err != nil {
		return err
	}
	first, _, _ := bytes.Cut(raw, []byte("---\n"))
	var p pod
	if err := yaml.Unmarshal(first, &p); err != nil {
		return err
	}
	made := workload.Pod{
		ID: w.id(), Workload: p.Metadata.Labels[manifest.LabelWorkload],
		Digest: p.Metadata.Labels[manifest.LabelDigest], Status: workload.PodRunning,
	}
	for _, c := range p.Spec.Containers {
		b, there := w.local[c.Image]
		if !there || b == Broken {
			return fmt.Errorf("play %s: image %s", name, c.Image)
		}
		for _, from := range c.EnvFrom {
			if _, there := w.secrets[from.SecretRef.Name]; !there {
				return fmt.Errorf("play %s: no secret %s", name, from.SecretRef.Name)
			}
		}
		made.Containers = append(made.Containers, newContainer(w.id(), p.Metadata.Name+"-"+c.Name, c.Image, b))
		made.Containers[len(made.Containers)-1].ImageID = w.storage.id(c.Image)
	}
	w.pods[name] = made
	return nil
}

// newContainer returns a container as it is soon after its start.
func newContainer(id, name, image string, b Behaviour) workload.Container {
	c := workload.Container{
		ID: id, Name: name, Status: workload.ContainerRunning, StartedAt: time.Now(), Image: image, ImageID: image,
	}
	switch b {
	case Exits:
		c.Restarts = 1
	case Ends:
		c.Status = workload.ContainerExited
	case Fails:
		c.Status, c.ExitCode = workload.ContainerExited, 3
	case Sick:
		c.Health = workload.HealthUnhealthy
	}
	return c
}

func (w *World) id() string {
	w.sequence++
	return fmt.Sprintf("id-%d", w.sequence)
}
