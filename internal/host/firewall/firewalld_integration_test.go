//go:build integration

package firewall

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// busConfig is that of a message bus on which everybody may do all.
const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=SOCKET</listen><policy context="default"><allow user="*"/><allow own="*"/>
<allow send_destination="*"/><allow send_type="signal"/><allow receive_type="signal"/><allow receive_sender="*"/></policy></busconfig>
`

// host is a message bus, and a firewalld that guards the network of this process.
type host struct {
	*testing.T
	dir    string
	daemon *exec.Cmd
}

func (h *host) socket() string { return filepath.Join(h.dir, "bus") }

func (h *host) command(name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(h.Context(), name, args...)
	cmd.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS=unix:path="+h.socket())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

func newHost(t *testing.T) *host {
	t.Helper()
	tell(t, "flush", "ruleset")
	h := &host{T: t, dir: t.TempDir()}
	config := filepath.Join(h.dir, "bus.conf")
	if err := os.WriteFile(config, []byte(strings.ReplaceAll(busConfig, "SOCKET", h.socket())), 0o600); err != nil {
		t.Fatal(err)
	}
	bus := h.command("dbus-daemon", "--config-file="+config, "--nofork", "--nopidfile")
	if err := bus.Start(); err != nil {
		t.Fatalf("start a message bus (make setup installs it): %v", err)
	}
	t.Cleanup(func() {
		_ = bus.Process.Kill()
		_ = bus.Wait()
	})
	h.until("there is a bus", func() bool { _, err := os.Stat(h.socket()); return err == nil })
	return h
}

func (h *host) until(what string, done func() bool) {
	h.Helper()
	for end := time.Now().Add(30 * time.Second); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			h.Fatalf("not within 30 s: %s", what)
		}
	}
}

// start starts firewalld, which forgets on its way what it was not told for good.
func (h *host) start() {
	h.Helper()
	h.daemon = h.command("firewalld", "--nofork", "--nopid", "--system-config="+h.dir, "--log-file="+filepath.Join(h.dir, "log"))
	if err := h.daemon.Start(); err != nil {
		h.Fatalf("start firewalld (make setup installs it): %v", err)
	}
	h.Cleanup(h.stop)
	h.until("firewalld runs", func() bool { return h.command("firewall-cmd", "--state").Run() == nil })
}

func (h *host) stop() {
	_ = h.daemon.Process.Kill()
	_ = h.daemon.Wait()
}

func (h *host) cmd(args ...string) string {
	h.Helper()
	out, err := h.command("firewall-cmd", args...).CombinedOutput()
	if err != nil {
		h.Fatalf("firewall-cmd %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// rules returns the rich rules of a zone that are in force.
func (h *host) rules(zone string) []string {
	h.Helper()
	rules := strings.Split(h.cmd("--zone="+zone, "--list-rich-rules"), "\n")
	slices.Sort(rules)
	return slices.DeleteFunc(rules, func(rule string) bool { return rule == "" })
}

func TestFirewalld(t *testing.T) {
	h := newHost(t)
	f := &firewalld{socket: h.socket()}
	ensure := func(want bool, openings ...Opening) {
		t.Helper()
		good, refused := normal(openings)
		if len(refused) > 0 {
			t.Fatal(refused)
		}
		if running, err := f.ensure(t.Context(), good); running != want || err != nil {
			t.Fatalf("runs: %v, want %v; %v", running, want, err)
		}
	}
	has := func(what, zone string, want ...string) {
		t.Helper()
		slices.Sort(want)
		if diff := cmp.Diff(want, h.rules(zone), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s: zone %s (-want +got):\n%s", what, zone, diff)
		}
	}
	web, dns, six := open("web", "tcp", "", 8080), open("dns", "udp", "192.0.2.7", 53), open("six", "sctp", "2001:db8:0:0:0:0:0:7", 9)
	ensure(false, web)
	h.start()
	ctx, stop := context.WithCancel(t.Context())
	changed, watched := make(chan struct{}, 100), make(chan struct{})
	go func() {
		defer close(watched)
		f.watch(ctx, func() { changed <- struct{}{} })
	}()

	const theirs = `rule port port="22" protocol="tcp" reject`
	h.cmd("--zone=public", "--add-rich-rule="+theirs)
	ensure(true, web, dns, six)
	all := []string{theirs, web.richRule(), dns.richRule(), `rule priority="32123" family="ipv6" destination address="2001:db8::7" port port="9" protocol="sctp" accept`}
	has("three are open", "public", all...)
	if ruleset := tell(t, "list", "table", "inet", "firewalld"); !strings.Contains(ruleset, "tcp dport 8080") {
		t.Errorf("firewalld did not tell the kernel:\n%s", ruleset)
	}
	f.forget()
	ensure(true, web, dns, six)
	has("again", "public", all...)
	ensure(true, web)
	has("one is left", "public", theirs, web.richRule())

	h.cmd("--zone=work", "--add-interface=lo")
	ensure(true, web)
	has("another zone is in use", "work", web.richRule())
	h.cmd("--zone=work", "--remove-interface=lo")
	ensure(true, web)
	has("it is not any more", "work")
	h.cmd("--set-default-zone=drop")
	ensure(true, web)
	has("a zone that lets nothing in", "drop")
	has("and the one before", "public", theirs)
	h.cmd("--set-default-zone=public")

	for len(changed) > 0 {
		<-changed
	}
	ensure(true, web)
	for what, forget := range map[string]func(){"reload": func() { h.cmd("--reload") }, "restart": func() { h.stop(); h.start() }} {
		forget()
		has(what, "public")
		select {
		case <-changed:
		case <-time.After(20 * time.Second):
			t.Fatalf("a %s was not noticed", what)
		}
		ensure(true, web)
		has("after a "+what, "public", web.richRule())
	}
	// A process that was started anew knows which are its own.
	f2 := &firewalld{socket: h.socket()}
	if running, err := f2.ensure(t.Context(), nil); !running || err != nil {
		t.Fatal(running, err)
	}
	has("all is closed", "public")
	h.stop()
	ensure(false, web)
	stop()
	<-watched
}
