package desired

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/durable"
)

const (
	crashStepVar = "DESIRED_TEST_CRASH_STEP"
	crashPathVar = "DESIRED_TEST_CRASH_PATH"
)

// TestMain is also the body of the processes that the crash test kills.
func TestMain(m *testing.M) {
	step, path := os.Getenv(crashStepVar), os.Getenv(crashPathVar)
	if step == "" {
		os.Exit(m.Run())
	}
	die := func() {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	s, err := Open(path, "d1", slog.New(slog.DiscardHandler))
	if err != nil {
		os.Exit(3)
	}
	passed := 0
	s.writer.Fault = func(at durable.Step, file string) error {
		passed++
		if string(at) == step && file == path || strconv.Itoa(passed) == step {
			die()
		}
		return nil
	}
	old := s.Current()
	go func() { // after publication is a point to die at too
		<-old.Superseded()
		die()
	}()
	if err := s.Accept(message("2", "new")); err != nil {
		os.Exit(4)
	}
	select {}
}

// message is a configuration of one workload of that name.
func message(version, workload string) []byte {
	return fmt.Appendf(nil, `{"device_id":"D1","version":%q,"configuration":{"mounts":[]},"workloads":[{"name":%q,"specification":"containers: []"}]}`, version, workload)
}

func open(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(path, "d1", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func accept(t *testing.T, s *Store, raw []byte) {
	t.Helper()
	if err := s.Accept(raw); err != nil {
		t.Fatal(err)
	}
}

func superseded(s *Snapshot) bool {
	select {
	case <-s.Superseded():
		return true
	default:
		return false
	}
}

func TestStoreStartsEmptyAndKeeps(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "desired.json")
	s := open(t, path)
	first := s.Current()
	if first == nil || first.Digest() != "" || first.State().Heartbeat.Period != time.Minute || first.State().DeviceID != "d1" {
		t.Fatalf("empty store: %+v", first)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("opening wrote something: %v", err)
	}
	accept(t, s, message("1", "a"))
	if !superseded(first) || superseded(s.Current()) {
		t.Error("the first snapshot is not superseded, or the second one is")
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode = %v, %v", info.Mode(), err)
	}
	again := open(t, path)
	if again.Current().Digest() != s.Current().Digest() || again.Current().State().Version != "1" ||
		again.Current().State().Workloads[0].Name != "a" {
		t.Errorf("loaded %+v", again.Current().State())
	}
}

func TestStoreSameContentWritesNothing(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "desired.json"))
	writes := 0
	s.writer.Fault = func(at durable.Step, path string) error {
		if at == durable.StepCreate && path == s.path {
			writes++
		}
		return nil
	}
	accept(t, s, message("1", "a"))
	first := s.Current()
	accept(t, s, message("1", "a"))
	accept(t, s, bytes.Replace(message("1", "a"), []byte(","), []byte(" ,\n"), 1)) // other bytes
	if writes != 1 || s.Current() != first || superseded(first) {
		t.Errorf("%d writes; replaced: %v", writes, s.Current() != first)
	}
	// Another version of the same is published, for the heartbeat, and no more.
	accept(t, s, message("2", "a"))
	if writes != 1 || !superseded(first) || s.Current().Digest() != first.Digest() || s.Current().State().Version != "2" {
		t.Errorf("%d writes after a new version, current %+v", writes, s.Current().State())
	}
	accept(t, s, message("3", "b"))
	if writes != 2 || s.Current().Digest() == first.Digest() {
		t.Errorf("%d writes after new content", writes)
	}
}

func TestStoreAfterRestartKnowsTheSame(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "desired.json")
	accept(t, open(t, path), message("1", "a"))
	s := open(t, path)
	s.writer.Fault = func(durable.Step, string) error { return errors.New("no write wanted") }
	first := s.Current()
	accept(t, s, message("1", "a"))
	if s.Current() != first {
		t.Error("the same message replaced the loaded snapshot")
	}
}

func TestStoreRejects(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "desired.json"))
	accept(t, s, message("1", "a"))
	before := s.Current()
	for _, raw := range []string{
		"", "null", "{}", `{"configuration":null}`, `{"workloads":[]}`, "{",
		`{"device_id":"other","configuration":{}}`,
	} {
		err := s.Accept([]byte(raw))
		var re *RejectedError
		if !errors.As(err, &re) || re.Reason == "" {
			t.Fatalf("%q: err = %v, want a RejectedError", raw, err)
		}
		if r, ok := s.Rejected(); !ok || r.Reason != re.Reason || r.Time.IsZero() {
			t.Errorf("%q: rejection = %+v, %v", raw, r, ok)
		}
		if s.Current() != before || superseded(before) {
			t.Fatalf("%q changed the state in force", raw)
		}
	}
	_ = s.Accept([]byte(`{"version":"9","device_id":"other","configuration":{}}`))
	r, _ := s.Rejected()
	if r.Version != "9" {
		t.Errorf("rejection = %+v, want version 9", r)
	}
	_ = s.Accept([]byte(`{"version":"9","device_id":"other","configuration":{}}`))
	if again, _ := s.Rejected(); again != r {
		t.Errorf("the same message sent again is a new rejection: %+v, %+v", r, again)
	}
	accept(t, s, message("1", "a")) // the server is repaired and sends the old one
	if r, ok := s.Rejected(); ok {
		t.Errorf("rejection is still there: %+v", r)
	}
	accept(t, s, []byte(`{"configuration":{}}`))
	if len(s.Current().State().Workloads) != 0 {
		t.Error("a configuration without workloads is not in force")
	}
}

func TestStoreDiskFullKeepsOld(t *testing.T) {
	t.Parallel()
	for _, step := range []durable.Step{durable.StepCreate, durable.StepWrite, durable.StepSync, durable.StepRename, durable.StepSyncDir} {
		path := filepath.Join(t.TempDir(), "desired.json")
		s := open(t, path)
		accept(t, s, message("1", "a"))
		before := s.Current()
		full := true
		s.writer.Fault = func(at durable.Step, _ string) error {
			if full && at == step {
				return syscall.ENOSPC
			}
			return nil
		}
		err := s.Accept(message("2", "b"))
		var re *RejectedError
		if !errors.Is(err, syscall.ENOSPC) || errors.As(err, &re) {
			t.Errorf("%s: err = %v", step, err)
		}
		if s.Current() != before || superseded(before) {
			t.Errorf("%s: published what is not on disk", step)
		}
		full = false
		accept(t, s, message("2", "b")) // the next poll
		if s.Current().State().Version != "2" || open(t, path).Current().State().Version != "2" {
			t.Errorf("%s: the next poll did not bring it", step)
		}
	}
}

func TestStoreCorruptFileIsSetAside(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "desired.json")
	accept(t, open(t, path), message("1", "a"))
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := open(t, path).Current().Digest()
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		data := bytes.Clone(whole)
		switch r.IntN(3) {
		case 0:
			data = data[:r.IntN(len(data))]
		case 1:
			data[r.IntN(len(data))] ^= 1 << r.IntN(8)
		case 2:
			at := r.IntN(len(data))
			clear(data[at:min(len(data), at+r.IntN(64)+1)])
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		var logged bytes.Buffer
		s, err := Open(path, "d1", slog.New(slog.NewTextHandler(&logged, nil)))
		if err != nil {
			t.Fatal(err)
		}
		switch got := s.Current(); got.Digest() {
		case want:
		case "":
			if got.State().Workloads != nil {
				t.Fatal("half a state")
			}
			if !strings.Contains(logged.String(), "set aside") {
				t.Fatalf("no log line: %s", logged.String())
			}
			if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("the damaged file is still there: %v", err)
			}
		default:
			t.Fatalf("a state that nobody sent: %+v", got.State())
		}
	}
	s := open(t, path)
	accept(t, s, message("1", "a"))
	if open(t, path).Current().Digest() != want {
		t.Error("the store does not work after a damaged file")
	}
	if aside, err := filepath.Glob(path + ".corrupt-*"); err != nil || len(aside) == 0 || len(aside) > 3 {
		t.Errorf("set aside: %v, %v", aside, err)
	}
}

func TestStoreOfAnotherDeviceOrVersionIsNotUsed(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "desired.json")
	accept(t, open(t, path), message("1", "a"))
	s, err := Open(path, "d2", slog.New(slog.DiscardHandler))
	if err != nil || s.Current().Digest() != "" {
		t.Errorf("the state of another device is in force: %v", err)
	}
	if err := durable.SaveDocument(path, documentKind, documentVersion+1, record{Message: message("1", "a")}, 0o600); err != nil {
		t.Fatal(err)
	}
	if s := open(t, path); s.Current().Digest() != "" {
		t.Error("a document of another version is in force")
	}
}

func TestStoreUnreadableIsAnError(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "desired.json")
	if err := os.MkdirAll(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, "d1", slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a folder in the place of the file is no error")
	}
}

func TestStoreKilledAtEachStep(t *testing.T) {
	t.Parallel()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for step, want := range map[durable.Step]string{
		durable.StepCreate: "old", durable.StepPerm: "old", durable.StepWrite: "old", durable.StepSync: "old",
		durable.StepClose: "old", durable.StepRename: "old", durable.StepSyncDir: "new", durable.StepDone: "new",
		"published": "new",
	} {
		t.Run(string(step), func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "desired.json")
			accept(t, open(t, path), message("1", "old"))
			cmd := exec.Command(exe)
			cmd.Env = append(os.Environ(), crashStepVar+"="+string(step), crashPathVar+"="+path)
			err := cmd.Run()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("child ended with %v, want SIGKILL", err)
			}
			got := open(t, path).Current()
			if len(got.State().Workloads) != 1 || got.State().Workloads[0].Name != want {
				t.Errorf("after a kill at %s: %+v", step, got.State())
			}
		})
	}
}

// TestStoreReadersMissNothing has readers that see each state as a whole, see
// versions only grow, and are woken until the last one.
func TestStoreReadersMissNothing(t *testing.T) {
	t.Parallel()
	const last = 60
	s := open(t, filepath.Join(t.TempDir(), "desired.json"))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			seen := 0
			for seen < last {
				c := s.Current()
				if c.Digest() != "" {
					st := c.State()
					var n int
					if _, err := fmt.Sscanf(st.Version, "%d", &n); err != nil {
						t.Errorf("version %q", st.Version)
						return
					}
					if want := fmt.Sprintf("w%d", n/2); len(st.Workloads) != 1 || st.Workloads[0].Name != want {
						t.Errorf("version %d has workloads %v", n, st.Workloads)
					}
					if n < seen {
						t.Errorf("version %d after %d", n, seen)
					}
					seen = n
					if n == last {
						return
					}
				}
				select {
				case <-c.Superseded():
				case <-ctx.Done():
					t.Errorf("not woken after version %d", seen)
					return
				}
			}
		})
	}
	for n := 1; n <= last; n++ { // every second one is only a new version
		accept(t, s, message(fmt.Sprint(n), fmt.Sprintf("w%d", n/2)))
		_ = s.Accept([]byte("{")) // a bad one between does no harm
	}
	wg.Wait()
}

func TestStoreLogsNoContent(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("testdata/message.json")
	if err != nil {
		t.Fatal(err)
	}
	var logged bytes.Buffer
	log := slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	path := filepath.Join(t.TempDir(), "desired.json")
	s, err := Open(path, "4e7a1b9c", log)
	if err != nil {
		t.Fatal(err)
	}
	withUnknown := bytes.Replace(raw, []byte(`"device_id"`), []byte(`"future":"canary","device_id"`), 1)
	for i := range 3 {
		accept(t, s, bytes.Replace(withUnknown, []byte("1052"), fmt.Append(nil, i), 1))
	}
	log.Info("state", "snapshot", fmt.Sprintf("%v %+v", s.Current().State().Storage, s.Current().State().Secrets))
	if err := os.WriteFile(path, bytes.Replace(raw, []byte("web"), []byte("wub"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, "d", log); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(logged.String(), "unknown fields"); n != 1 {
		t.Errorf("unknown fields are logged %d times", n)
	}
	for _, canary := range []string{"canary", "CANARY", "Y2FuYXJ5", "QUtJ"} {
		if strings.Contains(logged.String(), canary) {
			t.Errorf("%s is in the log", canary)
		}
	}
}
