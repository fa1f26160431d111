//go:build integration

package operator

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
)

// Defect 7.2.5: a workload stayed on devices that its selector had left.
func TestDefect725SelectorEditsUndeploy(t *testing.T) {
	r := newRig(t)
	a, b := r.id("a"), r.id("b")
	r.device(a, map[string]string{"place": "hall"})
	r.device(b, map[string]string{"place": "yard"})
	w := r.workload("w", byLabels(map[string]string{"place": "hall"}))
	r.lists(a, "w")
	r.lists(b)
	r.edit(w, func() { w.Spec.DeviceSelector.MatchLabels["place"] = "yard" })
	r.lists(a)
	r.lists(b, "w")
	r.edit(w, func() { w.Spec.DeviceSelector, w.Spec.Device = nil, a })
	r.lists(a, "w")
	r.lists(b)
	r.edit(w, func() { w.Spec.Device = "nobody" })
	r.lists(a)
	r.ready(w.Name, "False", "NoDevices")
	// The label of the device decides as well as the selector.
	r.edit(w, func() {
		w.Spec.Device = ""
		w.Spec.DeviceSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "place", Operator: "DoesNotExist"}}}
	})
	r.lists(a)
	d := r.read(a)
	r.edit(d, func() { delete(d.Labels, "place") })
	r.lists(a, "w")
	// And a device that comes later is found.
	c := r.id("c")
	r.device(c, nil)
	r.lists(c, "w")
	r.must(r.admin.Delete(r.Context(), w))
	r.gone(w)
	r.lists(a)
	r.lists(c)
}

// ready waits until a workload's condition Ready says that.
func (r *rig) ready(name, status, reason string) metav1.Condition {
	r.Helper()
	var found metav1.Condition
	r.until("workload "+name+" is Ready="+status+" "+reason, func() error {
		var w v1alpha1.EdgeWorkload
		if err := r.admin.Get(r.Context(), r.key(name), &w); err != nil {
			return err
		}
		for _, c := range w.Status.Conditions {
			if c.Type == v1alpha1.WorkloadReady && string(c.Status) == status && c.Reason == reason && w.Status.ObservedGeneration == w.Generation {
				found = c
				return nil
			}
		}
		return fmt.Errorf("status is %+v", w.Status)
	})
	return found
}

// Defect 7.2.6: selectors over keys with a slash, and long names, made every
// reconcile fail.
func TestDefect726QualifiedKeysAndLongNames(t *testing.T) {
	r := newRig(t)
	id := r.id("dev")
	r.device(id, map[string]string{v1alpha1.LabelMemberOf: "halls", "kubernetes.io/arch": "arm64"})
	long := strings.Repeat("n", 64)
	r.workload(long, byName(id))
	r.workload("by-set", byLabels(map[string]string{v1alpha1.LabelMemberOf: "halls"}))
	r.workload("by-arch", byLabels(map[string]string{"kubernetes.io/arch": "arm64"}))
	r.workload("invalid", func(s *v1alpha1.EdgeWorkloadSpec) {
		s.DeviceSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Sometimes"}}}
	})
	r.lists(id, "by-arch", "by-set")
	if c := r.ready(long, "False", "NameTooLong"); !strings.Contains(c.Message, "64") {
		t.Errorf("message %q", c.Message)
	}
	if c := r.ready("invalid", "False", "InvalidSelector"); !strings.Contains(c.Message, "Sometimes") {
		t.Errorf("message %q", c.Message)
	}
	// A set is left by its label.
	d := r.read(id)
	r.edit(d, func() { delete(d.Labels, v1alpha1.LabelMemberOf) })
	r.lists(id, "by-arch")
	for _, name := range []string{long, "invalid"} {
		w := &v1alpha1.EdgeWorkload{ObjectMeta: metav1.ObjectMeta{Namespace: r.ns, Name: name}}
		r.must(r.admin.Delete(r.Context(), w))
		r.gone(w)
	}
}

// Defect 7.2.12: finalizers and labels of others were overwritten.
func TestDefect7212WorkloadKeepsForeignMetadata(t *testing.T) {
	r := newRig(t)
	id := r.id("dev")
	r.device(id, map[string]string{"mine": "1"})
	w := r.workload("w", byName(id))
	r.edit(w, func() {
		controllerutil.AddFinalizer(w, "example.com/mine")
		metav1.SetMetaDataLabel(&w.ObjectMeta, "example.com/team", "a")
		metav1.SetMetaDataLabel(&w.ObjectMeta, v1alpha1.LabelSelectorPrefix+"old", "true") // of an operator of v0.2
	})
	r.until("the index labels are right, and others stay", func() error {
		r.must(r.admin.Get(r.Context(), client.ObjectKeyFromObject(w), w))
		want := map[string]string{"example.com/team": "a", v1alpha1.LabelSelectorDeviceName: id}
		if fmt.Sprint(w.Labels) != fmt.Sprint(want) || len(w.Finalizers) != 2 {
			return fmt.Errorf("labels %v, finalizers %v", w.Labels, w.Finalizers)
		}
		return nil
	})
	r.must(r.admin.Delete(r.Context(), w))
	r.lists(id)
	r.until("our finalizer is removed, and ours alone", func() error {
		r.must(r.admin.Get(r.Context(), client.ObjectKeyFromObject(w), w))
		if len(w.Finalizers) != 1 || w.Finalizers[0] != "example.com/mine" {
			return fmt.Errorf("finalizers %v", w.Finalizers)
		}
		return nil
	})
	r.edit(w, func() { controllerutil.RemoveFinalizer(w, "example.com/mine") })
	r.gone(w)
	if d := r.read(id); d.Labels["mine"] != "1" {
		t.Errorf("labels of the device: %v", d.Labels)
	}
}

// Defect 7.2.4: what the operator added was lost under a heartbeat, and the other
// way round.
func TestDefect724NobodyLosesAWrite(t *testing.T) {
	r := newRig(t)
	id := r.id("dev")
	r.device(id, nil)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			r.report(id, func(d *v1alpha1.EdgeDevice) {
				d.Status.Phase = fmt.Sprint("beat-", n)
				for i := range d.Status.Workloads {
					d.Status.Workloads[i].Phase = "Running"
				}
			})
		}
	}()
	var names []string
	for i := range 12 {
		name := fmt.Sprintf("w-%02d", i)
		w := r.workload(name, byName(id))
		if i%3 == 2 {
			r.must(r.admin.Delete(r.Context(), w))
		} else {
			names = append(names, name)
		}
	}
	r.lists(id, names...)
	r.until("what the device reports arrives", func() error {
		d := r.read(id)
		if slices.ContainsFunc(d.Status.Workloads, func(s v1alpha1.WorkloadStatus) bool { return s.Phase != "Running" }) {
			return fmt.Errorf("workloads %+v", d.Status.Workloads)
		}
		return nil
	})
	close(stop)
	<-stopped
	for range 20 { // nothing of it is undone afterwards
		d := r.read(id)
		if len(d.Status.Workloads) != len(names) || d.Status.Phase == "" || d.Status.Workloads[0].Phase != "Running" {
			t.Fatalf("status %+v", d.Status)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func TestWorkloadIsSummedUp(t *testing.T) {
	r := newRig(t)
	var ids []string
	for i := range 7 {
		ids = append(ids, r.id(fmt.Sprint("dev", i)))
		r.device(ids[i], map[string]string{"fleet": "a"})
	}
	r.workload("w", byLabels(map[string]string{"fleet": "a"}))
	for _, id := range ids {
		r.lists(id, "w")
	}
	r.ready("w", "False", "Deploying")
	say := func(id, phase, reason, message string) {
		r.report(id, func(d *v1alpha1.EdgeDevice) {
			d.Status.Workloads[0].Phase, d.Status.Workloads[0].Reason, d.Status.Workloads[0].Message = phase, reason, message
		})
	}
	for _, id := range ids {
		say(id, "Running", "", "")
	}
	r.ready("w", "True", "Running")
	r.counts("w", "7 7 0")
	for _, id := range ids[1:] {
		say(id, "Error", "", "")
	}
	say(ids[0], "Running", "SecretNotFound", `Secret "s" does not exist`)
	r.counts("w", "7 0 7")
	r.updated("w", 0)
	if c := r.ready("w", "False", "Failed"); !strings.Contains(c.Message, `Secret "s"`) || !strings.Contains(c.Message, "2 more") {
		t.Errorf("message %q", c.Message)
	}
	r.must(r.admin.Delete(r.Context(), r.read(ids[1])))
	r.counts("w", "6 0 6")
	// Being on the way is no failure, and what was rolled back is not updated.
	for i, id := range []string{ids[0], ids[2], ids[3], ids[4], ids[5], ids[6]} {
		r.report(id, func(d *v1alpha1.EdgeDevice) {
			e := &d.Status.Workloads[0]
			e.Phase, e.Reason, e.Message, e.ObservedGeneration, e.DesiredDigest = "Running", "", "", 1, "new"
			e.AppliedDigest = e.DesiredDigest
			switch i {
			case 0:
				e.Phase, e.Reason, e.AppliedDigest = "Deploying", "Pulling", "old"
			case 1:
				e.Reason, e.AppliedDigest = "ContainerExited", "old"
			case 2:
				e.DesiredDigest, e.AppliedDigest = "", "" // flotta v0.2
			case 3:
				e.ObservedGeneration = 0
			}
		})
	}
	r.counts("w", "6 4 1")
	r.updated("w", 3)
	out, err := r.kube.Kubectl(r.Context(), "", "-n", r.ns, "get", "edgedevice,edgeworkload", "-o", "wide")
	if err != nil || !strings.Contains(out, "MATCHED") || !strings.Contains(out, "ONLINE") || !strings.Contains(out, "Failed") {
		t.Errorf("kubectl get -o wide: %v\n%s", err, out)
	}
}

func (r *rig) updated(name string, want int32) {
	r.Helper()
	r.until(fmt.Sprint("updated is ", want), func() error {
		var w v1alpha1.EdgeWorkload
		if err := r.admin.Get(r.Context(), r.key(name), &w); err != nil {
			return err
		}
		if w.Status.Updated != want {
			return fmt.Errorf("it is %d", w.Status.Updated)
		}
		return nil
	})
}

func (r *rig) counts(name, want string) {
	r.Helper()
	r.until("the counts are "+want, func() error {
		var w v1alpha1.EdgeWorkload
		if err := r.admin.Get(r.Context(), r.key(name), &w); err != nil {
			return err
		}
		if got := fmt.Sprint(w.Status.Matched, " ", w.Status.Running, " ", w.Status.Failed); got != want {
			return fmt.Errorf("they are %s", got)
		}
		return nil
	})
}

func TestDeviceIsOnlineWhileItIsSeen(t *testing.T) {
	r := newRig(t)
	id := r.id("dev")
	r.device(id, nil)
	online := func(status, reason string) {
		r.Helper()
		r.until("Online is "+status+" "+reason, func() error {
			c := fleet.Condition(r.read(id), v1alpha1.ConditionOnline)
			if c == nil || string(c.Status) != status || c.Reason != reason {
				return fmt.Errorf("it is %+v", c)
			}
			return nil
		})
	}
	// It reports until the operator, which may be busy with others, looks in time.
	seen := func(ahead, precision time.Duration) {
		r.Helper()
		r.until("it is seen", func() error {
			r.report(id, func(d *v1alpha1.EdgeDevice) { fleet.Touch(d, time.Now().Add(ahead), precision) })
			c := fleet.Condition(r.read(id), v1alpha1.ConditionOnline)
			if c == nil || string(c.Status) != "True" || c.Reason != "Seen" {
				return fmt.Errorf("it is %+v", c)
			}
			return nil
		})
	}
	online("False", "NeverSeen")
	for range 2 {
		seen(0, time.Second)
		online("False", "NotSeen")
	}
	seen(time.Second, 0) // the clock of the Edge API is ahead
	online("False", "NotSeen")
}

// Applying a manifest again changes nothing, and the operator owns nothing of
// what is in it.
func TestManifestsAppliedAgainChangeNothing(t *testing.T) {
	r := newRig(t)
	id := r.id("dev")
	manifest := fmt.Sprintf(`
apiVersion: management.project-flotta.io/v1alpha1
kind: EdgeDevice
metadata: {name: %[2]s, namespace: %[1]s, labels: {place: hall}}
spec: {heartbeat: {periodSeconds: 30}}
---
apiVersion: management.project-flotta.io/v1alpha1
kind: EdgeWorkload
metadata: {name: w, namespace: %[1]s}
spec:
  deviceSelector: {matchLabels: {place: hall}}
  type: pod
  pod: {spec: {containers: [{name: app, image: example.com/app}]}}
---
apiVersion: management.project-flotta.io/v1alpha1
kind: EdgeDeviceSignedRequest
metadata: {name: %[2]s, namespace: default}
spec: {targetNamespace: %[1]s, approved: true}
`, r.ns, id)
	for _, how := range [][]string{{}, {"--server-side", "--force-conflicts"}} {
		apply := append([]string{"apply", "-f", "-"}, how...)
		_, err := r.kube.Kubectl(r.Context(), manifest, apply...)
		r.must(err)
		r.lists(id, "w")
		r.ready("w", "False", "Deploying")
		var before []string
		same := 0
		r.until("everything is at rest", func() error {
			now := r.versions(id)
			if same++; !slices.Equal(now, before) {
				before, same = now, 0
			}
			if same == 3 {
				return nil
			}
			time.Sleep(time.Second)
			return fmt.Errorf("it changes")
		})
		out, err := r.kube.Kubectl(r.Context(), manifest, apply...)
		r.must(err)
		if len(how) == 0 && strings.Contains(out, "configured") {
			t.Errorf("a second apply says\n%s", out)
		}
		time.Sleep(time.Second)
		if after := r.versions(id); !slices.Equal(before, after) {
			t.Errorf("apply %v again: versions were %v, are %v", how, before, after)
		}
	}
	d := r.read(id)
	for _, m := range d.ManagedFields {
		if m.Manager == FieldOwner && strings.Contains(string(m.FieldsV1.GetRawBytes()), "f:heartbeat") {
			t.Errorf("the operator owns what the manifest says: %s", m.FieldsV1.GetRawBytes())
		}
	}
}

func (r *rig) versions(id string) []string {
	r.Helper()
	var w v1alpha1.EdgeWorkload
	var q v1alpha1.EdgeDeviceSignedRequest
	r.must(r.admin.Get(r.Context(), r.key("w"), &w))
	r.must(r.admin.Get(r.Context(), requestName(id), &q))
	return []string{r.read(id).ResourceVersion, w.ResourceVersion, q.ResourceVersion}
}
