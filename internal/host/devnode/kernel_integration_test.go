//go:build integration

package devnode

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestAsTheKernel compares what the package says of nodes with what the kernel
// says to a process of that user.
func TestAsTheKernel(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	ids := []uint32{0, 995, 20, 44}
	pick := func() uint32 { return ids[random.IntN(len(ids))] }
	dir, err := os.MkdirTemp("/dev/shm", "flotta-devnode-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	lists, agreed := 0, map[bool]int{}
	for i := range 300 {
		path := filepath.Join(dir, fmt.Sprint(i))
		mode := random.Uint32() & 0o666
		if err := unix.Mknod(path, unix.S_IFCHR|mode, int(unix.Mkdev(1, 3))); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, int(pick()), int(pick())); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, os.FileMode(mode)); err != nil {
			t.Fatal(err)
		}
		if random.IntN(2) == 0 {
			bit := func() uint32 { return random.Uint32() & 6 }
			list := []aclEntry{
				{tag: aclOwner, perm: bit(), id: ^uint32(0)},
				{tag: aclUser, perm: bit(), id: 995},
				{tag: aclOwningGroup, perm: bit(), id: ^uint32(0)},
				{tag: aclGroup, perm: bit(), id: 20},
				{tag: aclGroup, perm: bit(), id: 44},
				{tag: aclMask, perm: bit(), id: ^uint32(0)},
				{tag: aclOther, perm: bit(), id: ^uint32(0)},
			}
			if err := unix.Setxattr(path, aclName, attribute(list), 0); err != nil {
				t.Fatal(err)
			}
			lists++
		}
		w := who{uid: 995, gid: 995}
		groups := "--clear-groups"
		for _, g := range []uint32{20, 44} {
			if random.IntN(2) == 0 {
				w.groups = append(w.groups, g)
			}
		}
		if len(w.groups) > 0 {
			groups = "--groups=" + strings.Trim(strings.ReplaceAll(fmt.Sprint(w.groups), " ", ","), "[]")
		}
		_, n, problem := New(Config{UID: 995, GID: 995}).look(Use{Path: path})
		if problem != nil {
			t.Fatal(problem)
		}
		kernel := exec.CommandContext(t.Context(), "setpriv", "--reuid=995", "--regid=995", groups, "test", "-r", path, "-o", "-w", path).Run() == nil
		if got := n.opens(w); got != kernel {
			t.Errorf("seed %d, node %+v, as %+v: %v, and the kernel says %v", seed, n, w, got, kernel)
		}
		agreed[kernel]++
	}
	if lists < 50 || agreed[true] < 50 || agreed[false] < 20 {
		t.Errorf("%d access lists, answers %v: too few to mean something", lists, agreed)
	}
}
