package systemd

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDecodeJournal(t *testing.T) {
	t.Parallel()
	raw := `{"MESSAGE":"Error: no such image","__CURSOR":"x"}
{"MESSAGE":"container create abc","PODMAN_EVENT":"create"}
{"MESSAGE":[104,105,255]}
{"MESSAGE":null}
{"MESSAGE":["two","values"]}
not JSON
{"MESSAGE":"  last  "}`
	want := []string{"Error: no such image", "hi\uFFFD", "last"}
	if diff := cmp.Diff(want, decodeJournal([]byte(raw))); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
}

func TestUserOf(t *testing.T) {
	t.Parallel()
	if uid, ok := userOf(UserSocket(7)); !ok || uid != "7" {
		t.Errorf("userOf = %q, %t", uid, ok)
	}
	if uid, ok := userOf(SystemSocket); ok {
		t.Errorf("userOf the system's = %q", uid)
	}
}

func FuzzDecodeJournal(f *testing.F) {
	f.Add([]byte(`{"MESSAGE":"a"}` + "\n" + `{"MESSAGE":[1,2]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, line := range decodeJournal(raw) {
			if line == "" {
				t.Error("an empty line")
			}
		}
	})
}
