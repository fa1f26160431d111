//go:build integration

package datasync

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

const fewWatchesVar = "FLOTTA_TEST_FEW_WATCHES"

// TestTheKernelsLimitOfWatches has the kernel itself refuse watches: in a user
// namespace of its own, so that nobody else on the machine gets fewer.
func TestTheKernelsLimitOfWatches(t *testing.T) {
	if os.Getenv(fewWatchesVar) != "" {
		underFewWatches(t)
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), fewWatchesVar+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Fatalf("%v\n%s", err, out)
	}
}

func underFewWatches(t *testing.T) {
	limit := func(n int) {
		if err := os.WriteFile("/proc/sys/user/max_inotify_watches", fmt.Append(nil, n), 0); err != nil {
			t.Fatal(err)
		}
	}
	limit(20)
	store := newMemStore()
	b := watching(t, store, nil)
	for i := range 50 {
		b.write(fmt.Sprintf("out/d%d/f", i), "1")
	}
	b.look()
	if p := b.status(egress).Problems; len(p) != 1 || !strings.Contains(p[0].Message, "max_user_watches") {
		t.Fatalf("problems %+v", p)
	}
	for i := range 50 {
		b.write(fmt.Sprintf("out/d%d/f", i), "22")
	}
	b.look()
	for key, data := range store.contents() {
		if key != "up/first" && data != "22" {
			t.Errorf("object %s is %q", key, data)
		}
	}
	limit(1000)
	b.look()
	if p := b.status(egress).Problems; len(p) != 0 {
		t.Errorf("problems %+v", p)
	}
	b.write("out/d30/g", "3")
	b.look()
	if got := store.contents()["up/d30/g"]; got != "3" {
		t.Errorf("object %q", got)
	}
}
