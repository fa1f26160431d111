package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

func (r *rig) request(id string) *v1alpha1.EdgeDeviceSignedRequest {
	r.t.Helper()
	request, err := readRequest(r.requestPath(id), id)
	r.must(err)
	return request
}

func (r *rig) managed(d edgeapi.Device) bool {
	managed, err := r.Managed(context.Background(), d)
	return managed && err == nil
}

func TestRequestWaitsForApproval(t *testing.T) {
	t.Parallel()
	r := newRig(t, t.TempDir())
	ctx := context.Background()
	info := protocol.EnrolmentInfo{Features: &protocol.DeviceFeatures{ModelName: "box", Hardware: &protocol.HardwareInfo{Hostname: "h"}}}
	for range 3 {
		if exists, err := r.Enrol(ctx, dev("dev1"), info); exists || err != nil {
			t.Fatalf("enrol: %v, %v", exists, err)
		}
	}
	request := r.request("dev1")
	if request.Spec.Approved || request.Spec.TargetNamespace != "default" || request.Spec.Features.ModelName != "box" || request.Spec.Features.Hardware.Hostname != "h" {
		t.Errorf("request: %+v", request.Spec)
	}
	if n := len(request.Status.Conditions); n != 1 {
		t.Errorf("%d conditions after three times", n)
	}
	if r.managed(dev("dev1")) {
		t.Error("managed without approval")
	}
	// The administrator edits the file, in place.
	text, err := os.ReadFile(r.requestPath("dev1"))
	r.must(err)
	text = bytes.Replace(text, []byte("spec:\n"), []byte("spec:\n  approved: true\n"), 1)
	r.must(os.WriteFile(r.requestPath("dev1"), text, 0o600))
	r.eventually("approved", func() bool { return r.managed(dev("dev1")) })
	if exists, err := r.Enrol(ctx, dev("dev1"), info); !exists || err != nil {
		t.Errorf("enrol after approval: %v, %v", exists, err)
	}
	r.eventually("condition", func() bool { return fleet.IsGranted(r.request("dev1")) })
	object := r.stored(dev("dev1"))
	if object.Labels[v1alpha1.LabelSignedRequest] != "true" || object.Spec.RequestTime == nil {
		t.Errorf("device: %+v", object.ObjectMeta)
	}
}

// What the user wrote about a device lets it in, and says where it belongs.
func TestPreApproval(t *testing.T) {
	t.Parallel()
	r := newRig(t, t.TempDir())
	ctx := context.Background()
	flotta := "apiVersion: management.project-flotta.io/v1alpha1\n"
	r.save("a.yaml", flotta+"kind: EdgeDevice\nmetadata: {name: dev1, namespace: shop, labels: {a: b, device.hostname: mine}}\nspec: {heartbeat: {periodSeconds: 9}}\n---\n"+
		flotta+"kind: EdgeDeviceSignedRequest\nmetadata: {name: dev2}\nspec: {targetNamespace: farm, targetSet: cows, approved: true}\n---\n"+
		flotta+"kind: EdgeDeviceSet\nmetadata: {name: cows, namespace: farm}\nspec: {heartbeat: {periodSeconds: 11}}\n")
	r.eventually("read", func() bool {
		r.mu.RLock()
		defer r.mu.RUnlock()
		return len(r.catalog.objects) == 3
	})
	for id, want := range map[string]struct {
		namespace string
		period    int64
	}{"dev1": {"shop", 9}, "dev2": {"farm", 11}} {
		if exists, err := r.Enrol(ctx, dev(id), protocol.EnrolmentInfo{}); !exists || err != nil {
			t.Fatalf("%s: %v, %v", id, exists, err)
		}
		target, err := r.RegistrationTarget(ctx, edgeapi.Registration{Device: edgeapi.Device{ID: id}, KeyFingerprint: "k"})
		r.must(err)
		if target.Namespace != want.namespace {
			t.Errorf("%s belongs to %s", id, target.Namespace)
		}
		r.must(r.CompleteRegistration(ctx, edgeapi.Registration{Device: target, KeyFingerprint: "k", Hardware: &protocol.HardwareInfo{Hostname: "theirs"}}))
		if got := r.message(target).Configuration.Heartbeat.PeriodSeconds; got != want.period {
			t.Errorf("%s: period %d", id, got)
		}
	}
	// The file of the state keeps what the device said; the manifest wins.
	d := edgeapi.Device{Namespace: "shop", ID: "dev1"}
	if got := r.stored(d).Labels[v1alpha1.LabelHostname]; got != "theirs" {
		t.Errorf("label in the state: %q", got)
	}
	r.mu.RLock()
	self := merged(r.devices[d].object, r.catalog.device(d))
	r.mu.RUnlock()
	if self.Labels[v1alpha1.LabelHostname] != "mine" || self.Labels["a"] != "b" {
		t.Errorf("labels that count: %v", self.Labels)
	}
}

func TestDeletingAndDeclining(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, remove := range map[string]func(r *rig){
		"by command": func(r *rig) {
			found, err := NewAdmin(r.dir).Delete(ctx, "dev1")
			r.must(err)
			if !found {
				r.t.Error("not found")
			}
		},
		"by hand": func(r *rig) { r.must(os.Remove(r.devicePath(dev("dev1")))) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, t.TempDir())
			d := r.enrolled("dev1")
			remove(r)
			r.eventually("not managed", func() bool { return !r.managed(d) })
			r.eventually("request forgotten", func() bool {
				_, err := os.Stat(r.requestPath("dev1"))
				return errors.Is(err, os.ErrNotExist)
			})
			for _, err := range []error{
				r.Heartbeat(ctx, d, protocol.Heartbeat{Status: "up"}),
				r.CompleteRegistration(ctx, edgeapi.Registration{Device: d, Own: true, KeyFingerprint: "k"}),
			} {
				if !errors.Is(err, edgeapi.ErrNotFound) {
					t.Errorf("after removal: %v", err)
				}
			}
			if _, err := os.Stat(r.devicePath(d)); !errors.Is(err, os.ErrNotExist) {
				t.Error("a late report made the device anew")
			}
			if exists, err := r.Enrol(ctx, d, protocol.EnrolmentInfo{}); exists || err != nil {
				t.Errorf("asking again: %v, %v", exists, err)
			}
		})
	}
	t.Run("declined before it asks", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, t.TempDir(), auto)
		r.must(NewAdmin(r.dir).Decline(ctx, "dev1"))
		r.eventually("refused", func() bool {
			r.mu.RLock()
			defer r.mu.RUnlock()
			return r.requests["dev1"] != nil
		})
		if _, err := r.Enrol(ctx, dev("dev1"), protocol.EnrolmentInfo{}); !errors.Is(err, edgeapi.ErrForbidden) {
			t.Errorf("enrol: %v", err)
		}
	})
	t.Run("removed while the server is down", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		r := newRig(t, dir, auto)
		d := dev("dev1")
		_, err := r.Enrol(ctx, d, protocol.EnrolmentInfo{})
		r.must(err)
		path := r.devicePath(d)
		r.stop()
		r.must(os.Remove(path))
		next := newRig(t, dir)
		if next.managed(d) {
			t.Error("still managed")
		}
		if _, err := os.Stat(next.requestPath("dev1")); !errors.Is(err, os.ErrNotExist) {
			t.Error("request not forgotten")
		}
	})
}

// A state file that cannot be read is no device that is gone: neither now nor
// after a restart is it told to disconnect.
func TestBrokenStateFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := newRig(t, dir)
	d := r.enrolled("dev1")
	r.save("a.yaml", workload("w1", "dev1", "img:1"))
	r.eventually("there", func() bool { return r.workloads(d) == "w1" && len(r.stored(d).Status.Workloads) == 1 })
	good, err := os.ReadFile(r.devicePath(d))
	r.must(err)
	r.must(os.WriteFile(r.devicePath(d), []byte("{{{"), 0o600))
	r.eventually("named", func() bool {
		return len(r.problemList()) == 1 && r.problemList()[0].File == "devices/default/dev1.yaml"
	})
	if !r.managed(d) || r.workloads(d) != "w1" {
		t.Error("what it said before does not count")
	}
	if err := r.Heartbeat(context.Background(), d, protocol.Heartbeat{Status: "up"}); err == nil {
		t.Error("heartbeat taken in without being stored")
	}
	if now, err := os.ReadFile(r.devicePath(d)); err != nil || string(now) != "{{{" {
		t.Errorf("the user's edit was overwritten: %s, %v", now, err)
	}
	r.stop()

	next := newRig(t, dir)
	if managed, err := next.Managed(context.Background(), d); err == nil || managed {
		t.Errorf("after a restart: managed %v, %v, want an error", managed, err)
	}
	if _, err := next.Configuration(context.Background(), d); err == nil || errors.Is(err, edgeapi.ErrNotFound) {
		t.Errorf("configuration: %v", err)
	}
	next.must(os.WriteFile(next.devicePath(d), good, 0o600))
	next.eventually("repaired", func() bool { return next.managed(d) })
	if got := next.workloads(d); got != "w1" {
		t.Errorf("told to run %q", got)
	}
}

// The user may edit the state file; what the server writes next keeps the edit.
func TestEditedStateFileIsKept(t *testing.T) {
	t.Parallel()
	r := newRig(t, t.TempDir())
	d := r.enrolled("dev1")
	r.save("a.yaml", strings.Replace(workload("w1", "x", "img:1"), "device: x", "deviceSelector: {matchLabels: {zone: a}}", 1))
	// The edit is made in one step, whatever the server writes meanwhile.
	release, err := NewAdmin(r.dir).lock(context.Background(), "dev1")
	r.must(err)
	text, err := os.ReadFile(r.devicePath(d))
	r.must(err)
	text = bytes.Replace(text, []byte("  labels:\n"), []byte("  labels:\n    zone: a\n"), 1)
	r.must(os.WriteFile(r.devicePath(d), text, 0o600))
	release()
	// At once, before it can have been noticed.
	r.must(r.Heartbeat(context.Background(), d, protocol.Heartbeat{Status: "up"}))
	if got := r.stored(d); got.Labels["zone"] != "a" || got.Status.Phase != "up" {
		t.Errorf("labels %v, phase %s", got.Labels, got.Status.Phase)
	}
	r.eventually("in force", func() bool { return r.workloads(d) == "w1" })
}

// An edit that is made while the server writes is not overwritten.
func TestEditDuringAWriteIsKept(t *testing.T) {
	t.Parallel()
	r := newRig(t, t.TempDir())
	d := r.enrolled("dev1")
	r.eventually("quiet", func() bool { return r.managed(d) && r.stored(d).Status.LastSeenTime != nil })
	edits := 0
	r.must(r.update(context.Background(), d, func(object *v1alpha1.EdgeDevice) error {
		object.Status.Phase = "up"
		// Called once for a first look, then under the lock, after the file was read.
		if edits++; edits == 2 {
			text, err := os.ReadFile(r.devicePath(d))
			r.must(err)
			text = bytes.Replace(text, []byte("  labels:\n"), []byte("  labels:\n    zone: a\n"), 1)
			r.must(os.WriteFile(r.devicePath(d), text, 0o600))
		}
		return nil
	}))
	if got := r.stored(d); got.Labels["zone"] != "a" || got.Status.Phase != "up" || edits != 3 {
		t.Errorf("labels %v, phase %s, tried %d times", got.Labels, got.Status.Phase, edits)
	}
}

func TestHeartbeat(t *testing.T) {
	t.Parallel()
	r := newRig(t, t.TempDir())
	d := r.enrolled("dev1")
	ctx := context.Background()
	r.save("a.yaml", workload("w1", "dev1", "img:1")+"---\n"+workload("w2", "dev1", "img:1"))
	r.eventually("there", func() bool { return r.workloads(d) == "w1 w2" && len(r.stored(d).Status.Workloads) == 2 })
	version := r.message(d).Version
	upload := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	full := protocol.Heartbeat{
		Status: "up", Version: version,
		Workloads: []protocol.WorkloadStatus{
			{Name: "w2", Status: "Running", LastDataUpload: protocol.NewTime(upload)},
			{
				Name: "w1", Status: "Created", Reason: "NotReady", Message: "no answer", DesiredDigest: "d2", AppliedDigest: "d1", Restarts: 3,
				Since: protocol.NewTime(upload), Notes: []string{"n"}, Images: []protocol.WorkloadImage{{Container: "c", Reference: "img:1", ID: "i"}},
			},
			{Name: "leftover", Status: "Running"},
		},
		Upgrade: &protocol.UpgradeStatus{CurrentCommitID: "c1", LastUpgradeStatus: "succeeded"},
		Hardware: &protocol.HardwareInfo{
			Hostname: "Box-1.Example!", CPU: &protocol.CPU{ModelName: "m", Count: 4, Architecture: "x86_64", Frequency: 1234.5},
			Disks: []protocol.Disk{{Name: "sda"}}, Memory: &protocol.Memory{PhysicalBytes: 7},
			Interfaces: []protocol.Interface{{Name: "eth0", IPv4Addresses: []string{"10.0.0.1/24"}}},
		},
	}
	r.must(r.Heartbeat(ctx, d, full))
	got := r.stored(d)
	if got.Status.Phase != "up" || got.Status.LastSyncedResourceVersion != version || got.Status.LastSeenTime == nil {
		t.Errorf("status: %+v", got.Status)
	}
	if status, _, _ := condition(got, v1alpha1.ConditionConfigurationApplied); status != "True" {
		t.Errorf("applied: %s", status)
	}
	var list []string
	for _, w := range got.Status.Workloads {
		list = append(list, fmt.Sprintf("%s=%s %v", w.Name, w.Phase, w.LastDataUpload != nil && w.LastDataUpload.Equal(&[]metav1Time{{Time: upload}}[0])))
	}
	if diff := cmp.Diff([]string{"w1=Created false", "w2=Running true"}, list); diff != "" {
		t.Error(diff)
	}
	if w := got.Status.Workloads[0]; w.Reason != "NotReady" || w.Message != "no answer" || w.DesiredDigest != "d2" || w.AppliedDigest != "d1" ||
		w.Restarts != 3 || w.Since == nil || len(w.Notes) != 1 || len(w.Images) != 1 || w.Images[0].Reference != "img:1" {
		t.Errorf("details: %+v", w)
	}
	if got.Labels[v1alpha1.LabelHostname] != "box-1.example" || got.Labels[v1alpha1.LabelCPUArchitecture] != "x86_64" {
		t.Errorf("labels: %v", got.Labels)
	}

	// Defect 7.2.8: what a later report leaves out was cleared.
	r.must(r.Heartbeat(ctx, d, protocol.Heartbeat{
		Status: "degraded", Version: version, Workloads: full.Workloads,
		Hardware: &protocol.HardwareInfo{
			CPU: &protocol.CPU{Count: 8}, Disks: []protocol.Disk{}, Interfaces: []protocol.Interface{{Name: "eth1"}},
		},
	}))
	next := r.stored(d)
	hw := next.Status.Hardware
	if hw.Hostname != "Box-1.Example!" || hw.CPU.ModelName != "m" || hw.CPU.Count != 8 || hw.CPU.Frequency != "1234.50" || hw.Memory.PhysicalBytes != 7 {
		t.Errorf("hardware: %+v %+v", hw, hw.CPU)
	}
	if len(hw.Disks) != 0 || len(hw.Interfaces) != 1 || hw.Interfaces[0].Name != "eth1" || len(hw.Interfaces[0].IPV4Addresses) != 0 {
		t.Errorf("lists that were reported: %+v", hw)
	}
	if next.Status.UpgradeInformation == nil || next.Status.UpgradeInformation.CurrentCommitID != "c1" {
		t.Error("upgrade information was cleared")
	}
	if next.Status.Phase != "degraded" {
		t.Errorf("phase %s", next.Status.Phase)
	}
}

// Reports and polls that change nothing write nothing.
func TestNothingIsWrittenWithoutAChange(t *testing.T) {
	t.Parallel()
	r := newRig(t, t.TempDir())
	d := r.enrolled("dev1")
	ctx := context.Background()
	var names []string
	for i := range 6 { // the order of the list must not matter: defect 7.2.3
		names = append(names, fmt.Sprintf("w%d", i))
		r.save(names[i]+".yaml", workload(names[i], "dev1", "i"))
	}
	r.eventually("there", func() bool { return len(r.message(d).Workloads) == 6 })
	beat := protocol.Heartbeat{Status: "up", Version: r.message(d).Version, Hardware: &protocol.HardwareInfo{Hostname: "h"}}
	for _, name := range names {
		beat.Workloads = append(beat.Workloads, protocol.WorkloadStatus{Name: name, Status: "Running"})
	}
	r.must(r.Heartbeat(ctx, d, beat))
	before, err := os.Stat(r.devicePath(d))
	r.must(err)
	for i := range 50 {
		beat.Workloads[0], beat.Workloads[i%6] = beat.Workloads[i%6], beat.Workloads[0]
		beat.Workloads[i%6].Restarts++ // goes with the next change
		r.must(r.Heartbeat(ctx, d, beat))
		r.message(d)
		r.managed(d)
	}
	after, err := os.Stat(r.devicePath(d))
	r.must(err)
	if !os.SameFile(before, after) {
		t.Error("the file was replaced")
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	r := newRig(t, t.TempDir())
	d := r.enrolled("dev1")
	path := filepath.Join(r.dir, eventsDir, "default", "dev1.jsonl")
	r.must(r.Heartbeat(context.Background(), d, protocol.Heartbeat{Events: []protocol.EventInfo{
		{Reason: "Started", Message: "w1\nstarted", Type: "info"}, {Reason: "Failed", Message: strings.Repeat("é", 5000), Type: "warn"},
	}}))
	events, err := readEvents(path)
	r.must(err)
	if len(events) != 2 || events[0].Message != "w1\nstarted" || events[1].Type != "warn" || len(events[1].Message) > fleet.MaxText {
		t.Errorf("events: %+v", events)
	}
	// Bounded, whatever a device sends.
	many := protocol.Heartbeat{}
	for range 100 {
		many.Events = append(many.Events, protocol.EventInfo{Reason: "Noise", Message: strings.Repeat("x", fleet.MaxText)})
	}
	for range 12 {
		r.must(r.Heartbeat(context.Background(), d, many))
	}
	var total int64
	for _, name := range []string{path, path + ".1"} {
		if info, err := os.Stat(name); err == nil {
			total += info.Size()
		}
	}
	if total == 0 || total > 4*maxEventBytes {
		t.Errorf("%d bytes of events", total)
	}
}

func TestPendingRequestsAreBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t, t.TempDir(), func(c *Config) { c.MaxPending = 3 })
	hw := &protocol.HardwareInfo{}
	for range 2000 {
		hw.Mounts = append(hw.Mounts, protocol.Mount{Device: strings.Repeat("d", 100)})
	}
	refused := 0
	for i := range 5 {
		if _, err := r.Enrol(context.Background(), dev(fmt.Sprintf("dev%d", i)), protocol.EnrolmentInfo{Features: &protocol.DeviceFeatures{Hardware: hw}}); err != nil {
			refused++
		}
	}
	if refused != 2 {
		t.Errorf("%d of 5 refused", refused)
	}
	info, err := os.Stat(r.requestPath("dev0"))
	r.must(err)
	if info.Size() > maxRequestBytes {
		t.Errorf("request of %d bytes", info.Size())
	}
}

func TestOneServerAFolder(t *testing.T) {
	t.Parallel()
	r := newRig(t, t.TempDir())
	second, err := New(r.cfg)
	r.must(err)
	if err := second.Open(context.Background()); err == nil {
		t.Error("a second server opened the folder")
		r.must(second.Close())
	}
}

// Reports, polls, edits and commands at once: nothing is lost.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	r := newRig(t, t.TempDir(), auto)
	ctx := context.Background()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			d := dev(fmt.Sprintf("dev%d", i))
			if exists, err := r.Enrol(ctx, d, protocol.EnrolmentInfo{}); !exists || err != nil {
				t.Errorf("enrol %s: %v, %v", d, exists, err)
				return
			}
			if err := r.CompleteRegistration(ctx, edgeapi.Registration{Device: d, KeyFingerprint: "k"}); err != nil {
				t.Error(err)
			}
			for j := range 10 {
				if err := r.Heartbeat(ctx, d, protocol.Heartbeat{Status: fmt.Sprint(j)}); err != nil {
					t.Error(err)
				}
				if _, err := r.Configuration(ctx, d); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Go(func() {
		for i := range 10 {
			r.save("a.yaml", workload("w", fmt.Sprintf("dev%d", i%8), fmt.Sprintf("i:%d", i)))
			if _, err := NewAdmin(r.dir).List(); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	for i := range 8 {
		got := r.stored(dev(fmt.Sprintf("dev%d", i)))
		if got.Status.Phase != "9" || got.Annotations[v1alpha1.AnnotationRegisteredKeys] != "k" {
			t.Errorf("dev%d: phase %q, key %q", i, got.Status.Phase, got.Annotations[v1alpha1.AnnotationRegisteredKeys])
		}
	}
}

const crashDirEnv = "FLOTTA_TEST_CRASH_DIR"

// crashChild changes state until it is killed.
func crashChild(dir string) {
	b, err := New(Config{Dir: dir, AutoApprove: true, Logger: discard()})
	if err == nil {
		err = b.Open(context.Background())
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready")
	for i := 0; ; i++ {
		d := dev(fmt.Sprintf("dev%d", i%7))
		_, err := b.Enrol(context.Background(), d, protocol.EnrolmentInfo{})
		if err == nil {
			err = b.Heartbeat(context.Background(), d, protocol.Heartbeat{
				Status: fmt.Sprintf("phase-%d-%s", i, strings.Repeat("x", i%500)),
				Events: []protocol.EventInfo{{Reason: "R", Message: fmt.Sprint(i)}},
			})
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
}

// Killed at any moment, no state file is ever half of one.
func TestKilledServerLeavesWholeFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for round := range 8 {
		child := exec.Command(os.Args[0], "-test.run=^$")
		child.Env = append(os.Environ(), crashDirEnv+"="+dir)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 5)
		if _, err := out.Read(buf); err != nil || string(buf) != "ready" {
			rest := make([]byte, 500)
			n, _ := out.Read(rest)
			t.Fatalf("child says %s%s, %v", buf, rest[:n], err)
		}
		time.Sleep(time.Duration(17+23*round) * time.Millisecond) // the moment of the kill
		_ = child.Process.Kill()
		_ = child.Wait()

		b, err := New(Config{Dir: dir, Logger: discard()})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Open(context.Background()); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if len(b.state) > 0 {
			t.Errorf("round %d: unreadable: %v", round, b.state)
		}
		for d, entry := range b.devices {
			if entry.object == nil {
				t.Errorf("round %d: %s lost", round, d)
			}
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "*", "*", ".flotta-tmp-*")); len(left) > 0 {
			t.Errorf("left over: %v", left)
		}
	}
}

func TestAdminTable(t *testing.T) {
	t.Parallel()
	r := newRig(t, t.TempDir())
	ctx := context.Background()
	admin := NewAdmin(r.dir)
	d := r.enrolled("dev1")
	_, err := r.Enrol(ctx, dev("dev2"), protocol.EnrolmentInfo{})
	r.must(err)
	r.must(admin.Decline(ctx, "dev3"))
	r.must(r.CompleteRegistration(ctx, edgeapi.Registration{Device: d, KeyFingerprint: "k"}))
	r.must(r.Heartbeat(ctx, d, protocol.Heartbeat{Status: "up\x1b[31m evil"}))
	rows, err := admin.List()
	r.must(err)
	var out bytes.Buffer
	r.must(WriteTable(&out, rows, time.Now()))
	states := map[string]string{}
	for _, row := range rows {
		states[row.ID] = row.State
	}
	if diff := cmp.Diff(map[string]string{"dev1": "registered", "dev2": "pending", "dev3": "declined"}, states); diff != "" {
		t.Error(diff)
	}
	if strings.Contains(out.String(), "\x1b") || strings.Count(out.String(), "\n") != 4 {
		t.Errorf("table: %q", out.String())
	}
	for _, err := range []error{admin.Approve(ctx, "unknown"), admin.Approve(ctx, "../x"), NewAdmin(t.TempDir()).Approve(ctx, "dev1")} {
		if err == nil {
			t.Error("accepted")
		}
	}
}
