package logs

import (
	"context"
	"os/exec"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/containers"
	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/logs/follow"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

func TestPlan(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	state := collects(tcpTarget("a"), "shop")
	state.Workloads[0].PodSpec = []byte(`{"initContainers":[{"name":"init"}],"containers":[{"name":"app"},{}]}`)
	state.Workloads = append(
		state.Workloads,
		desired.Workload{Name: "silent", PodSpec: []byte(`{"containers":[{"name":"app"}]}`)},
		desired.Workload{Name: "lost", LogTarget: "nowhere", PodSpec: []byte(`{"containers":[{"name":"app"}]}`)},
		desired.Workload{Name: "broken", LogTarget: "main", PodSpec: []byte(`{`)},
	)
	list := []containers.Container{
		{ID: "1", Name: "shop-app", Workload: "shop", Container: "app", LogDriver: "journald"},
		{ID: "2", Name: "shop-init", Workload: "shop", Container: "init", LogDriver: "k8s-file", LogPath: "/log"},
		{ID: "3", Name: "silent-app", Workload: "silent", Container: "app", LogDriver: "journald"},
		{ID: "4", Name: "broken-app", Workload: "broken", Container: "app", LogDriver: "journald"},
		{ID: "5", Name: "lost-app", Workload: "lost", Container: "app", LogDriver: "none"},
	}
	shopApp := follow.Origin{Workload: "shop", Container: "app", ID: "1", Since: now}
	want := routing{
		routes: map[string]string{"shop": "main", "lost": "nowhere", "broken": "main"},
		journal: map[string]follow.Origin{
			"shop-app":   shopApp, // not shop-init, which is in a file
			"broken-app": {Workload: "broken", Container: "app", ID: "4"},
		},
		files: map[string]follow.Source{
			"2": {Origin: follow.Origin{Workload: "shop", Container: "init", ID: "2"}, Name: "shop-init", Path: "/log"},
		},
		there:   map[string]bool{"1": true, "2": true, "3": true, "4": true, "5": true},
		unknown: map[string]string{"lost": `workload lost: the device has no log target "nowhere"; its lines are not read until there is one`},
		unread: map[string]string{
			"lost-app": "container app of workload lost: its log driver is none, which keeps no lines that could be read; use journald or k8s-file",
		},
		leaving: map[string]time.Time{},
	}
	got := plan(state, list, true, routing{}, now)
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(routing{})); diff != "" {
		t.Fatalf("(-want +got)\n%s", diff)
	}

	// shop goes; what it has is read until its containers are gone for a while.
	state.Workloads = state.Workloads[1:]
	got = plan(state, list, true, got, now)
	if got.journal["shop-app"] != shopApp || got.routes["shop"] != "main" || !got.next.IsZero() {
		t.Errorf("with its containers there, shop is read as %+v, next %s", got.journal["shop-app"], got.next)
	}
	got = plan(state, list[2:], true, got, now.Add(time.Hour))
	if got.journal["shop-app"].Workload != "shop" || !got.next.Equal(now.Add(time.Hour+farewell)) || len(got.files) != 0 {
		t.Errorf("right after its containers are gone, shop is read as %+v, next %s", got.journal["shop-app"], got.next)
	}
	got = plan(state, list[2:], true, got, now.Add(time.Hour+farewell/2))
	if got.routes["shop"] != "main" {
		t.Error("shop is forgotten too early")
	}
	got = plan(state, list[2:], true, got, now.Add(time.Hour+farewell))
	if _, ok := got.journal["shop-app"]; ok || got.routes["shop"] != "" || len(got.leaving) != 0 || !got.next.IsZero() {
		t.Errorf("shop is never forgotten: %+v", got)
	}
}

// TestPlanBeforeTheInventory keeps what was read until it is known what there is.
func TestPlanBeforeTheInventory(t *testing.T) {
	t.Parallel()
	now := time.Now()
	got := plan(desired.State{}, nil, false, routing{routes: map[string]string{"shop": "main"}}, now)
	if got.there != nil || got.routes["shop"] != "main" || !got.next.IsZero() {
		t.Errorf("%+v", got)
	}
}

// TestPlanWhilePodmanIsAway reads the files that it read, and no longer pauses those
// whose spool is open by now.
func TestPlanWhilePodmanIsAway(t *testing.T) {
	t.Parallel()
	paused := follow.Source{Origin: follow.Origin{Workload: "shop", Container: "app", ID: "1", Paused: true}, Path: "/log"}
	before := routing{routes: map[string]string{"shop": "main"}, files: map[string]follow.Source{"1": paused}}
	got := plan(collects(tcpTarget("a"), "shop"), nil, false, before, time.Now())
	want := paused
	want.Paused = false
	if diff := cmp.Diff(map[string]follow.Source{"1": want}, got.files); diff != "" {
		t.Errorf("files that are read (-want +got)\n%s", diff)
	}
	if !before.files["1"].Paused {
		t.Error("the former routing changed, which others look at")
	}
}

// TestPlanAfterRestart goes on with the farewell of a workload: its container is
// known by name, and its journal is read.
func TestPlanAfterRestart(t *testing.T) {
	t.Parallel()
	now := time.Now()
	state := collects(tcpTarget("a"), "shop")
	list := []containers.Container{{ID: "1", Name: "shop-app", Workload: "shop", Container: "app", LogDriver: "journald"}}
	before := plan(state, list, true, routing{}, now)
	dir := t.TempDir()
	if err := (places{Routes: before.routes, Names: namesOf(before.journal)}).save(dir); err != nil {
		t.Fatal(err)
	}
	p, _, err := loadPlaces(dir)
	if err != nil {
		t.Fatal(err)
	}
	state.Workloads = nil
	got := plan(state, nil, true, p.routing(), now)
	want := map[string]follow.Origin{"shop-app": {Workload: "shop", Container: "app"}}
	if diff := cmp.Diff(want, got.journal); diff != "" {
		t.Errorf("names that are read (-want +got)\n%s", diff)
	}
	if got.routes["shop"] != "main" || !got.next.Equal(now.Add(farewell)) {
		t.Errorf("it goes to %q until %s", got.routes["shop"], got.next)
	}
}

// TestFarewellAfterRestart delivers what a workload wrote into the journal before
// it went, which the agent had not read when it was restarted.
func TestFarewellAfterRestart(t *testing.T) {
	t.Parallel()
	s := newSink(t)
	c := containers.Container{ID: "c1", Name: "shop-app", Workload: "shop", Container: "app", LogDriver: "journald"}
	state := collects(tcpTarget(s.Addr().String()), "shop")
	cfg := testConfig(t, newTold(state), newInventory(c))
	var last atomic.Bool
	cfg.Journalctl = func(ctx context.Context, args ...string) *exec.Cmd {
		// Of a journal of two entries. Looking for one shows the first.
		show := `entry() { printf '__CURSOR=s=a;i=%s;b=b;m=1;t=%s;x=1\nCONTAINER_NAME=shop-app\nCONTAINER_ID_FULL=c1\nMESSAGE=line %s\n\n' $1 $1 $1; }; entry 1;`
		if slices.Contains(args, "--follow") {
			if last.Load() {
				show += "entry 2;"
			}
			show += "exec sleep 1000"
		}
		return exec.CommandContext(ctx, "sh", "-c", show)
	}
	_, stop := start(t, cfg)
	eventually(t, "the first line arrives", func() bool { return s.count() == 1 })
	stop()
	last.Store(true)
	state.Workloads = nil
	cfg.Desired, cfg.Containers = newTold(state), newInventory()
	start(t, cfg)
	eventually(t, "the last line arrives", func() bool { return s.count() == 2 })
}

func TestRecord(t *testing.T) {
	t.Parallel()
	want := follow.Line{
		Time: time.UnixMicro(1795298964142739), Workload: "shop", Container: "app", Stderr: true, More: true, Text: []byte("x\x00\xff"),
	}
	got, err := decodeRecord(encodeRecord(want))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func FuzzRecord(f *testing.F) {
	f.Add(encodeRecord(follow.Line{Time: time.UnixMicro(1), Workload: "shop", Container: "app", Text: []byte("text")}))
	f.Add([]byte{recordVersion, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Add([]byte{2, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		line, err := decodeRecord(raw)
		if err != nil {
			return
		}
		again, err := decodeRecord(encodeRecord(line))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(line, again); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}

func TestSettings(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		info protocol.LogsCollectionInformation
		want string // "": it is refused
	}{
		{tcpTarget("a:1"), "tcp a:1"},
		{protocol.LogsCollectionInformation{SyslogConfig: &protocol.SyslogConfig{Address: "a", Protocol: "udp"}}, "udp a:514"},
		{protocol.LogsCollectionInformation{Kind: "loki", SyslogConfig: &protocol.SyslogConfig{Address: "a"}}, ""},
		{protocol.LogsCollectionInformation{Kind: "syslog"}, ""},
	} {
		got, err := settings(c.info)
		if (err == nil) != (c.want != "") || err == nil && string(got.Protocol)+" "+got.Address != c.want {
			t.Errorf("%+v: %+v, %v", c.info, got, err)
		}
	}
	for size, want := range map[int32]int{0: 12 << 10, -1: 12 << 10, 1: 1 << 10, 1 << 30: 64 << 20} {
		if got := bufferBytes(protocol.LogsCollectionInformation{BufferSize: size}); got != want {
			t.Errorf("buffer_size %d is %d bytes, want %d", size, got, want)
		}
	}
}

func TestFolderOf(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, name := range []string{"main", "Main", "../..", "a/b", "a_b", "", "ä", string(make([]byte, 500))} {
		folder := folderOf(name)
		if other, ok := seen[folder]; ok {
			t.Errorf("%q and %q share %s", name, other, folder)
		}
		seen[folder] = name
		if len(folder) > 60 || folder[0] == '.' {
			t.Errorf("%q is kept in %q", name, folder)
		}
	}
}
