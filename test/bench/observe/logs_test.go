//go:build bench

package observe_test

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/bench/receive"
	"github.com/project-flotta/flotta-agent/test/testenv"
)

var lines = flag.Int("observe.lines", 500_000, "lines of 100 bytes in the log")

const (
	diskAssisted = "rsyslog, disk-assisted queue"
	diskOnly     = "rsyslog, disk queue"
)

// TestLogs brings the log of one container to the same receiver, by the agent and
// by rsyslog's imfile and omfwd, turn by turn: with the receiver there, and with
// the receiver away until all was read. rsyslog sends the lines as they are in the
// file; the agent takes them apart.
func TestLogs(t *testing.T) {
	ourEngine := engine(t)
	file := filepath.Join(t.TempDir(), "c1.log")
	writeLog(t, file)
	var figures report
	for range *rounds {
		for _, who := range []string{ours, diskAssisted, diskOnly} {
			t.Run(strings.ReplaceAll(who, " ", "-"), func(t *testing.T) {
				for _, away := range []bool{false, true} {
					s := newSyslog(t)
					dir := t.TempDir()
					run := func() *program {
						if who == ours {
							return start(t, who, dir, ourEngine, "-dir", dir, "-receiver", s.address, "-file", file, "-spool", "4000000000")
						}
						return startRsyslog(t, s, who, dir, file)
					}
					if away {
						fromDisk(t, s, &figures, run)
					} else {
						through(t, s, &figures, run)
					}
				}
			})
		}
	}
	figures.print(t)
}

// writeLog writes a log as conmon does.
func writeLog(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	w := bufio.NewWriter(f)
	text := strings.Repeat("x", 87)
	for i := range *lines {
		_, _ = fmt.Fprintf(w, "2026-11-21T22:09:34.304052939+00:00 stdout F line %07d %s\n", i, text)
	}
	must(t, w.Flush())
	must(t, f.Close())
}

func startRsyslog(t *testing.T, s *syslog, name, dir, file string) *program {
	t.Helper()
	// By default a queue has room for 1,000 messages, and reading stops when that
	// is full.
	queue := `queue.type="LinkedList" queue.size="100000" queue.highWatermark="8000" queue.lowWatermark="2000"`
	if name == diskOnly {
		queue = `queue.type="Disk" queue.size="10000000"`
	}
	_, port, err := net.SplitHostPort(s.address)
	must(t, err)
	path := filepath.Join(t.TempDir(), "conf")
	must(t, os.WriteFile(path, fmt.Appendf(nil, `global(workDirectory=%q)
module(load="imfile" mode="inotify")
main_queue(queue.type="FixedArray" queue.workerThreads="1") # with more of them, lines overtake each other
input(type="imfile" file=%q tag="shop" ruleset="out")
ruleset(name="out") {
  action(type="omfwd" target="127.0.0.1" port=%q protocol="tcp" TCP_Framing="octet-counted" template="RSYSLOG_SyslogProtocol23Format"
    %s queue.filename="out" queue.maxDiskSpace="4g" queue.saveOnShutdown="on" action.resumeRetryCount="-1" action.resumeInterval="1")
}
`, dir, file, port, queue), 0o600))
	return start(t, name, dir, "rsyslogd", "-n", "-i", path+".pid", "-f", path)
}

// through has all of it read and sent at once.
func through(t *testing.T, s *syslog, figures *report, run func() *program) {
	t.Helper()
	s.listen()
	began := time.Now()
	p := run()
	defer p.stop()
	eventually(t, "all lines arrive", s.complete)
	u, last := p.now(), s.ended()
	add := figures.of(t, p.Name, "receiver there")
	text := float64(*lines) / 1e4 // MB of 100 bytes each
	add("lines a second", count, float64(*lines)/last.Sub(began).Seconds())
	add("processor time for a million lines", seconds, u.cpu.Seconds()/float64(*lines)*1e6)
	add("resident memory, at most", megabytes, float64(u.peak))
	add("written to the disk for a MB of lines", megabytes, float64(u.written)/text)
	s.check(add, p.Name)
}

// fromDisk has all of it read while the receiver is away, and sent then.
func fromDisk(t *testing.T, s *syslog, figures *report, run func() *program) {
	t.Helper()
	began := time.Now()
	p := run()
	defer p.stop()
	text := float64(*lines) / 1e4 // MB of 100 bytes each
	still, kept, last := 0, int64(0), time.Time{}
	eventually(t, "all was read", func() bool {
		time.Sleep(200 * time.Millisecond)
		now := size(t, p.dir)
		if still++; now-kept > 64<<10 || now < int64(text*1e6/2) {
			still, last = 0, time.Now()
		}
		kept = now
		return still >= 8
	})
	u := p.now()
	add := figures.of(t, p.Name, "receiver away")
	add("lines read a second", count, float64(*lines)/last.Sub(began).Seconds())
	add("processor time, for a million lines", seconds, u.cpu.Seconds()/float64(*lines)*1e6)
	add("written to the disk for a MB of lines", megabytes, float64(u.written)/text)
	add("files, for a MB of lines", megabytes, float64(u.kept)/text)
	add = figures.of(t, p.Name, "receiver back")
	back := time.Now()
	s.listen()
	eventually(t, "all lines arrive", s.complete)
	first, ended := s.began(), s.ended()
	d := p.now()
	add("until it is asked", seconds, first.Sub(back).Seconds())
	add("lines a second", count, float64(*lines)/ended.Sub(first).Seconds())
	add("processor time, for a million lines", seconds, (d.cpu-u.cpu).Seconds()/float64(*lines)*1e6)
	add("resident memory, at most", megabytes, float64(d.peak))
	s.check(add, p.Name)
}

// syslog is a receiver of messages by tcp, with their lengths in front.
type syslog struct {
	t       *testing.T
	address string

	mu          sync.Mutex
	have        []bool
	left        int // lines that did not arrive
	twice       int
	behind      int // that arrived for the first time behind a later one
	next        int
	first, last time.Time
	wrong       error
}

// newSyslog returns one that is away.
func newSyslog(t *testing.T) *syslog {
	t.Helper()
	port, err := testenv.FreePort("127.0.0.1")
	must(t, err)
	return &syslog{t: t, address: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), have: make([]bool, *lines), left: *lines}
}

func (s *syslog) listen() {
	s.t.Helper()
	l, err := net.Listen("tcp", s.address)
	must(s.t, err)
	s.t.Cleanup(func() { _ = l.Close() })
	go receive.Serve(l, s.take, func(err error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.wrong = err
	})
}

func (s *syslog) take(message []byte) error {
	at := bytes.LastIndex(message, []byte("line "))
	if at < 0 {
		if bytes.Contains(message, []byte("rsyslogd")) {
			return nil // of its own
		}
		return fmt.Errorf("message %q has no line", message)
	}
	n, err := strconv.Atoi(string(message[at+5 : at+12]))
	if err != nil || n >= len(s.have) {
		return fmt.Errorf("message %q: %w", message, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = time.Now()
	if s.first.IsZero() {
		s.first = s.last
	}
	switch {
	case s.have[n]:
		s.twice++
		return nil
	case n < s.next:
		s.behind++
	}
	s.have[n], s.next, s.left = true, max(s.next, n+1), s.left-1
	return nil
}

func (s *syslog) complete() bool {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	must(s.t, s.wrong)
	return s.left == 0
}

func (s *syslog) began() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.first
}

func (s *syslog) ended() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// check tells what came behind later lines or twice. None of the agent's may come
// behind; rsyslog mixes what is in memory with what is on the disk.
func (s *syslog) check(add addFunc, who string) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	add("lines behind later ones", count, float64(s.behind))
	add("lines twice", count, float64(s.twice))
	if who == ours && s.behind > 0 {
		s.t.Errorf("%d lines of the agent came behind later ones", s.behind)
	}
}
