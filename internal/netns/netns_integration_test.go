//go:build integration

package netns_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/netns"
)

// childEnv makes the test binary listen in the network that it is in, and say
// its word to whoever connects.
const childEnv = "FLOTTA_TEST_NETNS_CHILD"

func TestMain(m *testing.M) {
	if word := os.Getenv(childEnv); word != "" {
		if err := child(word); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func child(word string) error {
	for _, address := range []string{"127.0.0.1:80", "[::1]:80"} {
		listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", address)
		if err != nil {
			return err
		}
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(conn, word)
				_ = conn.Close()
			}
		}()
	}
	fmt.Println("ready")
	select {}
}

// room starts a process that listens in a network of its own, within a user
// namespace as a rootless pod's.
func room(t *testing.T, word string) (netns.Process, *exec.Cmd) {
	t.Helper()
	cmd := exec.Command("unshare", "--user", "--map-root-user", "--net", "sh", "-c", `ip link set lo up && exec "$0"`, os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+word)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("child: %q, %v", line, err)
	}
	process, err := netns.Find(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return process, cmd
}

func ask(ctx context.Context, p netns.Process, address string) (string, error) {
	conn, err := p.DialContext(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return "", err
	}
	raw, err := io.ReadAll(conn)
	return string(raw), err
}

// strangers returns the threads of this process that are in another network than
// it, and those that could not be looked at because they ended.
func strangers(t *testing.T) []string {
	t.Helper()
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	links, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil || len(links) == 0 {
		t.Fatalf("threads: %v, %v", links, err)
	}
	var found []string
	for _, link := range links {
		if there, err := os.Readlink(link); err == nil && there != home {
			found = append(found, link+" is in "+there)
		}
	}
	return found
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestDial reaches what listens in two networks at the same address, and nothing
// after their end.
func TestDial(t *testing.T) {
	one, cmd := room(t, "one")
	two, _ := room(t, "two")
	for _, address := range []string{"127.0.0.1:80", "[::1]:80", "[::ffff:127.0.0.1]:80"} {
		for word, p := range map[string]netns.Process{"one": one, "two": two} {
			if got, err := ask(t.Context(), p, address); err != nil || got != word {
				t.Errorf("%s: %q, %v, want %q", address, got, err, word)
			}
		}
	}
	if _, err := ask(t.Context(), one, "127.0.0.1:81"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("nobody listens: %v, want ECONNREFUSED", err)
	}
	if _, err := ask(t.Context(), one, "192.0.2.1:80"); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("no route: %v, want ENETUNREACH", err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if _, err := ask(t.Context(), one, "127.0.0.1:80"); !errors.Is(err, netns.ErrGone) {
		t.Errorf("its end: %v, want ErrGone", err)
	}
}

// TestDialTakesItsTime gives up when the context ends, where nobody answers.
func TestDialTakesItsTime(t *testing.T) {
	one, cmd := room(t, "one")
	// What is sent to an address that is not the peer's own is lost.
	script := "ip link add name x0 type veth peer name x1 && ip link set x1 up && ip addr add 192.0.2.2/24 dev x0 && ip link set x0 up && ip neigh add 192.0.2.1 lladdr 02:00:00:00:00:01 dev x0"
	enter := exec.Command("nsenter", "--target", fmt.Sprint(cmd.Process.Pid), "--user", "--net", "sh", "-c", script)
	if out, err := enter.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := ask(ctx, one, "192.0.2.1:80"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want DeadlineExceeded", err)
	}
	cancel()
	if _, err := ask(ctx, one, "127.0.0.1:80"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("called off before: %v, want DeadlineExceeded", err)
	}
}

// TestDialLeavesNothing dials thousands of times from many goroutines, while
// others make threads, and finds every thread at home and no descriptor open.
func TestDialLeavesNothing(t *testing.T) {
	const workers, rounds = 16, 250
	one, _ := room(t, "one")
	if _, err := ask(t.Context(), one, "127.0.0.1:80"); err != nil {
		t.Fatal(err)
	}
	before := descriptors(t)
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for i := range rounds {
				port := "80"
				if i%5 == 4 {
					port = "81"
				}
				got, err := ask(t.Context(), one, "127.0.0.1:"+port)
				if port == "80" && (err != nil || got != "one") || port == "81" && !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("port %s: %q, %v", port, got, err)
					return
				}
			}
		})
		group.Go(func() { // a locked thread makes the runtime start others
			for range rounds {
				runtime.LockOSThread()
				_, _ = os.ReadFile("/proc/thread-self/status")
				runtime.UnlockOSThread()
			}
		})
	}
	group.Wait()
	if found := strangers(t); len(found) > 0 {
		t.Errorf("threads in a foreign network:\n%s", strings.Join(found, "\n"))
	}
	for deadline := time.Now().Add(10 * time.Second); descriptors(t) > before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d descriptors are open, %d were", descriptors(t), before)
		}
	}
}
