package heartbeat

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/project-flotta/flotta-agent/internal/transport"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

func TestRecoveredIsToldOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		r := newRig(t, func(c *Config) { c.Recovered = func() { calls.Add(1) } })
		reached := func(want int32, answer func(protocol.Heartbeat) (int, error)) {
			t.Helper()
			r.server.setAnswer(answer)
			sleep(time.Hour)
			if got := calls.Load(); got != want {
				t.Errorf("told %d times, want %d", got, want)
			}
		}
		up := func(protocol.Heartbeat) (int, error) { return http.StatusOK, nil }
		down := func(protocol.Heartbeat) (int, error) { return 0, fmt.Errorf("dial: %w", transport.ErrUnavailable) }
		r.server.setAnswer(up)
		r.run(t)
		reached(1, up)
		reached(1, down)
		reached(2, up)
	})
}
