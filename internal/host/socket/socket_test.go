package socket

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

const header = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"

// line is a socket as a little-endian kernel shows it.
func line(local, state string, inode int) string {
	return "   0: " + local + " 00000000:0000 " + state +
		" 00000000:00000000 00:00000000 00000000  1000        0 " + strconv.Itoa(inode) + " 1 0000000000000000 100 0 0 10 0\n"
}

// tree makes a procfs of files, and of links where the text begins with "->".
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for path, text := range files {
		path = filepath.Join(root, path)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if target, isLink := strings.CutPrefix(text, "->"); err == nil && isLink {
			err = os.Symlink(target, path)
		} else if err == nil {
			err = os.WriteFile(path, []byte(text), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func owner(unit string) string {
	name, _ := strings.CutPrefix(unit, "mine@")
	if name == unit {
		return ""
	}
	return strings.TrimSuffix(name, ".service")
}

const v4Any, v6Any, loopback = "00000000:1F90", "00000000000000000000000000000000:0050", "0100007F:0035"

func TestSockets(t *testing.T) {
	t.Parallel()
	if raw, _, ok := parseAddress(loopback); !ok || raw != netip.MustParseAddr("127.0.0.1") {
		t.Log("this machine is big-endian: addresses below are not")
	}
	root := tree(t, map[string]string{
		"net/tcp": header + line(v4Any, "0A", 11) + line("00000000:1F91", "01", 12) + "nonsense\n" +
			line(loopback, "0A", 13) + line("00000000:0000", "0A", 1) + line("00000000:1F92", "0A", 0),
		"net/tcp6": header + line(v6Any, "0A", 14),
		"net/udp6": header + line("00000000000000000000000000000000:0051", "07", 17) + line("00000000000000000000000000000000:0052", "07", 18),
		"net/udp":  header + line(loopback, "07", 15) + line(loopback, "01", 16),
		// Two processes hold 11, and the second one lives in a unit of interest.
		"9/comm": "first\n", "9/cgroup": "0::/system.slice/other.service\n", "9/fd/3": "->socket:[11]",
		"10/comm": "port\x1b[2Jer\n",
		"10/cgroup": "12:pids:/user.slice\n1:name=systemd:/user.slice/user-9.slice/user@9.service/flotta.slice/mine@web.service/mine@evil.service\n" +
			"0::/\n",
		"10/fd/0": "->/dev/null", "10/fd/7": "->socket:[11]", "10/fd/8": "->socket:[15]",
		// One that ended meanwhile, and one of the kernel's.
		"11/comm": "gone", "12/fd/1": "->socket:[14]",
		"self": "->10", "uptime": "1 1",
		// A container: the monitor is in the unit. And a circle, which no kernel makes.
		"13/comm": "app", "13/cgroup": "0::/x.slice/libpod-1.scope/container\n", "13/fd/3": "->socket:[17]", "13/stat": "13 (app) S 1 (b) S 14 0 0",
		"14/cgroup": "0::/mine@db.service\n", "15/fd/3": "->socket:[18]", "15/stat": "15 (x) S 15 0 0",
	})
	table := New(Config{Proc: root, Owner: owner})
	got, err := table.Sockets()
	if err != nil {
		t.Fatal(err)
	}
	want := []Socket{
		{Protocol: "tcp", Address: netip.IPv4Unspecified(), Port: 8080, PID: 10, Command: "port?[2Jer", Owner: "web"},
		{Protocol: "tcp", Address: netip.MustParseAddr("127.0.0.1"), Port: 53},
		{Protocol: "tcp", Address: netip.IPv4Unspecified(), Port: 8082},
		{Protocol: "tcp", Address: netip.IPv6Unspecified(), Port: 80, PID: 12},
		{Protocol: "udp", Address: netip.MustParseAddr("127.0.0.1"), Port: 53, PID: 10, Command: "port?[2Jer", Owner: "web"},
		{Protocol: "udp", Address: netip.IPv6Unspecified(), Port: 81, PID: 13, Command: "app", Owner: "db"},
		{Protocol: "udp", Address: netip.IPv6Unspecified(), Port: 82, PID: 15},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(x, y netip.Addr) bool { return x == y })); diff != "" {
		t.Errorf("sockets (-want +got):\n%s", diff)
	}
	if got, want := got[0].String(), "tcp 0.0.0.0:8080 of port?[2Jer (pid 10)"; got != want {
		t.Errorf("in words: %q, want %q", got, want)
	}
}

func TestHolderIsFoundAgain(t *testing.T) {
	t.Parallel()
	root := tree(t, map[string]string{
		"net/tcp": header + line(v4Any, "0A", 11),
		"20/comm": "old", "20/fd/3": "->socket:[11]", "30/comm": "new", "30/fd/0": "->/dev/null",
	})
	table := New(Config{Proc: root})
	holder := func() int {
		t.Helper()
		list, err := table.Sockets()
		if err != nil || len(list) != 1 {
			t.Fatalf("sockets %v: %v", list, err)
		}
		return list[0].PID
	}
	if pid := holder(); pid != 20 {
		t.Fatalf("holder is %d, want 20", pid)
	}
	// As long as it holds the socket, nobody else is looked at.
	if err := os.Symlink("socket:[11]", filepath.Join(root, "30/fd/4")); err != nil {
		t.Fatal(err)
	}
	if pid := holder(); pid != 20 {
		t.Errorf("holder is %d, want still 20", pid)
	}
	if err := os.Remove(filepath.Join(root, "20/fd/3")); err != nil {
		t.Fatal(err)
	}
	if pid := holder(); pid != 30 {
		t.Errorf("holder is %d, want 30: the other one closed it", pid)
	}
	if err := os.WriteFile(filepath.Join(root, "net/tcp"), []byte(header), 0o600); err != nil {
		t.Fatal(err)
	}
	if list, err := table.Sockets(); err != nil || len(list) != 0 || len(table.holders) != 0 {
		t.Errorf("sockets %v, remembered %v: %v", list, table.holders, err)
	}
}

func TestUnheldSocketIsNotSearchedForEachTime(t *testing.T) {
	t.Parallel()
	root := tree(t, map[string]string{"net/tcp": header + line(v4Any, "0A", 11)})
	table := New(Config{Proc: root})
	if list, err := table.Sockets(); err != nil || len(list) != 1 || list[0].PID != 0 {
		t.Fatalf("sockets %v: %v", list, err)
	}
	first := table.holders[11].looked
	if _, err := table.Sockets(); err != nil || table.holders[11].looked != first {
		t.Errorf("it was searched for again at once: %v", err)
	}
	h := table.holders[11]
	h.looked = first.Add(-searchAgain - time.Second)
	table.holders[11] = h
	if _, err := table.Sockets(); err != nil || table.holders[11].looked.Before(first) {
		t.Errorf("it was not searched for again later: %v", err)
	}
}

func TestNoProcfs(t *testing.T) {
	t.Parallel()
	if list, err := New(Config{Proc: t.TempDir()}).Sockets(); err == nil {
		t.Errorf("sockets %v of a host without any", list)
	}
}

// TestOwnSockets looks at this process on the real host.
func TestOwnSockets(t *testing.T) {
	t.Parallel()
	var lc net.ListenConfig
	stream, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stream.Close() }()
	packets, err := lc.ListenPacket(t.Context(), "udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = packets.Close() }()
	list, err := New(Config{}).Sockets()
	if err != nil {
		t.Fatal(err)
	}
	tcp := stream.Addr().(*net.TCPAddr).AddrPort()
	udp := packets.LocalAddr().(*net.UDPAddr).AddrPort()
	var sawTCP, sawUDP bool
	for _, s := range list {
		if s.PID != os.Getpid() {
			continue
		}
		sawTCP = sawTCP || s.Protocol == "tcp" && netip.AddrPortFrom(s.Address, s.Port) == tcp
		sawUDP = sawUDP || s.Protocol == "udp" && s.Port == udp.Port() && s.Address.IsUnspecified()
	}
	if !sawTCP || !sawUDP {
		t.Errorf("own sockets %v and %v are not among %v", tcp, udp, list)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(header + line(v4Any, "0A", 11))
	f.Add(line(v6Any, "0A", 11) + line("0000000000000000FFFF00000100007F:0050", "0A", 2))
	f.Add(line("0:0", "0A", -1))
	f.Fuzz(func(t *testing.T, text string) {
		err := parse(strings.NewReader(text), stateListen, func(e entry) {
			if !e.address.IsValid() || e.port == 0 || e.address.Is4In6() {
				t.Errorf("a socket at %v", e)
			}
		})
		if err != nil && len(text) < 1<<16 {
			t.Errorf("parse: %v", err)
		}
	})
}

func FuzzParseCgroup(f *testing.F) {
	f.Add("0::/user.slice/user-9.slice/user@9.service/flotta.slice/mine@web.service/libpod.scope\n")
	f.Add("12:cpu,cpuacct:/\n1:name=systemd:/a.service:b.service\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, unit := range parseCgroup(text) {
			if strings.ContainsAny(unit, "/\n") {
				t.Errorf("unit %q", unit)
			}
		}
		if parent := parseParent(text); parent != 0 && !strings.Contains(text, strconv.Itoa(parent)) {
			t.Errorf("parent %d", parent)
		}
		if name := printable(text); len(name) > maxCommand || !utf8.ValidString(name) || strings.ContainsAny(name, "\n\x1b\x00") {
			t.Errorf("name %q", name)
		}
	})
}
