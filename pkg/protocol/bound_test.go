package protocol

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func chatty(name string) WorkloadStatus {
	w := WorkloadStatus{
		Name: name, Status: "Error", Reason: "ContainerExited", Message: strings.Repeat("m", 5000),
		DesiredDigest: strings.Repeat("d", 32), AppliedDigest: strings.Repeat("a", 32), Restarts: 3,
	}
	long := strings.Repeat("e", 5000)
	d := &DataDirectionStatus{LastError: long, Blocked: long, Paused: long}
	w.DataSync = &DataSyncStatus{Egress: d, Ingress: d}
	for i := range 200 {
		d.Problems = append(d.Problems, DataProblem{Reason: fmt.Sprint("Reason", i), Message: long})
		w.Notes = append(w.Notes, fmt.Sprint("note ", i, strings.Repeat("n", 500)))
		w.Images = append(w.Images, WorkloadImage{Container: fmt.Sprint("c", i), Reference: strings.Repeat("r", 500), ID: strings.Repeat("i", 71)})
	}
	return w
}

func TestBounded(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 50, 2000} {
		list := slices.Repeat([]WorkloadStatus{chatty("w")}, n)
		before := chatty("w")
		const size = 128 << 10
		raw, err := json.Marshal(Bounded(list, size))
		if err != nil {
			t.Fatal(err)
		}
		// Beside the texts there are names, digests and JSON itself.
		if limit := size + n*1200; len(raw) > limit {
			t.Errorf("%d workloads have %d bytes, want at most %d", n, len(raw), limit)
		}
		if diff := cmp.Diff(before, list[0]); diff != "" {
			t.Errorf("the list was changed:\n%.500s", diff)
		}
	}
	got := Bounded([]WorkloadStatus{chatty("w")}, 128<<10)[0]
	if len(got.Message) != maxStatusMessage || !strings.HasSuffix(got.Message, cutMark) {
		t.Errorf("message of %d bytes ends with %q", len(got.Message), got.Message[len(got.Message)-5:])
	}
	if last := got.Notes[len(got.Notes)-1]; len(got.Notes) != maxStatusNotes+1 || last != "... and 184 more" {
		t.Errorf("%d notes, the last is %q", len(got.Notes), last)
	}
	if last := got.Images[len(got.Images)-1]; len(got.Images) != maxStatusImages+1 || last.Reference != "... and 184 more" {
		t.Errorf("%d images, the last is %+v", len(got.Images), last)
	}
	if d := got.DataSync.Egress; len(d.LastError) != maxStatusText || len(d.Problems) != maxDataProblems {
		t.Errorf("an error of %d bytes, %d problems", len(d.LastError), len(d.Problems))
	}
}

func TestBoundedLeavesTheRestAlone(t *testing.T) {
	t.Parallel()
	list := []WorkloadStatus{
		{Name: "old", Status: "Running"},
		{
			Name: "new", Status: "Running", Reason: "NotReady", Message: "größe 5", Restarts: 2, Notes: []string{"n"},
			Images: []WorkloadImage{{Container: "c", Reference: "r", ID: "i"}},
			DataSync: &DataSyncStatus{Egress: &DataDirectionStatus{
				PendingFiles: 1, PendingBytes: 2, FailedFiles: 3, LastError: "e", Problems: []DataProblem{{"R", "m"}, {"R", "n"}},
			}},
		},
	}
	if diff := cmp.Diff(list, Bounded(list, 64<<10)); diff != "" {
		t.Error(diff)
	}
	if got := Bounded(nil, 0); got != nil {
		t.Errorf("nothing became %v", got)
	}
	if got := Bounded([]WorkloadStatus{{Restarts: -5}}, 0)[0].Restarts; got != 0 {
		t.Errorf("%d restarts", got)
	}
	low := &DataSyncStatus{Ingress: &DataDirectionStatus{PendingFiles: -1, PendingBytes: -1, FailedFiles: -1}}
	if diff := cmp.Diff(&DataSyncStatus{Ingress: &DataDirectionStatus{}}, Bounded([]WorkloadStatus{{DataSync: low}}, 0)[0].DataSync); diff != "" {
		t.Error(diff)
	}
	if got := Bounded([]WorkloadStatus{{DataSync: &DataSyncStatus{}}}, 0)[0].DataSync; got != nil {
		t.Errorf("nothing became %v", got)
	}
}

func TestInProgress(t *testing.T) {
	t.Parallel()
	for reason, want := range map[string]bool{"Pulling": true, "Settling": true, "": false, "NotReady": false, "pulling": false} {
		if InProgress(reason) != want {
			t.Errorf("%q in progress is %v", reason, !want)
		}
	}
}

// FuzzBounded: whatever a workload writes becomes short, valid and printable.
func FuzzBounded(f *testing.F) {
	f.Add("plain", 100)
	f.Add("\x1b]0;title\x07\x1b[31mred\x9b", 10)
	f.Add("a\u202eb\xff\xfe", 3)
	f.Add(strings.Repeat("é", 1000), 999)
	f.Fuzz(func(t *testing.T, text string, size int) {
		size %= 1 << 16
		w := WorkloadStatus{
			Reason: text, Message: text, DesiredDigest: text, AppliedDigest: text,
			Notes: []string{text, text}, Images: []WorkloadImage{{Container: text, Reference: text, ID: text}},
		}
		w.DataSync = &DataSyncStatus{Egress: &DataDirectionStatus{
			LastError: text, Blocked: text, Paused: text, Problems: []DataProblem{{Reason: text, Message: text}},
		}}
		got := Bounded([]WorkloadStatus{w}, size)[0]
		texts := slices.Concat([]string{got.Reason, got.Message, got.DesiredDigest, got.AppliedDigest}, got.Notes)
		for _, i := range got.Images {
			texts = append(texts, i.Container, i.Reference, i.ID)
		}
		texts = append(texts, got.DataSync.Egress.LastError, got.DataSync.Egress.Blocked, got.DataSync.Egress.Paused)
		for _, p := range got.DataSync.Egress.Problems {
			texts = append(texts, p.Reason, p.Message)
		}
		for _, s := range texts {
			if len(s) > maxStatusMessage || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
				t.Errorf("%q became %q", text, s)
			}
		}
	})
}
