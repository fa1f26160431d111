//go:build integration

package logs

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestDelivery sends what is hard to send, by each protocol, to a real receiver.
func TestDelivery(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"tcp", "udp", "tls"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			r := newRsyslog(t, kind)
			r.start()
			dir := t.TempDir()
			c := fileContainer(dir, "shop", "c1")
			const at = "2026-11-21T22:09:34.304052939+01:00"
			long := strings.Repeat("ü", 3000)
			content := at + " stdout F plain\n" +
				at + " stderr F with \"quotes\", \\ and ]\n" +
				at + " stdout F \n" +
				at + " stdout P first half, \n" + at + " stdout F second half\n" +
				at + " stdout F not \xff UTF-8\n" +
				at + " stdout F " + long + "\n"
			if err := os.WriteFile(c.LogPath, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			cfg := testConfig(t, newTold(collects(r.target(kind), "shop")), newInventory(c))
			e, _ := start(t, cfg)
			var got []received
			whole := func() string {
				got = r.messages()
				var text strings.Builder
				for _, m := range got {
					text.WriteString(m.Text)
				}
				return text.String()
			}
			want := `plainwith "quotes", \ and ]first half, second halfnot \xff UTF-8` + long
			eventually(t, "everything arrives", func() bool { return len(whole()) >= len(want) })
			if diff := cmp.Diff(want, whole()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			first := received{
				Pri: "14", Time: "2026-11-21T21:09:34.304052Z", Host: "device-1", App: "shop", Proc: "app", MsgID: "stdout",
				SD: `[flotta@32473 device="device-1" workload="shop" container="app" stream="stdout"]`, Text: "plain", Protocol: "1",
			}
			if diff := cmp.Diff(first, got[0]); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if got[1].Pri != "11" || got[1].MsgID != "stderr" {
				t.Errorf("a line of standard error arrived as %+v", got[1])
			}
			eventually(t, "the spool is empty", func() bool {
				s := e.Status()
				return s.Targets[0].Queue.Entries == 0 && s.Targets[0].Sent == 6 && len(s.Problems) == 0
			})
		})
	}
}

// numbers returns the numbers behind "line " in the order they arrived.
func numbers(t testing.TB, messages []received) []int {
	t.Helper()
	var all []int
	for _, m := range messages {
		var n int
		if _, err := fmt.Sscanf(m.Text, "line %d", &n); err != nil {
			t.Fatalf("message %q: %v", m.Text, err)
		}
		all = append(all, n)
	}
	return all
}

// complete checks that every number below want is there, in order but for
// repetitions, and returns how many came again.
func complete(t testing.TB, got []int, want int) (again int) {
	t.Helper()
	next := 0
	for _, n := range got {
		switch {
		case n == next:
			next++
		case n < next:
			again++
		default:
			t.Fatalf("after %d comes %d", next-1, n)
		}
	}
	if next != want {
		t.Fatalf("the last number is %d, want %d", next-1, want-1)
	}
	return again
}
