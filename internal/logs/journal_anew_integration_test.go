//go:build integration

package logs

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/logs/follow"
)

// heard is a sink that keeps texts.
type heard struct {
	mu             sync.Mutex
	texts, skipped []string
}

func (h *heard) Take(_ context.Context, l follow.Line, _ follow.Mark) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.texts = append(h.texts, string(l.Text))
	return nil
}

func (h *heard) Skipped(reason string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.skipped = append(h.skipped, reason)
}

// TestJournalOfAnEarlierClock is about a device without a clock of its own, whose
// journal is gone with each boot: what it wrote before the time was known seems
// older than what was read last.
func TestJournalOfAnEarlierClock(t *testing.T) {
	t.Parallel()
	j := startJournald(t, "16M", "4M")
	say := j.conmon("shop", "c1")
	say("one", false)
	ahead := time.Now().Add(24 * time.Hour).UnixMicro()
	mark := follow.JournalMark{
		Spot:  follow.Spot{Cursor: fmt.Sprintf("s=0123456789abcdef0123456789abcdef;i=5;b=0123456789abcdef0123456789abcdef;m=1;t=%x;x=1", ahead)},
		Names: map[string]follow.NameMark{"shop-app": {}},
	}
	var sink heard
	journal, err := follow.NewJournal(follow.JournalConfig{
		UID: os.Getuid(), Sink: &sink, Trouble: func(error) {}, Command: j.command,
		Wanted: func() (map[string]follow.Origin, <-chan struct{}) {
			return map[string]follow.Origin{"shop-app": {Workload: "shop", Container: "app", ID: "c1"}}, nil
		},
	}, mark)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- journal.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	for _, want := range [][]string{{"one"}, {"one", "two"}} {
		if len(want) == 2 {
			say("two", false)
		}
		eventually(t, fmt.Sprint(want), func() bool {
			sink.mu.Lock()
			defer sink.mu.Unlock()
			return slices.Equal(sink.texts, want)
		})
	}
	if sink.mu.Lock(); len(sink.skipped) != 1 {
		t.Errorf("it is told: %q", sink.skipped)
	}
	sink.mu.Unlock()
}
