//go:build integration

package yggdrasil

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/project-flotta/flotta-agent/internal/transport"
	"github.com/project-flotta/flotta-agent/internal/transport/yggdrasil/yggdtest"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

func configurationMessage(n int) protocol.Message {
	return protocol.Message{
		Type: protocol.TypeData, Directive: protocol.DirectiveDevice, Version: 1,
		MessageID: fmt.Sprint("m", n), Content: json.RawMessage(fmt.Sprintf(`{"version":"%d"}`, n)),
	}
}

func TestYggdStartsTheWorker(t *testing.T) {
	t.Parallel()
	server := yggdtest.NewServer(t, nil)
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	d := yggdtest.NewDaemon(t, yggdtest.Config{
		Server: server, ClientID: "dev1",
		Worker: []string{exe}, Env: []string{"FLOTTA_TEST_WORKER=" + dir},
	})
	d.Start()

	// GetConfig, and a message each way, of a process that yggd started.
	eventually(t, "settings told", func() bool { return len(lines(t, dir, "settings")) == 1 })
	var got transport.Settings
	if err := json.Unmarshal([]byte(lines(t, dir, "settings")[0]), &got); err != nil {
		t.Fatal(err)
	}
	want := transport.Settings{DeviceID: "dev1", Server: server.Addr(), CertFile: d.CertFile, KeyFile: d.KeyFile, CAFiles: []string{d.CAFile}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
	eventually(t, "answer to the first message", func() bool { return len(lines(t, dir, "reply")) == 1 })
	if got, want := lines(t, dir, "reply")[0], `[200,null]`; got != want {
		t.Errorf("reply = %s, want %s", got, want)
	}
	// What comes before that, yggd drops.
	eventually(t, "yggd knows the worker", func() bool { return strings.Count(d.Log(), "worker registered") == 1 })
	server.Queue(configurationMessage(1))
	eventually(t, "configuration received", func() bool { return len(lines(t, dir, "received")) == 1 })

	// yggd is killed and started again: it ends the worker that was left and
	// starts one of its own, which gets on.
	orphan := d.WorkerPID()
	d.Kill()
	if err := syscall.Kill(orphan, 0); err != nil {
		t.Fatalf("worker did not survive yggd: %v", err)
	}
	d.Start()
	eventually(t, "new worker registered", func() bool { return len(lines(t, dir, "settings")) == 2 })
	eventually(t, "yggd knows the new worker", func() bool { return strings.Count(d.Log(), "worker registered") == 2 })
	server.Queue(configurationMessage(2))
	eventually(t, "configuration received by the new worker", func() bool { return len(lines(t, dir, "received")) == 2 })
	if now := d.WorkerPID(); now == orphan {
		t.Errorf("worker is still process %d", orphan)
	}
}

func TestYggdLeavesAnOrphanThatMakesRoom(t *testing.T) {
	t.Parallel()
	server := yggdtest.NewServer(t, nil)
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	d := yggdtest.NewDaemon(t, yggdtest.Config{
		Server: server, ClientID: "dev1", Worker: []string{exe},
		// Relative: the worker inherits yggd's working directory.
		Env: []string{"FLOTTA_TEST_WORKER=" + dir, "FLOTTA_TEST_GRACE=300ms", "FLOTTA_TEST_PIDFILE=var/run/yggdrasil/workers/device.pid"},
	})
	d.Start()
	eventually(t, "registered", func() bool { return strings.Contains(d.Log(), "worker registered") })
	eventually(t, "pid file", func() bool { return d.WorkerPID() != 0 })
	d.Kill()
	eventually(t, "orphan ended", func() bool { return len(lines(t, dir, "ended")) == 1 })
	if got := lines(t, dir, "ended")[0]; got != "true" {
		t.Errorf("ended with ErrOrphaned: %s", got)
	}
	if _, err := os.Stat(d.PIDFile()); !os.IsNotExist(err) {
		t.Errorf("pid file is still there: %v", err)
	}
	d.Start() // fails when the record of a process that is gone is left
	eventually(t, "next worker registered", func() bool { return strings.Count(d.Log(), "worker registered") == 2 })
}

func TestWorkerSocketRefusesOtherUsers(t *testing.T) {
	t.Parallel()
	server := yggdtest.NewServer(t, nil)
	d := yggdtest.NewDaemon(t, yggdtest.Config{Server: server, ClientID: "dev1"})
	d.Start()
	runWorker(t, Config{SocketAddr: d.Socket}, &recorder{})
	address := regexp.MustCompile(`addr:(@ygg-device-\w+)`)
	eventually(t, "registered", func() bool { return address.MatchString(d.Log()) })
	socket := address.FindStringSubmatch(d.Log())[1]
	for uid, want := range map[int]bool{0: true, 65534: false} {
		var served bool
		eventually(t, "worker listens", func() bool {
			var err error
			served, err = dialAs(uid, socket)
			return err == nil
		})
		if served != want {
			t.Errorf("uid %d served: %t, want %t", uid, served, want)
		}
	}
}

// dialAs connects to an abstract socket as another user and reports whether
// the other end speaks: a gRPC server begins with its settings frame, a guarded
// one hangs up.
func dialAs(uid int, socket string) (served bool, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Never unlocked: the thread, whose user id is changed, ends with this goroutine.
		runtime.LockOSThread()
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
			err = errno
			return
		}
		var fd int
		if fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return
		}
		defer func() { _ = unix.Close(fd) }()
		if err = unix.Connect(fd, &unix.SockaddrUnix{Name: socket}); err != nil {
			return
		}
		var n int
		n, err = unix.Read(fd, make([]byte, 16))
		served = n > 0
	}()
	<-done
	return served, err
}

func TestYggdDeliversInOrder(t *testing.T) {
	t.Parallel()
	server := yggdtest.NewServer(t, nil)
	d := yggdtest.NewDaemon(t, yggdtest.Config{Server: server, ClientID: "dev1"})
	d.Start()
	r := &recorder{}
	runWorker(t, Config{SocketAddr: d.Socket}, r)
	eventually(t, "registered", func() bool { return strings.Contains(d.Log(), "worker registered") })
	for n := range 3 {
		server.Queue(configurationMessage(n))
	}
	eventually(t, "three messages", func() bool { return len(r.contents()) == 3 })
	want := []string{`{"version":"0"}`, `{"version":"1"}`, `{"version":"2"}`}
	if diff := cmp.Diff(want, r.contents()); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
	server.Dismiss()
	eventually(t, "disconnect told", func() bool { return r.disconnects() > 0 })
}

func TestYggdAnswers(t *testing.T) {
	t.Parallel()
	server := yggdtest.NewServer(t, func(s yggdtest.Seen) yggdtest.Answer {
		switch s.Message.Directive {
		case "registration":
			return yggdtest.Answer{Status: http.StatusOK, Body: protocol.MessageResponse{
				Directive: "registration", MessageID: s.Message.MessageID, Content: s.Message.Content,
			}}
		case "enrolment":
			return yggdtest.Answer{Status: http.StatusAlreadyReported}
		case "slow":
			time.Sleep(5 * time.Second)
			return yggdtest.Answer{Status: http.StatusOK, Body: "late"}
		case "html":
			return yggdtest.Answer{Status: http.StatusBadGateway, Raw: []byte("<html>bad gateway</html>")}
		case "refused":
			return yggdtest.Answer{Status: http.StatusForbidden}
		}
		return yggdtest.Answer{Status: http.StatusNotFound, Body: map[string]string{"message": "no"}}
	})
	d := yggdtest.NewDaemon(t, yggdtest.Config{Server: server, ClientID: "dev1"})
	d.Start()
	w := runWorker(t, Config{SocketAddr: d.Socket}, &recorder{})
	if _, err := w.Settings(t.Context()); err != nil { // waits for yggd
		t.Fatal(err)
	}

	for _, c := range []struct {
		directive string
		status    int
		body      string
	}{
		{"registration", 200, `{"message_id":"id-registration","directive":"registration","content":{"a":[1,2]}}`},
		{"enrolment", 208, ""},
		{"refused", 403, ""},
		{"other", 404, `{"message":"no"}`},
		{"slow", 200, `"late"`},
	} {
		reply, err := w.Send(t.Context(), transport.Message{ID: "id-" + c.directive, Directive: c.directive, Content: []byte(`{"a":[1,2]}`)})
		if err != nil {
			t.Errorf("%s: %v", c.directive, err)
			continue
		}
		if reply.Status != c.status || strings.TrimSpace(string(reply.Body)) != c.body {
			t.Errorf("%s: %d %q, want %d %q", c.directive, reply.Status, reply.Body, c.status, c.body)
		}
		if got := reply.Header["Content-Type"]; got != "application/json" {
			t.Errorf("%s: content type %q", c.directive, got)
		}
	}
	// yggd cannot wrap a body that is not JSON.
	if _, err := w.Send(t.Context(), transport.Message{Directive: "html"}); !isNoAnswer(err) {
		t.Errorf("html body: %v, want ErrNoAnswer", err)
	}
	posted := server.Seen(func(s yggdtest.Seen) bool { return s.Path == "/data/dev1/out" && s.Message.Directive == "slow" })
	if len(posted) != 1 {
		t.Errorf("the slow message was posted %d times", len(posted))
	}
}

func TestYggdRestartsUnderAnIndependentWorker(t *testing.T) {
	t.Parallel()
	server := yggdtest.NewServer(t, nil)
	d := yggdtest.NewDaemon(t, yggdtest.Config{Server: server, ClientID: "dev1"})
	r := &recorder{}
	w := runWorker(t, Config{SocketAddr: d.Socket}, r) // before there is a yggd
	for n := range 3 {
		d.Start()
		// What yggd polls before there is a worker, it drops.
		eventually(t, "registered", func() bool { return strings.Count(d.Log(), "worker registered") == n+1 })
		server.Queue(configurationMessage(n))
		eventually(t, fmt.Sprint("message ", n), func() bool { return len(r.contents()) == n+1 })
		if _, err := w.Send(t.Context(), transport.Message{Directive: "heartbeat"}); err != nil {
			t.Errorf("send to yggd %d: %v", n, err)
		}
		d.Kill()
	}
	_, err := w.Send(t.Context(), transport.Message{Directive: "heartbeat"})
	if !isUnavailable(err) {
		t.Errorf("send without yggd: %v, want ErrUnavailable", err)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	yggdtest.Eventually(t, 60*time.Second, what, ok)
}

// lines reads a file of the worker program; a file that is not there is empty.
func lines(t *testing.T, dir, name string) []string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return strings.FieldsFunc(string(raw), func(r rune) bool { return r == '\n' })
}
