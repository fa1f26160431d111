package identity

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/pki"
	"github.com/project-flotta/flotta-agent/internal/transport"
)

// layouts are the ways in which the two files may be configured.
func layouts() map[string][2]string {
	return map[string][2]string{
		"one folder":           {"client.pem", "key.pem"},
		"two folders":          {"certs/client.pem", "private/key.pem"},
		"one file":             {"both.pem", "both.pem"},
		"cert has our name":    {combinedName, "key.pem"},
		"key has our name":     {"client.pem", combinedName},
		"one file of our name": {combinedName, combinedName},
	}
}

// inPlace loads the credential as yggd does: the pair by crypto/tls, the name
// from the first block of the certificate file.
func inPlace(t *testing.T, s transport.Settings) string {
	t.Helper()
	loaded, err := tls.LoadX509KeyPair(s.CertFile, s.KeyFile)
	if err != nil {
		t.Errorf("pair in place: %v", err)
		return ""
	}
	block, _ := pem.Decode(must[[]byte](t)(os.ReadFile(s.CertFile)))
	if block == nil || !bytes.Equal(block.Bytes, loaded.Certificate[0]) {
		t.Error("the certificate does not come first in its file")
	}
	info := must[os.FileInfo](t)(os.Stat(s.KeyFile))
	if info.Mode().Perm() != privateMode {
		t.Errorf("mode of the key is %v", info.Mode())
	}
	return loaded.Leaf.Subject.CommonName
}

func TestReplace(t *testing.T) {
	t.Parallel()
	for name, l := range layouts() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, l[0], l[1])
			c := s.credential()
			for n := range 3 {
				id := fmt.Sprint("dev", n)
				if err := c.replace(s.issue(t, id)); err != nil {
					t.Fatal(err)
				}
				if got := inPlace(t, s.settings); got != id {
					t.Errorf("in place: %q, want %q", got, id)
				}
				if !c.linked() {
					t.Error("the two paths do not lead to one file")
				}
			}
			kept := must[[]byte](t)(os.ReadFile(c.beside(registerName)))
			if p, err := newPair(kept, kept); err != nil || !p.names(pki.RegisterName) {
				t.Errorf("register credential not kept: %v", err)
			}
			// As documented: putting it back makes the device enrol again.
			write(t, c.combinedPath(), kept)
			if got := inPlace(t, s.settings); got != pki.RegisterName {
				t.Errorf("in place: %q", got)
			}
			// Nor does an administrator who delivers new files get in the way.
			for _, path := range []string{s.settings.CertFile, s.settings.KeyFile} {
				_ = os.Remove(path)
			}
			s.provision(t)
			if err := c.replace(s.issue(t, "dev9")); err != nil {
				t.Fatal(err)
			}
			if got := inPlace(t, s.settings); got != "dev9" {
				t.Errorf("in place: %q", got)
			}
		})
	}
}

func TestReplaceOfAnUnusablePair(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*testing.T, *site){
		"no key":     func(_ *testing.T, s *site) { _ = os.Remove(s.settings.KeyFile) },
		"empty cert": func(t *testing.T, s *site) { write(t, s.settings.CertFile, nil) },
		"mismatch": func(t *testing.T, s *site) {
			write(t, s.settings.KeyFile, must[pki.KeyPair](t)(s.ca.IssueRegister(0, now())).KeyPEM)
		},
		"dangling":      func(t *testing.T, s *site) { dangle(t, s.settings.CertFile) },
		"old temp link": func(t *testing.T, s *site) { dangle(t, s.settings.CertFile+linkSuffix) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, "client.pem", "key.pem")
			spoil(t, s)
			if err := s.credential().replace(s.issue(t, "dev1")); err != nil {
				t.Fatal(err)
			}
			if got := inPlace(t, s.settings); got != "dev1" {
				t.Errorf("in place: %q", got)
			}
		})
	}
}

func dangle(t *testing.T, path string) {
	t.Helper()
	_ = os.Remove(path)
	if err := os.Symlink("nowhere", path); err != nil {
		t.Fatal(err)
	}
}

func TestPendingKeySurvives(t *testing.T) {
	t.Parallel()
	s := newSite(t, "client.pem", "key.pem")
	first := must[key](t)(s.credential().pendingKey())
	again := must[key](t)(s.credential().pendingKey())
	if diff := cmp.Diff(must[[]byte](t)(pki.EncodeKey(first)), must[[]byte](t)(pki.EncodeKey(again))); diff != "" {
		t.Error("another key was made")
	}
	path := s.credential().beside(pendingName)
	if info := must[os.FileInfo](t)(os.Stat(path)); info.Mode().Perm() != privateMode {
		t.Errorf("mode %v", info.Mode())
	}
	write(t, path, []byte("-----BEGIN"))
	if _, err := s.credential().pendingKey(); err != nil {
		t.Errorf("damaged pending key: %v", err)
	}
}

// crashSite is what the crashing program is told.
type crashSite struct {
	Settings transport.Settings
	Next     string
}

// crashProgram replaces the credential and kills itself at one step.
func crashProgram(at string) {
	var in crashSite
	if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil {
		panic(err)
	}
	next, err := newPair([]byte(in.Next), []byte(in.Next))
	if err != nil {
		panic(err)
	}
	c := (&site{settings: in.Settings}).credential()
	c.step = func(s step) {
		if string(s) == at {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
	}
	if err := c.replace(next); err != nil {
		panic(err)
	}
	os.Exit(0)
}

func TestKilledAtEachStep(t *testing.T) {
	t.Parallel()
	for name, l := range layouts() {
		for _, at := range []step{stepPinned, stepRegisterKept, stepOldCombined, stepCertLinked, stepKeyLinked, stepReplaced, stepWoken, stepDone} {
			t.Run(name+"/"+string(at), func(t *testing.T) {
				t.Parallel()
				s := newSite(t, l[0], l[1])
				pending := must[key](t)(s.credential().pendingKey())
				request := must[*pki.Request](t)(pki.ParseRequest(must[[]byte](t)(pki.CertificateRequest(pending, "dev1"))))
				certPEM := must[[]byte](t)(s.ca.IssueDevice(request, pki.DeviceProfile{ID: "dev1", Namespace: "default"}, now()))
				next := must[*pair](t)(newPair(certPEM, must[[]byte](t)(pki.EncodeKey(pending))))
				killed := crash(t, at, crashSite{Settings: s.settings, Next: string(next.text)})

				got := inPlace(t, s.settings)
				after := at == stepReplaced || at == stepWoken || at == stepDone || !killed
				if want := map[bool]string{false: pki.RegisterName, true: "dev1"}[after]; got != want {
					t.Errorf("in place: %q, want %q", got, want)
				}
				// Whatever happened, the next start ends with the device's credential and nothing pending.
				d := must[*Device](t)(New(Config{Settings: s.settings, Sender: &fakeAPI{ca: s.ca, approved: true}, Log: s.credential().log}))
				if err := d.ensure(context.Background()); err != nil {
					t.Error(err)
				}
				if got := inPlace(t, s.settings); got != "dev1" {
					t.Errorf("in the end in place: %q", got)
				}
				if _, err := os.Stat(s.credential().beside(pendingName)); !os.IsNotExist(err) {
					t.Errorf("a pending key is left: %v", err)
				}
				links, _ := filepath.Glob(filepath.Join(filepath.Dir(s.settings.KeyFile), "*"+linkSuffix))
				if len(links) > 0 {
					t.Errorf("left over: %q", links)
				}
			})
		}
	}
}

// crash runs crashProgram and reports whether it came to the step.
func crash(t *testing.T, at step, in crashSite) bool {
	t.Helper()
	cmd := exec.Command(must[string](t)(os.Executable()))
	cmd.Env = append(os.Environ(), "FLOTTA_TEST_CRASH="+string(at))
	cmd.Stdin = bytes.NewReader(must[[]byte](t)(json.Marshal(in)))
	out, err := cmd.CombinedOutput()
	if err == nil {
		return false
	}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		t.Fatalf("crash program: %v\n%s", err, out)
	}
	return true
}

func FuzzNewPair(f *testing.F) {
	ca := newAuthority(f)
	p := must[pki.KeyPair](f)(ca.IssueRegister(0, now()))
	f.Add(p.CertPEM, p.KeyPEM)
	f.Add(append(p.KeyPEM, p.CertPEM...), append(p.CertPEM, p.KeyPEM...))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"), []byte(""))
	f.Fuzz(func(t *testing.T, certText, keyText []byte) {
		joined, err := newPair(certText, keyText)
		if err != nil {
			return
		}
		again, err := newPair(joined.text, joined.text)
		if err != nil {
			t.Fatalf("joined text does not load: %v", err)
		}
		if !again.leaf.Equal(joined.leaf) {
			t.Error("another certificate")
		}
	})
}
