package diskq

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	crashDirVar  = "DISKQ_TEST_CRASH_DIR"
	crashStepVar = "DISKQ_TEST_CRASH_STEP" // "<step> <how many times it passes>"
	crashFullVar = "DISKQ_TEST_CRASH_FULL" // not empty: a small queue from which nobody reads
)

func timeZero() time.Time { return time.Unix(0, 0) }

// TestMain is also the body of the processes that the crash test kills. Such a
// process appends numbers, and takes and acknowledges some; it says on standard
// output what it was promised: "+n" appended, "-n" acknowledged.
func TestMain(m *testing.M) {
	dir := os.Getenv(crashDirVar)
	if dir == "" {
		os.Exit(m.Run())
	}
	if err := crashChild(dir, os.Getenv(crashStepVar)); err != nil {
		fmt.Println(err)
		os.Exit(3)
	}
	os.Exit(0)
}

func crashConfig(dir string) Config {
	return Config{Dir: dir, SegmentBytes: 400, MaxBytes: 1 << 20}
}

func crashChild(dir, at string) error {
	step, times, _ := strings.Cut(at, " ")
	left, err := strconv.Atoi(times)
	if err != nil {
		return err
	}
	cfg := crashConfig(dir)
	full := os.Getenv(crashFullVar) != ""
	if full {
		cfg.MaxBytes = 3 * cfg.SegmentBytes
	}
	q, err := Open(cfg)
	if err != nil {
		return err
	}
	q.hook = func(s string) error {
		if s == step || step == "any" {
			if left--; left < 0 {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
		}
		return nil
	}
	for {
		n := q.next
		if err := q.Append([]byte(strconv.FormatUint(n, 10))); err != nil {
			return err
		}
		fmt.Printf("+%d\n", n)
		if n%5 != 0 || full {
			continue
		}
		es, err := q.Read(4)
		if err != nil {
			return err
		}
		last := es[len(es)-1].Seq
		fmt.Printf("?%d\n", last) // may be acknowledged from here on
		if err := q.Ack(last); err != nil {
			return err
		}
		fmt.Printf("-%d\n", last)
	}
}

// TestQueueKilled kills a process at all kinds of places again and again, on the
// same folder. What was promised holds: appended entries are there once, in
// order; acknowledged ones do not come again.
func TestQueueKilled(t *testing.T) {
	t.Parallel()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var appended, acked, maybeAcked uint64
	for round, step := range []string{
		"any 1", "write 3", "write 40", "sync 7", "create 0", "create 3", "remove 0", "remove 4", "cursor 0", "cursor 9",
		"any 50", "any 51", "any 52", "any 53", "any 54", "any 200", "create 8", "remove 9",
	} {
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), crashDirVar+"="+dir, crashStepVar+"="+step)
		out, err := cmd.Output()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("round %d: child ended with %v: %s", round, err, out)
		}
		lines := bufio.NewScanner(strings.NewReader(string(out)))
		for lines.Scan() {
			n, err := strconv.ParseUint(lines.Text()[1:], 10, 64)
			if err != nil {
				t.Fatal(lines.Text())
			}
			switch lines.Text()[0] {
			case '+':
				appended = n
			case '?':
				maybeAcked = n
			case '-':
				acked = n
			}
		}
		q, err := Open(crashConfig(dir))
		if err != nil {
			t.Fatal(err)
		}
		es := read(t, q, 10_000)
		if len(es) == 0 && appended > maybeAcked {
			t.Fatalf("after %q: nothing is left of %d to %d", step, acked, appended)
		}
		for i, e := range es {
			if i == 0 && (e.Seq <= acked || e.Seq > max(acked, maybeAcked)+1) || i > 0 && e.Seq != es[i-1].Seq+1 || string(e.Data) != strconv.FormatUint(e.Seq, 10) {
				t.Fatalf("after %q: entry %d is %d (%q), acknowledged %d", step, i, e.Seq, e.Data, acked)
			}
		}
		if len(es) > 0 {
			// One more than promised may have got there.
			if last := es[len(es)-1].Seq; last != appended && last != appended+1 {
				t.Fatalf("after %q: the last entry is %d, want %d", step, last, appended)
			}
			appended = es[len(es)-1].Seq
			acked = es[0].Seq - 1
			maybeAcked = acked
		}
		if st := q.Stats(); st.Dropped != (Dropped{}) {
			t.Errorf("after %q: stats %+v", step, st)
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestQueueKilledWhileItDrops kills a process whose queue is full: whatever it
// was doing, each entry is there or counted as dropped.
func TestQueueKilledWhileItDrops(t *testing.T) {
	t.Parallel()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cfg := crashConfig(t.TempDir())
	cfg.MaxBytes = 3 * cfg.SegmentBytes
	var dropped uint64
	for _, step := range []string{
		"any 100", "remove 0", "remove 3", "cursor 0", "cursor 2", "create 0", "create 5", "any 70", "any 71", "any 72", "any 73", "any 74",
	} {
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), crashDirVar+"="+cfg.Dir, crashStepVar+"="+step, crashFullVar+"=1")
		out, err := cmd.Output()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("%q: child ended with %v: %s", step, err, out)
		}
		var promised uint64
		for line := range strings.Lines(string(out)) {
			if _, err := fmt.Sscanf(line, "+%d", &promised); err != nil {
				t.Fatal(line)
			}
		}
		q, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		st := q.Stats()
		if st.Newest < promised {
			t.Errorf("after %q: %d is the newest, %d was promised", step, st.Newest, promised)
		}
		if st.Entries+st.Dropped.Size != st.Newest || st.Dropped.Size < dropped || st.Dropped.Age+st.Dropped.Damage != 0 || st.DiskBytes > cfg.MaxBytes {
			t.Errorf("after %q: stats %+v, %d were dropped before", step, st, dropped)
		}
		if es := read(t, q, 1000); uint64(len(es)) != st.Entries || es[len(es)-1].Seq != st.Newest {
			t.Errorf("after %q: %d entries, stats %+v", step, len(es), st)
		}
		dropped = st.Dropped.Size
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if dropped == 0 {
		t.Error("nothing was dropped")
	}
}
