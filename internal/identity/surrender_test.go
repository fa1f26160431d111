package identity

import (
	"errors"
	"os"
	"testing"

	"github.com/project-flotta/flotta-agent/internal/pki"
)

func TestSurrenderWithoutARegisterCredential(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*testing.T, string){
		"none kept": func(*testing.T, string) {},
		"damaged":   func(t *testing.T, path string) { write(t, path, []byte("-----BEGIN")) },
		"a device's": func(t *testing.T, path string) {
			s := newSite(t, "c.pem", "k.pem")
			write(t, path, s.issue(t, "dev1").text)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, "client.pem", "key.pem")
			if err := s.credential().replace(s.issue(t, "dev1")); err != nil {
				t.Fatal(err)
			}
			kept := s.credential().beside(registerName)
			if err := os.Remove(kept); err != nil {
				t.Fatal(err)
			}
			spoil(t, kept)
			err := newDevice(t, s, &fakeAPI{ca: s.ca}, nil).Surrender()
			if !errors.Is(err, ErrNoRegisterCredential) {
				t.Errorf("Surrender = %v, want ErrNoRegisterCredential", err)
			}
			if got := inPlace(t, s.settings); got != "dev1" {
				t.Errorf("in place: %q", got)
			}
		})
	}
}

// A device that is killed anywhere while it gives its credential back, or while
// a renewed one is put in place, has one of the two, and can go on.
func TestKilledAtEachStepOfALaterReplacement(t *testing.T) {
	t.Parallel()
	for name, l := range layouts() {
		for _, to := range []string{pki.RegisterName, "dev1"} {
			for _, at := range []step{stepPinned, stepReplaced, stepWoken, stepDone} {
				t.Run(name+"/"+to+"/"+string(at), func(t *testing.T) {
					t.Parallel()
					s := newSite(t, l[0], l[1])
					if err := s.credential().replace(s.issue(t, "old")); err != nil {
						t.Fatal(err)
					}
					next := s.issue(t, "dev1")
					if to == pki.RegisterName {
						next = must[*pair](t)(s.credential().registerPair())
					}
					crash(t, at, crashSite{Settings: s.settings, Next: string(next.text)})
					want := to
					if at == stepPinned {
						want = "old"
					}
					if got := inPlace(t, s.settings); got != want {
						t.Errorf("in place: %q, want %q", got, want)
					}
					d := newDevice(t, s, &fakeAPI{ca: s.ca}, nil)
					if err := d.Surrender(); err != nil {
						t.Fatal(err)
					}
					if got := inPlace(t, s.settings); got != pki.RegisterName {
						t.Errorf("in the end in place: %q", got)
					}
				})
			}
		}
	}
}
