//go:build integration

package firewall

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// inNamespace says that this process has a network, and a ruleset, of its own.
const inNamespace = "FLOTTA_TEST_OWN_NETWORK"

func TestMain(m *testing.M) {
	if os.Getenv(inNamespace) == "" {
		self, err := os.Executable()
		if err == nil {
			err = syscall.Exec("/usr/bin/unshare", append([]string{"unshare", "--net", "--", self}, os.Args[1:]...),
				append(os.Environ(), inNamespace+"=1"))
		}
		fmt.Fprintln(os.Stderr, "get a network of my own:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// tell runs nft itself.
func tell(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "nft", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("nft %v: %v: %s", args, err, out)
	}
	return string(out)
}

func ofKernel(t *testing.T) (*Reconciler, *world) {
	t.Helper()
	tell(t, "flush", "ruleset")
	w := &world{changed: make(chan struct{})}
	r, err := New(w.config())
	if err != nil {
		t.Fatal(err)
	}
	return r, w
}

// ensure makes the table be that of the openings, and returns whether it was
// written.
func ensure(t *testing.T, r *Reconciler, openings []Opening) bool {
	t.Helper()
	good, refused := normal(openings)
	if len(refused) > 0 {
		t.Fatal(refused)
	}
	wrote, err := r.ensure(t.Context(), desired(good))
	if err != nil {
		t.Fatal(err)
	}
	return wrote
}

func randomName(random *rand.Rand) string {
	const ends, all = "abcz019", "abcz019-."
	for {
		name := make([]byte, 1+random.IntN(maxName))
		for i := range name {
			name[i] = all[random.IntN(len(all))]
		}
		name[0], name[len(name)-1] = ends[random.IntN(len(ends))], ends[random.IntN(len(ends))]
		if text := string(name); isName(text) {
			return text
		}
	}
}

func randomOpenings(random *rand.Rand) []Opening {
	names := []string{"input", "accept", "tcp", "0", "0.0", "a-b", strings.Repeat("x", maxName), randomName(random), randomName(random)}
	openings := make([]Opening, random.IntN(12))
	for i := range openings {
		o := &openings[i]
		o.Workload = names[random.IntN(len(names))]
		o.Protocol = []string{"tcp", "udp", "sctp"}[random.IntN(3)]
		o.Port = uint16(1 + random.IntN(65535))
		switch random.IntN(4) {
		case 0:
			var raw [4]byte
			binary.BigEndian.PutUint32(raw[:], random.Uint32())
			o.Address = netip.AddrFrom4(raw)
		case 1:
			var raw [16]byte
			// Zeros make the short forms that an address can be written in.
			for j := range raw {
				if random.IntN(2) == 0 {
					raw[j] = byte(random.Uint32())
				}
			}
			o.Address = netip.AddrFrom16(raw)
		case 2:
			o.Address = []netip.Addr{netip.IPv6Unspecified(), netip.IPv4Unspecified(), netip.IPv6Loopback(), netip.MustParseAddr("::1.2.3.4")}[random.IntN(4)]
		}
	}
	return openings
}

// TestAnyOpeningsReadBackAsWritten is the property that all else rests on: what
// nft says of the table equals what was desired, so that it is written once.
func TestAnyOpeningsReadBackAsWritten(t *testing.T) {
	r, _ := ofKernel(t)
	tell(t, "add", "table", "inet", "theirs")
	tell(t, "add", "chain", "inet", "theirs", "input", "{ type filter hook input priority 0; policy accept; }")
	theirs := tell(t, "list", "table", "inet", "theirs")
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	var last []Opening
	for round := range 60 {
		openings := randomOpenings(random)
		before, _ := normal(last)
		after, _ := normal(openings)
		wrote := ensure(t, r, openings)
		if want := !desired(before).equal(desired(after)); wrote != want {
			t.Fatalf("seed %d, round %d: written %v, want %v\n%v\n%v", seed, round, wrote, want, last, openings)
		}
		if ensure(t, r, openings) {
			t.Fatalf("seed %d, round %d: written again\n%v\n%s", seed, round, openings, tell(t, "list", "ruleset"))
		}
		if there := strings.Contains(tell(t, "list", "tables"), "flotta"); there != (len(openings) > 0) {
			t.Fatalf("seed %d, round %d: the table is there: %v, openings %v", seed, round, there, openings)
		}
		last = openings
	}
	if diff := cmp.Diff(theirs, tell(t, "list", "table", "inet", "theirs")); diff != "" {
		t.Errorf("somebody else's table was changed:\n%s", diff)
	}
}

func TestChangesByHandArePutRight(t *testing.T) {
	r, _ := ofKernel(t)
	openings := []Opening{open("web", "tcp", "", 80), open("web", "udp", "192.0.2.1", 53), open("db", "sctp", "", 7)}
	ensure(t, r, openings)
	want := tell(t, "list", "table", "inet", "flotta")
	for _, edit := range []string{
		"delete table inet flotta", "flush table inet flotta", "flush ruleset", "flush chain inet flotta workload-web",
		"add chain inet flotta mine", "add rule inet flotta workload-db tcp dport 22 accept", "insert rule inet flotta input drop",
		"add rule inet flotta input counter", "add chain inet flotta input { policy drop; }", "add table inet flotta { flags dormant; }",
		"add set inet flotta s { type ipv4_addr; }", "add chain inet flotta early { type filter hook prerouting priority 0; policy drop; }",
		"add rule inet flotta workload-web tcp dport != 80 accept", "add rule inet flotta input goto workload-web", "add rule inet flotta workload-db tcp dport { 1, 2 } accept",
		"add rule inet flotta workload-db meta l4proto tcp accept", "add rule inet flotta workload-db ct state new accept",
	} {
		tell(t, edit)
		if !ensure(t, r, openings) { // whose second look has to find it right
			t.Errorf("%s: not noticed", edit)
		}
		if diff := cmp.Diff(want, tell(t, "list", "table", "inet", "flotta")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", edit, diff)
		}
	}
}

func TestTableOfAWorkloadsLife(t *testing.T) {
	r, w := ofKernel(t)
	status := func() Status {
		r.round(t.Context(), true)
		return r.Status()
	}
	w.set(true)
	if s := status(); s != (Status{}) || tell(t, "list", "ruleset") != "" {
		t.Errorf("nothing is to be open, and yet: %+v\n%s", s, tell(t, "list", "ruleset"))
	}
	w.set(true, open("web", "tcp", "", 80))
	if s := status(); s != (Status{}) || !strings.Contains(tell(t, "list", "chain", "inet", "flotta", "workload-web"), "tcp dport 80 accept") {
		t.Errorf("status %+v\n%s", s, tell(t, "list", "ruleset"))
	}
	tell(t, "add", "table", "inet", "hard")
	tell(t, "add", "chain", "inet", "hard", "input", "{ type filter hook input priority 0; policy drop; }")
	if s := status(); s.Problem != "" || !strings.Contains(s.Note, "inet hard") {
		t.Errorf("another table drops all: %+v", s)
	}
	if err := r.Clear(t.Context()); err != nil || strings.Contains(tell(t, "list", "ruleset"), "flotta") {
		t.Errorf("cleared: %v\n%s", err, tell(t, "list", "ruleset"))
	}
	w.set(true)
	if s := status(); s != (Status{}) {
		t.Errorf("status %+v", s)
	}
	if err := r.Clear(t.Context()); err != nil {
		t.Error(err)
	}
	if !strings.Contains(tell(t, "list", "ruleset"), "hard") {
		t.Error("somebody else's table is gone")
	}
}

func TestNftComplains(t *testing.T) {
	_, err := nft(t.Context(), "add chain inet none x\n", "-f", "-")
	if err == nil || !strings.Contains(err.Error(), "No such file or directory") || strings.Contains(err.Error(), "\n") {
		t.Errorf("error %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := nft(ctx, "", "list", "tables"); err == nil {
		t.Error("nft ran in an ended context")
	}
}
