package heartbeat

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/diskq"
	"github.com/project-flotta/flotta-agent/internal/transport"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// server is a control plane that keeps every heartbeat with its time.
type server struct {
	mu     sync.Mutex
	start  time.Time
	answer func(protocol.Heartbeat) (int, error)
	beats  []beatAt
	ids    map[string]bool
}

type beatAt struct {
	at     time.Duration
	status int // 0: not delivered
	protocol.Heartbeat
}

func (s *server) Send(ctx context.Context, m transport.Message) (transport.Reply, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var hb protocol.Heartbeat
	if err := json.Unmarshal(m.Content, &hb); err != nil {
		return transport.Reply{}, err
	}
	if m.Directive != protocol.DirectiveHeartbeat || m.ID == "" || s.ids[m.ID] {
		return transport.Reply{}, fmt.Errorf("message %q %q", m.Directive, m.ID)
	}
	if d, ok := ctx.Deadline(); !ok || time.Until(d) < 30*time.Second {
		return transport.Reply{}, fmt.Errorf("deadline %v", d)
	}
	status, err := http.StatusOK, error(nil)
	if s.answer != nil {
		status, err = s.answer(hb)
	}
	if err != nil {
		status = 0
	}
	s.ids[m.ID] = true
	s.beats = append(s.beats, beatAt{time.Since(s.start), status, hb})
	return transport.Reply{Status: status}, err
}

func (s *server) setAnswer(f func(protocol.Heartbeat) (int, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = f
}

func (s *server) all() []beatAt {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.beats)
}

// times returns when the beats came.
func (s *server) times() (at []time.Duration) {
	for _, b := range s.all() {
		at = append(at, b.at)
	}
	return at
}

// delivered returns the messages of the events in accepted beats.
func (s *server) delivered() (messages []string) {
	for _, b := range s.all() {
		if b.status == http.StatusOK {
			for _, e := range b.Events {
				messages = append(messages, e.Message)
			}
		}
	}
	return messages
}

// source is a desired state that a test sets.
type source struct {
	mu        sync.Mutex
	current   *desired.Snapshot
	rejection *desired.Rejection
}

func (s *source) Current() *desired.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

func (s *source) Rejected() (desired.Rejection, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rejection == nil {
		return desired.Rejection{}, false
	}
	return *s.rejection, true
}

type rig struct {
	*Reporter

	server *server
	store  *desired.Store
	queue  *diskq.Queue
}

func (r *rig) accept(t *testing.T, version string, period int, extra string) {
	t.Helper()
	raw := fmt.Sprintf(`{"version":%q,"configuration":{"heartbeat":{"period_seconds":%d%s},"mounts":[]}}`, version, period, extra)
	if err := r.store.Accept([]byte(raw)); err != nil {
		t.Fatal(err)
	}
}

// newRig makes a reporter with a real store and a real queue. Call it inside the
// bubble.
func newRig(t *testing.T, change func(*Config)) *rig {
	t.Helper()
	r := &rig{server: &server{start: time.Now(), ids: map[string]bool{}}}
	var err error
	if r.store, err = desired.Open(t.TempDir()+"/desired.json", "", discard()); err != nil {
		t.Fatal(err)
	}
	if r.queue, err = diskq.Open(diskq.Config{Dir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Sender: r.server, Desired: r.store, Events: r.queue,
		Jitter: func(d time.Duration) time.Duration { return d },
	}
	if change != nil {
		change(&cfg)
	}
	if r.Reporter, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.queue.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// run starts Run and ends it with the test.
func (r *rig) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func seconds(at ...float64) (ds []time.Duration) {
	for _, s := range at {
		ds = append(ds, time.Duration(s*float64(time.Second)))
	}
	return ds
}

func TestNewRefusesIncomplete(t *testing.T) {
	t.Parallel()
	for _, cfg := range []Config{{}, {Sender: &server{}}, {Sender: &server{}, Desired: &source{}}} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%+v is accepted", cfg)
		}
	}
}

func TestBeatsAtThePeriodInForce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ready := make(chan struct{})
		r := newRig(t, func(c *Config) { c.Ready = ready })
		r.run(t)
		sleep(10 * time.Second)
		if n := len(r.server.all()); n != 0 {
			t.Errorf("%d beats before the device is registered", n)
		}
		close(ready)
		sleep(125 * time.Second) // at 10, 70, 130
		r.accept(t, "v1", 20, "")
		sleep(40 * time.Second) // news at 136.5, then every 20
		r.accept(t, "v1", 600, "")
		sleep(700 * time.Second)
		want := seconds(10, 70, 130, 136.5, 156.5, 176.5, 776.5)
		if diff := cmp.Diff(want, r.server.times()); diff != "" {
			t.Error(diff)
		}
		last := r.server.all()[6]
		if last.Version != "v1" || last.Status != "up" || last.Workloads == nil || last.Events == nil || last.PlaybookExecutions == nil {
			t.Errorf("beat %+v", last)
		}
		if s := r.Status(); s.Err != "" || !s.LastSuccess.Equal(s.LastAttempt) || s.LastSuccess.IsZero() {
			t.Errorf("status %+v", s)
		}
	})
}

// TestNewVersionOfTheSameIsNoNews: flotta v0.2 names the configuration anew
// after each beat.
func TestNewVersionOfTheSameIsNoNews(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		n := 0
		r.accept(t, "0", 60, "")
		r.server.answer = func(protocol.Heartbeat) (int, error) {
			n++
			r.accept(t, fmt.Sprint(n), 60, "")
			return http.StatusOK, nil
		}
		r.run(t)
		sleep(10*time.Minute + time.Second)
		beats := r.server.all()
		if len(beats) != 11 || beats[10].Version != "10" {
			t.Errorf("%d beats, the last has version %s", len(beats), beats[len(beats)-1].Version)
		}
	})
}

func TestNewsIsCoalescedAndRateLimited(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.run(t)
		sleep(10 * time.Second)
		for range 5 {
			r.Wake()
			r.Event(protocol.EventInfo{Reason: "Started", Message: "web"})
			sleep(200 * time.Millisecond)
		}
		sleep(9 * time.Second) // one beat at 11.5
		for range 300 {        // a workload in a crash loop
			r.Wake()
			sleep(100 * time.Millisecond)
		}
		at := r.server.times()
		if len(at) < 3 || at[1] != 11500*time.Millisecond {
			t.Fatalf("beats at %v", at)
		}
		if n := len(at) - 2; n < 5 || n > 7 {
			t.Errorf("%d beats in 30 s of news: %v", n, at)
		}
		if got := r.server.delivered(); len(got) != 1 {
			t.Errorf("one event five times became %v", got)
		}
	})
}

func TestEventsSurviveAServerThatIsDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		answers := []func() (int, error){
			func() (int, error) { return 0, fmt.Errorf("dial: %w", transport.ErrUnavailable) },
			func() (int, error) { return http.StatusInternalServerError, nil },
			func() (int, error) { return http.StatusForbidden, nil },
			func() (int, error) { return http.StatusNotFound, nil },
			func() (int, error) { return 0, context.DeadlineExceeded },
		}
		r.Event(protocol.EventInfo{Reason: "R", Message: "0"}) // before Run
		n := 1
		for i, a := range answers {
			r.server.setAnswer(func(protocol.Heartbeat) (int, error) { return a() })
			if i == 0 {
				r.run(t) // its first beat finds the server down already
			}
			for range 60 {
				r.Event(protocol.EventInfo{Reason: "R", Message: fmt.Sprint(n)})
				n++
				sleep(time.Minute)
			}
		}
		tries := len(r.server.all())
		if s := r.Status(); s.Err == "" || s.Waiting != uint64(n) || !s.LastSuccess.IsZero() {
			t.Errorf("status %+v", s)
		}
		// An hour of 15 s and four of 2 minutes.
		if tries > 60*4+4*60 {
			t.Errorf("%d tries in five hours", tries)
		}
		r.server.setAnswer(nil)
		sleep(5 * time.Minute)
		got := r.server.delivered()
		if len(got) != n {
			t.Fatalf("%d of %d events arrive", len(got), n)
		}
		for i, m := range got {
			text, when, _ := strings.Cut(m, " (at ")
			if text != fmt.Sprint(i) {
				t.Fatalf("event %d is %q", i, m)
			}
			if i < n-3 && !strings.HasPrefix(when, "2000-01-01T0") {
				t.Fatalf("event %q does not say when it happened", m)
			}
		}
		for _, b := range r.server.all() {
			if len(b.Events) > maxEvents {
				t.Errorf("%d events in one beat", len(b.Events))
			}
		}
		if s := r.Status(); s.Err != "" || s.Waiting != 0 {
			t.Errorf("status %+v", s)
		}
	})
}

// TestReplyLostSendsAgain: at least once, also when the beat did arrive.
func TestReplyLostSendsAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.Event(protocol.EventInfo{Message: "x"})
		r.server.answer = func(protocol.Heartbeat) (int, error) {
			r.server.answer = nil
			return 0, context.DeadlineExceeded
		}
		r.run(t)
		sleep(30 * time.Second)
		beats := r.server.all()
		if len(beats) != 2 || len(beats[0].Events) != 1 || len(beats[1].Events) != 1 {
			t.Errorf("beats %+v", beats)
		}
	})
}

func TestUnauthorizedIsToldAndEventsStay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		r := newRig(t, func(c *Config) { c.Unauthorized = func() { calls++ } })
		r.Event(protocol.EventInfo{Message: "x"})
		r.server.answer = func(protocol.Heartbeat) (int, error) {
			if calls == 3 { // renewed
				return http.StatusOK, nil
			}
			return http.StatusUnauthorized, nil
		}
		r.run(t)
		sleep(time.Minute)
		if got := r.server.delivered(); calls != 3 || len(got) != 1 {
			t.Errorf("%d calls, delivered %v", calls, got)
		}
	})
}

// TestPoisonedEventDoesNotStopTheStatus: a server that refuses one event still
// gets the others before it, and the state of the device.
func TestPoisonedEventDoesNotStopTheStatus(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		for i := range 20 {
			r.Event(protocol.EventInfo{Message: fmt.Sprint(i)})
		}
		r.server.answer = func(hb protocol.Heartbeat) (int, error) {
			if slices.ContainsFunc(hb.Events, func(e protocol.EventInfo) bool { return strings.HasPrefix(e.Message, "13") }) {
				return http.StatusBadRequest, nil
			}
			return http.StatusOK, nil
		}
		r.run(t)
		sleep(time.Hour)
		ok := 0
		for _, b := range r.server.all() {
			if b.status == http.StatusOK {
				ok++
			}
		}
		if got := r.server.delivered(); len(got) != 13 || ok < 50 || len(r.server.all()) > 3*60 {
			t.Errorf("delivered %v; %d of %d beats accepted", got, ok, len(r.server.all()))
		}
	})
}

func TestDegradedAndRejected(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var degraded atomic.Pointer[[]string]
		degraded.Store(&[]string{})
		r := newRig(t, func(c *Config) {
			c.Collect = func() Report {
				return Report{Degraded: *degraded.Load(), Workloads: []protocol.WorkloadStatus{{Name: "b"}, {Name: "a", Status: "Running"}}}
			}
		})
		r.accept(t, "1", 60, "")
		r.run(t)
		sleep(time.Second)
		if err := r.store.Accept([]byte(`{"version":"2"}`)); err == nil {
			t.Fatal("accepted")
		}
		sleep(180 * time.Second)
		beats := r.server.all()
		if beats[0].Status != "up" || beats[1].Status != "degraded" || beats[1].Version != "1" || beats[0].Workloads[0].Name != "a" {
			t.Errorf("beats %+v", beats)
		}
		if got := r.server.delivered(); len(got) != 1 || !strings.Contains(got[0], "no configuration") {
			t.Errorf("events %q", got)
		}
		if len(beats) != 4 {
			t.Errorf("%d beats: the rejection's own event is no news", len(beats))
		}
		r.accept(t, "3", 60, "")
		crashed := []string{"workload web: crashed"}
		degraded.Store(&crashed)
		sleep(70 * time.Second)
		if b := r.server.all(); b[len(b)-1].Status != "degraded" || b[len(b)-1].Version != "3" {
			t.Errorf("beat %+v", b[len(b)-1])
		}
		if s := r.Status(); !slices.Equal(s.Degraded, crashed) {
			t.Errorf("status %+v", s)
		}
	})
}

func TestConfigurationProblemIsOneEvent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		raw := `{"version":"1","configuration":{"storage":{"s3":{"bucket_host":"/"}}}}`
		if err := r.store.Accept([]byte(raw)); err != nil {
			t.Fatal(err)
		}
		r.run(t)
		sleep(5 * time.Minute)
		if got := r.server.delivered(); len(got) != 1 || !strings.Contains(got[0], "bucket_host") {
			t.Errorf("events %q", got)
		}
		if b := r.server.all(); b[0].Status != "degraded" || len(b) != 6 {
			t.Errorf("%d beats, the first %+v", len(b), b[0])
		}
	})
}

func TestHardwareIsWholeOrAbsent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var name atomic.Value
		name.Store("one")
		r := newRig(t, func(c *Config) {
			c.Hardware = func(bool) *protocol.HardwareInfo {
				return &protocol.HardwareInfo{Hostname: name.Load().(string), Memory: &protocol.Memory{PhysicalBytes: 1}}
			}
		})
		r.run(t)
		sleep(time.Second) // 0: not wanted
		r.accept(t, "1", 60, `,"hardware_profile":{"include":true,"scope":"delta"}`)
		sleep(70 * time.Second) // 5: whole, 65: nothing changed
		name.Store("two")
		r.server.setAnswer(func(protocol.Heartbeat) (int, error) { return 500, nil })
		sleep(60 * time.Second) // 125...: changed, does not arrive
		r.server.setAnswer(nil)
		sleep(3 * time.Minute)
		r.accept(t, "2", 60, `,"hardware_profile":{"include":true,"scope":"full"}`)
		sleep(3 * time.Minute)
		var got []string
		for _, b := range r.server.all() {
			switch {
			case b.Hardware == nil:
				got = append(got, "-")
			case b.Hardware.Memory == nil:
				t.Error("a part of the hardware")
			case b.status == http.StatusOK:
				got = append(got, b.Hardware.Hostname)
			}
		}
		text := strings.Join(got, " ")
		if !strings.HasPrefix(text, "- one - two - ") || !strings.HasSuffix(text, "- two two two") {
			t.Errorf("hardware in the beats: %s", text)
		}
	})
}

func TestJitterIsATenth(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.Jitter = nil })
		r.run(t)
		sleep(3 * time.Hour)
		at := r.server.times()
		seen := map[time.Duration]bool{}
		for i := 1; i < len(at); i++ {
			d := at[i] - at[i-1]
			if d < 54*time.Second || d > 66*time.Second {
				t.Errorf("%v between two beats", d)
			}
			seen[d] = true
		}
		if len(seen) < 100 {
			t.Errorf("only %d different gaps", len(seen))
		}
	})
}

func TestRunEndsWhileItWaitsAndSends(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.Ready = make(chan struct{}) })
		r.run(t) // never ready: the cleanup ends it
		hang := newRig(t, func(c *Config) { c.Sender = hanging{} })
		hang.Event(protocol.EventInfo{Message: "x"})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- hang.Run(ctx) }()
		sleep(time.Second)
		cancel()
		if err := <-done; err != nil || hang.Status().Waiting != 1 {
			t.Errorf("Run = %v, %+v", err, hang.Status())
		}
	})
}

type hanging struct{}

func (hanging) Send(ctx context.Context, _ transport.Message) (transport.Reply, error) {
	<-ctx.Done()
	return transport.Reply{}, ctx.Err()
}

func TestEventsAreTrimmed(t *testing.T) {
	t.Parallel()
	for _, size := range []int{maxMessage, maxMessage + 1, maxMessage + 2, maxMessage + 3, 3 * maxMessage} {
		for _, text := range []string{"a", "ä", "名", "🙂"} {
			e := trim(protocol.EventInfo{Message: strings.Repeat(text, size)})
			if len(e.Message) > maxMessage || !utf8.ValidString(e.Message) || e.Type != "info" {
				t.Errorf("%d %s: %d bytes, type %s", size, text, len(e.Message), e.Type)
			}
		}
	}
}

// TestEventsOfAKilledAgent appends in a process that is killed at once, and
// delivers in this one.
func TestEventsOfAKilledAgent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^$")
	cmd.Env = append(os.Environ(), killedDirVar+"="+dir)
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("child: %v %s", err, out)
	}
	synctest.Test(t, func(t *testing.T) {
		q, err := diskq.Open(diskq.Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		r := newRig(t, func(c *Config) { c.Events = q })
		r.run(t)
		sleep(time.Minute)
		if got := r.server.delivered(); len(got) != 5 || !strings.HasPrefix(got[4], "4") {
			t.Errorf("delivered %q", got)
		}
	})
}
