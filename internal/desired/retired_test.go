package desired

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/durable"
)

// retiredNow returns the one workload that is retired.
func retiredNow(t *testing.T, s *Store, name string) Retired {
	t.Helper()
	for _, r := range s.Current().State().Retired {
		if r.Name == name {
			return r
		}
	}
	t.Fatalf("%s is not retired: %+v", name, s.Current().State().Retired)
	return Retired{}
}

func names(s *Store) string {
	var out []string
	for _, r := range s.Current().State().Retired {
		text := r.Name
		if r.Delivered {
			text += " delivered"
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

func TestWorkloadRetiresWhenItIsNoLongerDesired(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "desired.json")
	s := open(t, path)
	accept(t, s, []byte(`{"device_id":"D1","version":"1","configuration":{},"workloads":[
		{"name":"a","specification":"containers: []","data":{"egress":[{"source":"out","target":"up"}],"ingress":[{"source":"down","target":"in"}]}},
		{"name":"../b","specification":"containers: []"}]}`))
	accept(t, s, message("2", "c"))
	for _, s := range []*Store{s, open(t, path)} {
		a := retiredNow(t, s, "a")
		if names(s) != "a" || len(a.Egress) != 1 || a.Egress[0].Target != "up" || len(a.Ingress) != 1 || a.ID == "" {
			t.Errorf("retired %+v", s.Current().State().Retired)
		}
	}
	a := retiredNow(t, s, "a")
	before := s.Current()
	if err := s.Delivered(a, "stamp"); err != nil {
		t.Fatal(err)
	}
	if !superseded(before) || s.Current().Digest() != before.Digest() {
		t.Error("readers are to be woken, and to have nothing to apply")
	}
	before = s.Current()
	if err := errors.Join(s.Age(a, time.Hour), s.Age(a, -time.Hour), s.Age(a, time.Minute)); err != nil {
		t.Fatal(err)
	}
	if superseded(before) {
		t.Error("ageing wakes everybody")
	}
	for _, s := range []*Store{s, open(t, path)} {
		if k, ok := s.Keeping(a); !ok || !k.Delivered || k.Kept != time.Hour+time.Minute || k.Stamp != "stamp" || names(s) != "a delivered" {
			t.Errorf("kept %+v, %t", k, ok)
		}
	}
	if err := s.Undelivered(a); err != nil || names(s) != "a" {
		t.Errorf("Undelivered: %v, %s", err, names(s))
	}
	if k, _ := s.Keeping(a); k != (Keeping{}) {
		t.Errorf("kept %+v", k)
	}
}

func TestWorkloadThatComesBackIsNotRetired(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "desired.json")
	s := open(t, path)
	accept(t, s, message("1", "a"))
	accept(t, s, message("2", "b"))
	old := retiredNow(t, s, "a")
	if err := s.Delivered(old, "x"); err != nil {
		t.Fatal(err)
	}
	accept(t, s, message("3", "a"))
	void := func(when string) {
		t.Helper()
		_, known := s.Keeping(old)
		discarded := false
		for what, err := range map[string]error{
			"Age": s.Age(old, 1), "Delivered": s.Delivered(old, "y"), "Undelivered": s.Undelivered(old),
			"Abandon": s.Abandon(old),
			"Dispose": s.Dispose(old, func() error { discarded = true; return nil }),
		} {
			if !errors.Is(err, ErrNotRetired) {
				t.Errorf("%s, %s = %v, want ErrNotRetired", when, what, err)
			}
		}
		if known || discarded {
			t.Errorf("%s: known %t, discarded %t", when, known, discarded)
		}
	}
	if names(s) != "b" {
		t.Errorf("retired: %s", names(s))
	}
	void("desired")
	accept(t, s, message("4", "b"))
	if r := retiredNow(t, s, "a"); r.Delivered || r.ID == old.ID || names(s) != "a" {
		t.Errorf("retired again: %+v", r)
	}
	void("retired again")
	if got := names(open(t, path)); got != "a" {
		t.Errorf("on disk: %s", got)
	}
}

func TestDispose(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "desired.json")
	s := open(t, path)
	accept(t, s, message("1", "a"))
	accept(t, s, message("2", "b"))
	a := retiredNow(t, s, "a")
	calls := 0
	discard := func() error { calls++; return nil }
	if err := s.Dispose(a, discard); !errors.Is(err, ErrNotRetired) || calls != 0 {
		t.Fatalf("what is not delivered was disposed of: %v, %d", err, calls)
	}
	if err := s.Delivered(a, ""); err != nil {
		t.Fatal(err)
	}
	stuck := errors.New("is a mount point")
	if err := s.Dispose(a, func() error { return stuck }); !errors.Is(err, stuck) || names(s) != "a delivered" {
		t.Errorf("Dispose = %v, retired %s", err, names(s))
	}
	now := s.Current()
	if err := s.Dispose(a, discard); err != nil || calls != 1 || names(s) != "" || !superseded(now) {
		t.Errorf("Dispose = %v, %d calls, retired %q", err, calls, names(s))
	}
	if _, err := os.Stat(s.retiredPath); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the empty list is on disk: %v", err)
	}
}

func TestRetiredOutlivesBeingManaged(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "desired.json")
	s := open(t, path)
	raw := func(version, workloads string) []byte {
		return fmt.Appendf(nil, `{"device_id":"D1","version":%q,"configuration":{"storage":{"s3":{"bucket_host":"h","bucket_name":"b","aws_access_key_id":"a2V5","aws_secret_access_key":"c2VjcmV0"}}},
			"secrets":[{"name":"s","data":"{\"k\":\"dG9rZW4=\"}"}],"workloads":[%s]}`, version, workloads)
	}
	workload := `{"name":%q,"specification":"containers: []"}`
	accept(t, s, raw("1", fmt.Sprintf(workload+","+workload+","+workload, "a", "b", "c")))
	accept(t, s, raw("2", fmt.Sprintf(workload+","+workload, "b", "c")))
	if err := s.Delivered(retiredNow(t, s, "a"), ""); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Leave(); err != nil {
		t.Fatal(err)
	}
	if names(s) != "a delivered" {
		t.Errorf("leaving: %s", names(s))
	}
	if err := s.Withdraw(); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Store{s, open(t, path)} {
		c := s.Current().State()
		if names(s) != "a delivered, b, c" || c.Storage == nil || c.Storage.SecretAccessKey.Reveal() != "secret" ||
			len(c.Workloads) != 0 || len(c.Secrets) != 0 || !c.Withdrawn {
			t.Errorf("withdrawn: %s, %+v", names(s), c)
		}
	}
	if disk, err := os.ReadFile(path); err != nil || strings.Contains(string(disk), "dG9rZW4=") || strings.Contains(string(disk), "containers") {
		t.Errorf("on disk is more than the storage: %v", err)
	}
	if err := s.Delivered(retiredNow(t, s, "b"), ""); err != nil {
		t.Fatal(err)
	}
	withdrawing := s.Current()
	kept, err := s.Relinquish()
	if err != nil || len(kept) != 1 || kept[0].Name != "c" || !superseded(withdrawing) {
		t.Errorf("Relinquish = %+v, %v", kept, err)
	}
	for _, s := range []*Store{s, open(t, path)} {
		if c := s.Current().State(); names(s) != "a delivered, b delivered" || c.Storage != nil || !c.Withdrawn {
			t.Errorf("relinquished: %s, %+v", names(s), c)
		}
	}
	if err := s.Forget(); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Store{s, open(t, path)} {
		if c := s.Current(); names(s) != "a delivered, b delivered" || c.Digest() != "" || !c.State().Managed() {
			t.Errorf("forgotten: %s, %+v", names(s), c)
		}
	}
	accept(t, s, raw("1", fmt.Sprintf(workload, "b")))
	if names(s) != "a delivered" {
		t.Errorf("managed again: %s", names(s))
	}
	if kept, err := s.Relinquish(); kept != nil || err != nil || s.Current().State().Storage == nil {
		t.Errorf("a managed device gave up: %+v, %v", kept, err)
	}
}

func TestRetiredListThatIsDamaged(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "desired.json")
	s := open(t, path)
	accept(t, s, message("1", "a"))
	accept(t, s, message("2", "b"))
	if err := os.WriteFile(s.retiredPath, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	if names(s) != "" || len(s.Current().State().Workloads) != 1 {
		t.Errorf("opened: %+v", s.Current().State())
	}
	if left, _ := filepath.Glob(s.retiredPath + ".corrupt-*"); len(left) != 1 {
		t.Errorf("set aside: %q", left)
	}
	if err := os.Mkdir(s.retiredPath, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, "d1", slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a folder in the place of the list is no error")
	}
}

func TestRetiredListHoldsOnlyNames(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "desired.json")
	d := retiredDocument{Workloads: []retiredRecord{
		{Name: "../../etc", ID: "1"}, {Name: "a", ID: "../x"}, {Name: "b"}, {Name: "c", ID: "3", Kept: -time.Hour},
	}}
	if err := durable.SaveDocument(filepath.Join(filepath.Dir(path), retiredFile), retiredKind, retiredVersion, d, 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, path)
	if k, _ := s.Keeping(Retired{Name: "c", ID: "3"}); names(s) != "c" || k.Kept != 0 {
		t.Errorf("retired: %s, kept %s", names(s), k.Kept)
	}
}

// A full disk at any write keeps the configuration and the list as they are, in
// memory and, as far as it matters, on disk.
func TestRetiringOnAFullDisk(t *testing.T) {
	t.Parallel()
	full := errors.New("disk full")
	for _, file := range []string{"desired.json", retiredFile} {
		path := filepath.Join(t.TempDir(), "desired.json")
		s := open(t, path)
		accept(t, s, message("1", "a"))
		accept(t, s, message("2", "b"))
		if err := s.Delivered(retiredNow(t, s, "a"), "x"); err != nil {
			t.Fatal(err)
		}
		s.writer.Fault = func(_ durable.Step, at string) error {
			if filepath.Base(at) == file {
				return full
			}
			return nil
		}
		if err := s.Accept(message("3", "a")); !errors.Is(err, full) {
			t.Fatalf("%s: %v", file, err)
		}
		if names(s) != "a delivered" || s.Current().State().Workloads[0].Name != "b" {
			t.Errorf("%s: %+v", file, s.Current().State())
		}
		if again := open(t, path); !strings.HasPrefix(names(again), "a") || again.Current().State().Workloads[0].Name != "b" {
			t.Errorf("%s, on disk: %+v", file, again.Current().State())
		}
	}
}

// The list and the configuration are two files. Whatever a kill leaves of the
// change that retires one workload and brings another one back, none is both,
// none is lost, and what was delivered in a former life is not delivered in the
// next.
func TestRetiringKilledAtEachStep(t *testing.T) {
	t.Parallel()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for step := 1; ; step++ {
		path := filepath.Join(t.TempDir(), "desired.json")
		s := open(t, path)
		accept(t, s, message("0", "new"))
		accept(t, s, message("1", "old"))
		former := retiredNow(t, s, "new")
		if err := s.Delivered(former, "x"); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), crashStepVar+"="+fmt.Sprint(step), crashPathVar+"="+path)
		err := cmd.Run()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("child ended with %v, want SIGKILL", err)
		}
		got := open(t, path)
		state := got.Current().State()
		want := "new"
		if state.Workloads[0].Name == "new" {
			want = "old"
		}
		if len(state.Workloads) != 1 || strings.TrimSuffix(names(got), " delivered") != want || names(got) == "old delivered" {
			t.Fatalf("after a kill at step %d: desired %+v, retired %s", step, state.Workloads, names(got))
		}
		accept(t, got, message("3", "third"))
		if n := names(got); n != "new, old" && n != "new delivered, old" {
			t.Fatalf("after a kill at step %d, and a third: retired %s", step, n)
		}
		if step > 24 && want == "old" { // three writes of eight steps: it died when all was done
			return
		}
	}
}

// The configuration is damaged right after a kill: what it wanted is not known,
// so nothing on the list may count as delivered that it could have wanted.
func TestRetiringKilledAndThenDamaged(t *testing.T) {
	t.Parallel()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for step := 9; step <= 24; step++ { // the list is written, and then the configuration
		path := filepath.Join(t.TempDir(), "desired.json")
		s := open(t, path)
		accept(t, s, message("0", "new"))
		accept(t, s, message("1", "old"))
		if err := s.Delivered(retiredNow(t, s, "new"), "x"); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), crashStepVar+"="+fmt.Sprint(step), crashPathVar+"="+path)
		_ = cmd.Run()
		if err := os.WriteFile(path, []byte("damaged"), 0o600); err != nil {
			t.Fatal(err)
		}
		got := open(t, path)
		if got.Current().Digest() != "" || strings.Contains(names(got), "delivered") {
			t.Errorf("after a kill at step %d: digest %q, retired %s", step, got.Current().Digest(), names(got))
		}
	}
}
