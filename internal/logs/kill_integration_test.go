//go:build integration

package logs

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/containers"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

const childVar = "LOGS_TEST_CHILD"

// childConfig is what a process works with that a test kills.
type childConfig struct {
	Dir        string
	Journal    int // pid of the journald
	Target     protocol.LogsCollectionInformation
	Workloads  []string
	Containers []containers.Container
}

// TestMain is also the body of the processes that are killed.
func TestMain(m *testing.M) {
	raw := os.Getenv(childVar)
	if raw == "" {
		os.Exit(m.Run())
	}
	if err := child(raw); err != nil {
		fmt.Println(err)
		os.Exit(3)
	}
}

func child(raw string) error {
	var c childConfig
	if err := json.Unmarshal([]byte(raw), &c); err != nil {
		return err
	}
	e, err := New(Config{
		Desired: newTold(collects(c.Target, c.Workloads...)), Containers: newInventory(c.Containers...), Dir: c.Dir, DeviceID: "device-1",
		Journalctl: journalctlOf(c.Journal), retry: 50 * time.Millisecond,
		Log: slog.New(slog.NewTextHandler(os.Stdout, nil)),
	})
	if err != nil {
		return err
	}
	return e.Run(context.Background())
}

func spawn(t *testing.T, c childConfig) (kill func()) {
	t.Helper()
	raw, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childVar+"="+string(raw))
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	kill = func() {
		once.Do(func() {
			_ = cmd.Process.Kill()
			if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() == 3 {
				t.Errorf("the engine ended by itself: %v\n%s", err, out.String())
			}
			if t.Failed() {
				t.Log(out.String())
			}
		})
	}
	t.Cleanup(kill)
	return kill
}

const (
	kills       = 200
	linesMillis = 2 // between two lines of one container, at least
)

// TestKilled kills the process again and again, and the receiver now and then,
// while numbered lines flow through a file and through the journal.
func TestKilled(t *testing.T) {
	t.Parallel()
	r := newRsyslog(t, "tcp")
	r.start()
	j := startJournald(t, "256M", "64M")
	dir := t.TempDir()
	file := fileContainer(dir, "files", "c1")
	journal := containers.Container{
		ID: "c2", Name: "journal-app", Workload: "journal", Container: "app", Running: true, LogDriver: "journald",
	}
	c := childConfig{
		Dir: filepath.Join(dir, "logs"), Journal: j.pid,
		Target: r.target("tcp"), Workloads: []string{"files", "journal"}, Containers: []containers.Container{file, journal},
	}

	var stop atomic.Bool
	var total int
	var writer sync.WaitGroup
	say := j.conmon("journal", "c2")
	t.Cleanup(func() {
		stop.Store(true)
		writer.Wait()
	})
	writer.Go(func() {
		for ; !stop.Load(); total++ {
			say(fmt.Sprintf("line %d", total), false)
			write(t, file.LogPath, total, total+1)
			time.Sleep(linesMillis * time.Millisecond)
		}
	})
	began := time.Now()
	for i := range kills {
		kill := spawn(t, c)
		time.Sleep(time.Duration(20+rand.IntN(600)) * time.Millisecond) // any moment will do
		kill()
		if i%10 == 9 {
			r.kill()
			r.start()
		}
	}
	stop.Store(true)
	writer.Wait()
	rate := float64(total) / time.Since(began).Seconds()
	spawn(t, c)
	by := func(workload string) (m []received) {
		for _, x := range r.messages() {
			if x.App == workload {
				m = append(m, x)
			}
		}
		return m
	}
	last := fmt.Sprintf("line %d", total-1)
	for _, workload := range []string{"files", "journal"} {
		eventually(t, "the last line of "+workload, func() bool {
			m := by(workload)
			return len(m) > 0 && bytes.HasSuffix([]byte(m[len(m)-1].Text), []byte(last))
		})
		again := complete(t, numbers(t, by(workload)), total)
		t.Logf("%s: %d lines, %d of them again after %d kills", workload, total, again, kills)
		// The places are a second old, the acknowledgements a quarter; as much again
		// for a slow machine, and what each receiver that was killed had not read.
		if most := int(rate * 2.5 * (kills + kills/10)); again > most {
			t.Errorf("%s: %d lines came again, at most %d should", workload, again, most)
		}
	}
}

// TestReceiverKilled kills a receiver while lines flow; what its kernel had and
// it had not read is sent again.
func TestReceiverKilled(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"tcp", "tls"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			r := newRsyslog(t, kind)
			dir := t.TempDir()
			c := fileContainer(dir, "files", "c1")
			var events sync.Map
			cfg := testConfig(t, newTold(collects(r.target(kind), "files")), newInventory(c))
			cfg.Event = func(e protocol.EventInfo) { events.Store(e.Reason, e.Message) }
			write(t, c.LogPath, 0, 1) // the target is down when it is configured
			e, _ := start(t, cfg)
			eventually(t, "the event that the target takes no lines", func() bool {
				_, ok := events.Load(reasonFailing)
				return ok
			})
			const rounds, lines = 10, 2000
			total := 1
			for range rounds {
				r.start()
				write(t, c.LogPath, total, total+lines)
				total += lines
				had := len(r.messages())
				eventually(t, "something arrives", func() bool { return len(r.messages()) > had })
				r.kill()
			}
			r.start()
			eventually(t, "the spool is empty", func() bool {
				got := r.messages()
				return len(got) > 0 && got[len(got)-1].Text == fmt.Sprintf("line %d", total-1) && e.Status().Targets[0].Queue.Entries == 0
			})
			again := complete(t, numbers(t, r.messages()), total)
			t.Logf("%d lines, %d of them again after %d kills", total, again, rounds)
			if _, ok := events.Load(reasonRecovered); !ok {
				t.Error("no event says that the target takes lines again")
			}
		})
	}
}
