package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/project-flotta/flotta-agent/internal/desired"
)

// removed starts a device that has run the workload w, which wrote a file, and
// is then told to run other instead.
func (h *host) removed(crashAt string) {
	h.t.Helper()
	h.start(crashAt)
	h.tell("1", sending("w"))
	h.after(time.Minute)
	h.write("w", "out/file", "words")
	h.tell("2", plain("other"))
}

func TestVolumeGoesWhenItIsDeliveredAndKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		h.bucket.setAway(true)
		h.removed("")
		defer func() { h.stop() }()
		h.write("w", "out/last", "more") // while it is ended
		h.after(24 * time.Hour)
		if h.world.Digest("w") != "" || !h.holds("w", "out/last", "more") {
			t.Error("want the pod gone and the volume there")
		}
		problems := strings.Join(h.retire.Problems(), "; ")
		if !strings.HasPrefix(problems, "volume of w is kept: ") || !strings.Contains(problems, "store unavailable") {
			t.Errorf("problems %q", problems)
		}
		if n := h.reported(reasonVolumeKept); n != 1 {
			t.Errorf("reported %d times that it is kept, want once", n)
		}
		h.bucket.setAway(false)
		h.after(5 * time.Minute)
		if h.bucket.content("w/file") != "words" || h.bucket.content("w/last") != "more" {
			t.Errorf("in the bucket: %v", h.bucket.objects)
		}
		if problems := h.retire.Problems(); len(problems) > 0 {
			t.Errorf("problems %q", problems)
		}
		h.after(h.retention - 10*time.Minute)
		if !h.holds("w", "out/file", "words") {
			t.Error("gone before the end of the retention")
		}
		h.after(10 * time.Minute)
		if got := h.volumeNames(); got != "other" || h.reported(reasonVolumeRemoved) != 1 {
			t.Errorf("volumes %q", got)
		}
		if left := h.store.Current().State().Retired; len(left) > 0 {
			t.Errorf("retired %+v", left)
		}
	})
}

func TestVolumeWithoutEgressGoes(t *testing.T) {
	t.Parallel()
	for _, retention := range []time.Duration{0, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			h := newHost(t)
			h.retention = retention
			h.bucket.setAway(true)
			h.start("")
			defer func() { h.stop() }()
			h.tell("1", plain("w"))
			h.after(time.Minute)
			h.write("w", "anything", "words")
			h.world.SetDown(true) // Podman does not answer: the pod may still write
			h.tell("2")
			h.after(6 * time.Hour)
			if !h.holds("w", "anything", "words") {
				t.Fatal("the volume of what may still run is gone")
			}
			h.world.SetDown(false)
			if h.after(30 * time.Minute); retention > 0 && !h.holds("w", "anything", "words") {
				t.Error("gone before the end of the retention")
			}
			h.after(retention)
			if got := h.volumeNames(); got != "" {
				t.Errorf("volumes %q", got)
			}
		})
	}
}

// The agent is killed at every step, and the file is in the bucket before it is
// gone from the device; and at every step the workload may come back.
func TestRetirementKilledAtEachStep(t *testing.T) {
	t.Parallel()
	for _, at := range []string{
		stepEnded, stepSent, stepRecorded, stepAged, stepChecked, stepAside, stepDisposed, stepEmptying, stepVolumeOut,
		"remove-begin", "remove-stopped", "remove-pod", "removed",
	} {
		for _, back := range []bool{false, true} {
			t.Run(fmt.Sprint(at, " back ", back), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { retirementKilled(t, at, back) })
			})
		}
	}
}

func retirementKilled(t *testing.T, at string, back bool) {
	h := newHost(t)
	if at == stepVolumeOut { // is passed at the start, with nothing to do
		h.start("")
		h.tell("1", sending("w"))
		h.after(time.Minute)
		h.write("w", "out/file", "words")
		h.tell("2", plain("other"))
		h.after(h.retention - time.Minute)
		h.stop()
		h.start(stepDisposed)
	} else {
		h.removed(at)
	}
	h.after(h.retention + 10*time.Minute)
	if !h.died() {
		t.Fatal("it passed no such step")
	}
	h.stop()
	if back { // before the agent goes on with what may be due at once
		h.early = func() { h.tell("3", sending("w")) }
	}
	h.start("")
	defer func() { h.stop() }()
	h.after(2 * (h.retention + 10*time.Minute))
	if h.bucket.content("w/file") != "words" {
		t.Errorf("in the bucket: %v", h.bucket.objects)
	}
	gone := at == stepAside || at == stepDisposed || at == stepEmptying || at == stepVolumeOut
	want := "other"
	if back {
		want = "other w" // other is retired and delivered, and its time has come
		if h.volumeNames() == "w" {
			want = "w"
		}
		if h.world.Digest("w") == "" || h.holds("w", "out/file", "words") == gone {
			t.Errorf("it runs: %t; its file is there: %t, want %t", h.world.Digest("w") != "", gone, !gone)
		}
	}
	if got := h.volumeNames(); got != want {
		t.Errorf("volumes %q, want %q", got, want)
	}
}

// Ages are kept over restarts, and a restart does not begin the retention anew.
func TestRetentionIsTimeThatTheAgentRan(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		h.removed("")
		h.after(time.Hour)
		for range 3 {
			h.stop()
			time.Sleep(1000 * time.Hour) // it is off
			h.start("")
			h.after(30 * time.Minute)
			if !h.holds("w", "out/file", "words") {
				t.Fatal("time in which the device was off has aged the volume")
			}
		}
		defer func() { h.stop() }()
		h.after(40 * time.Minute)
		if got := h.volumeNames(); got != "other" {
			t.Errorf("volumes %q", got)
		}
	})
}

func TestVolumeThatIsWrittenToIsDeliveredAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		h.removed("")
		defer func() { h.stop() }()
		h.after(time.Hour)
		h.bucket.setAway(true)
		h.write("w", "out/by hand", "late")
		h.after(24 * time.Hour)
		if !h.holds("w", "out/by hand", "late") {
			t.Fatal("gone with a file that is nowhere else")
		}
		h.bucket.setAway(false)
		h.after(h.retention + 5*time.Minute)
		if h.bucket.content("w/by hand") != "late" || h.volumeNames() != "other" {
			t.Errorf("in the bucket: %v, volumes %q", h.bucket.objects, h.volumeNames())
		}
	})
}

func TestVolumeThatIsNoFolderStays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		h.start("")
		defer func() { h.stop() }()
		h.tell("1", plain("w"))
		h.after(time.Minute)
		h.tell("2")
		h.after(time.Minute)
		path := filepath.Join(h.dir, "volumes", "w")
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(t.TempDir(), path); err != nil {
			t.Fatal(err)
		}
		h.after(2 * h.retention)
		if _, err := os.Lstat(path); err != nil || len(h.retire.Problems()) != 1 {
			t.Errorf("%v, problems %q", err, h.retire.Problems())
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		h.after(5 * time.Minute)
		if left := h.store.Current().State().Retired; len(left) > 0 || len(h.retire.Problems()) != 0 {
			t.Errorf("retired %+v, problems %q", left, h.retire.Problems())
		}
	})
}

// What a device that is no longer managed keeps, and for how long.
func TestVolumesOfADeviceThatLeft(t *testing.T) {
	t.Parallel()
	for _, away := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			h := newHost(t)
			h.start("")
			h.tell("1", sending("w"), plain("plain"), sending("early"))
			h.after(time.Minute)
			h.write("early", "out/file", "e")
			h.tell("2", sending("w"), plain("plain"))
			h.after(time.Minute)
			h.write("w", "out/file", "words")
			h.bucket.setAway(away)
			h.leave.begin()
			h.after(10 * time.Minute)
			if h.saw("restart") != 1 || !h.store.Current().State().Managed() {
				t.Fatalf("done %q, want it to have left", h.all())
			}
			h.stop()
			h.yggd++
			h.start("") // nobody manages it
			defer func() { h.stop() }()
			h.after(time.Hour)
			if got := h.volumeNames(); got != "early plain w" {
				t.Errorf("volumes %q before the end of the retention", got)
			}
			h.after(2 * h.retention)
			want := ""
			if away {
				want = "w"
			}
			if got := h.volumeNames(); got != want || (h.bucket.content("w/file") == "") != away {
				t.Errorf("volumes %q, want %q; in the bucket: %v", got, want, h.bucket.objects)
			}
			// Whoever manages it next has no business with that.
			h.bucket.setAway(false)
			h.tell("1", plain("other"))
			h.after(2 * h.retention)
			if (h.bucket.content("w/file") == "") != away || away && !h.holds("w", "out/file", "words") {
				t.Errorf("in the bucket: %v, volumes %q", h.bucket.objects, h.volumeNames())
			}
		})
	}
}

// What a workload writes while it is ended is delivered too.
func TestLastWordsOfADeviceThatLeaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		h.start(stepWithdrawn)
		h.tell("1", sending("w"))
		h.after(time.Minute)
		h.leave.begin()
		h.after(time.Minute)
		h.stop()
		h.write("w", "out/last", "words")
		h.start("")
		defer func() { h.stop() }()
		h.after(10 * time.Minute)
		if h.bucket.content("w/last") != "words" || h.saw("restart") != 1 {
			t.Errorf("in the bucket: %v, done %q", h.bucket.objects, h.all())
		}
	})
}

// A volume that is changed by hand when nobody is there to take it stays.
func TestVolumeChangedAfterTheDeviceLeftStays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		h.start("")
		defer func() { h.stop() }()
		h.tell("1", sending("w"))
		h.after(time.Minute)
		h.write("w", "out/file", "words")
		h.leave.begin()
		h.after(10 * time.Minute)
		h.write("w", "out/by hand", "late")
		h.after(2 * h.retention)
		if !h.holds("w", "out/by hand", "late") || len(h.store.Current().State().Retired) != 0 {
			t.Errorf("volumes %q", h.volumeNames())
		}
	})
}

func TestRetiredTwiceIsTwoRetirements(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		h.removed("")
		defer func() { h.stop() }()
		h.after(h.retention - 30*time.Minute)
		h.tell("3", sending("w"))
		h.after(10 * time.Minute)
		h.bucket.setAway(true)
		h.write("w", "out/second", "life")
		h.tell("4")
		h.after(10 * h.retention)
		if !h.holds("w", "out/second", "life") {
			t.Error("the age of the first retirement, or its delivery, counted in the second")
		}
		h.bucket.setAway(false)
		h.after(5 * time.Minute)
		h.after(h.retention - 10*time.Minute)
		if !h.holds("w", "out/second", "life") {
			t.Error("gone before the end of the retention")
		}
		h.after(10 * time.Minute)
		if got := h.volumeNames(); got != "" || h.bucket.content("w/second") != "life" {
			t.Errorf("volumes %q", got)
		}
	})
}

func TestNothingEndsWhileNothingIsKnown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		h.retention = 0
		h.start("remove-begin")
		h.tell("1", plain("w"))
		h.after(time.Minute)
		h.write("w", "file", "words")
		h.tell("2")
		h.after(time.Minute)
		h.stop()
		// The desired state is damaged: the pod runs, and is left alone.
		if err := os.WriteFile(filepath.Join(h.dir, "desired.json"), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		h.start("")
		defer func() { h.stop() }()
		h.after(24 * time.Hour)
		if !h.holds("w", "file", "words") || h.world.Digest("w") == "" {
			t.Error("something was taken from a device that does not know what it was told")
		}
		var none desired.Retired
		if got := h.store.Current().State().Retired; len(got) != 1 || got[0].ID == none.ID {
			t.Errorf("retired %+v", got)
		}
		h.tell("3")
		h.after(10 * time.Minute)
		if got := h.volumeNames(); got != "" {
			t.Errorf("volumes %q", got)
		}
	})
}
