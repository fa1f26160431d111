package desired

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/project-flotta/flotta-agent/internal/durable"
)

func TestStoreLeaves(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "desired.json")
	s := open(t, path)
	accept(t, s, message("1", "a"))
	managed := s.Current()
	for n, want := range []bool{true, false} {
		if began, err := s.Leave(); err != nil || began != want {
			t.Fatalf("Leave %d = %t, %v", n, began, err)
		}
	}
	if !superseded(managed) {
		t.Error("nobody is told that the device leaves")
	}
	for _, s := range []*Store{s, open(t, path)} {
		c := s.Current()
		if state := c.State(); !state.Leaving || state.Withdrawn || state.Managed() || len(state.Workloads) != 1 || c.Digest() == managed.Digest() {
			t.Errorf("leaving: %+v, digest %q", c.State(), c.Digest())
		}
		if err := s.Accept(message("2", "b")); !errors.Is(err, ErrLeaving) {
			t.Errorf("Accept while leaving = %v, want ErrLeaving", err)
		}
	}
	leaving := s.Current()
	for range 2 {
		if err := s.Withdraw(); err != nil {
			t.Fatal(err)
		}
	}
	if !superseded(leaving) {
		t.Error("nobody is told that the device is withdrawn")
	}
	if data, err := os.ReadFile(path); err != nil || bytes.Contains(data, []byte("containers")) {
		t.Errorf("the old configuration is still on disk: %v", err)
	}
	for _, s := range []*Store{s, open(t, path)} {
		c := s.Current()
		if state := c.State(); !state.Withdrawn || state.Leaving || state.Managed() || len(state.Workloads) != 0 || c.Digest() == "" {
			t.Errorf("withdrawn: %+v", c)
		}
		if err := s.Accept(message("2", "b")); !errors.Is(err, ErrLeaving) {
			t.Errorf("Accept while withdrawn = %v, want ErrLeaving", err)
		}
		if began, err := s.Leave(); began || err != nil {
			t.Errorf("Leave while withdrawn = %t, %v", began, err)
		}
	}
	if err := os.WriteFile(path+".corrupt-1700000000", []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if kept, err := s.Relinquish(); err != nil || len(kept) != 1 || kept[0].Name != "a" {
		t.Errorf("Relinquish = %+v, %v, want what was not delivered", kept, err)
	}
	for range 2 {
		if err := s.Forget(); err != nil {
			t.Fatal(err)
		}
	}
	if left, _ := filepath.Glob(path + "*"); len(left) > 0 {
		t.Errorf("left on disk: %q", left)
	}
	for _, s := range []*Store{s, open(t, path)} {
		if c := s.Current(); c.Digest() != "" || !c.State().Managed() {
			t.Errorf("forgotten: %+v", c)
		}
	}
	accept(t, s, message("1", "a"))
	if s.Current().Digest() != managed.Digest() {
		t.Error("a device that is managed again gets nothing")
	}
}

func TestStoreForgetsOnlyWhatIsWithdrawn(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "desired.json"))
	accept(t, s, message("1", "a"))
	if err := s.Forget(); err != nil {
		t.Fatal(err)
	}
	if len(s.Current().State().Workloads) != 1 {
		t.Error("a managed device forgot what it was told")
	}
}

func TestStoreLeavesWithNothingToDeliver(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(t *testing.T, path string){
		"told nothing": func(*testing.T, string) {},
		"damaged": func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"not for this version": func(t *testing.T, path string) {
			if err := durable.SaveDocument(path, documentKind, documentVersion, record{Leaving: true, Message: []byte(`{"device_id":7}`)}, 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "desired.json")
			s := open(t, path)
			spoil(t, path)
			if _, err := s.Leave(); err != nil {
				t.Fatal(err)
			}
			for _, s := range []*Store{s, open(t, path)} {
				if state := s.Current().State(); !state.Leaving || len(state.Workloads) != 0 {
					t.Errorf("state = %+v, want leaving with nothing", state)
				}
			}
		})
	}
}

func TestStoreThatCannotRecordKeepsWhatItHas(t *testing.T) {
	t.Parallel()
	full := errors.New("disk full")
	for step, act := range map[string]func(*Store) error{
		"leave":    func(s *Store) error { _, err := s.Leave(); return err },
		"withdraw": (*Store).Withdraw,
	} {
		path := filepath.Join(t.TempDir(), "desired.json")
		s := open(t, path)
		accept(t, s, message("1", "a"))
		before := s.Current()
		s.writer.Fault = func(durable.Step, string) error { return full }
		if err := act(s); !errors.Is(err, full) {
			t.Errorf("%s = %v, want the disk's error", step, err)
		}
		if s.Current() != before || open(t, path).Current().Digest() != before.Digest() {
			t.Errorf("%s changed something", step)
		}
	}
}

// The first agents recorded the end of being managed in one step.
func TestStoreReadsWhatAnOlderAgentWithdrew(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "desired.json")
	if err := durable.SaveDocument(path, documentKind, documentVersion, record{Withdrawn: true}, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(path, "d1", slog.New(slog.DiscardHandler))
	if err != nil || !s.Current().State().Withdrawn {
		t.Errorf("opened: %v, withdrawn %t", err, s != nil && s.Current().State().Withdrawn)
	}
}
