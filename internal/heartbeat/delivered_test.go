package heartbeat

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// TestDeliveredIsWhatWasAccepted: the outcome of a playbook counts as told only when
// the control plane said so.
func TestDeliveredIsWhatWasAccepted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		collected := 0
		var delivered []string
		r := newRig(t, func(c *Config) {
			c.Collect = func() Report {
				collected++
				return Report{Playbooks: []protocol.PlaybookExecutionStatus{{Name: strconv.Itoa(collected)}}}
			}
			c.Delivered = func(rep Report) { delivered = append(delivered, rep.Playbooks[0].Name) }
		})
		answers := 0
		r.server.answer = func(protocol.Heartbeat) (int, error) {
			answers++
			switch answers {
			case 1:
				return 0, context.DeadlineExceeded
			case 2:
				return http.StatusInternalServerError, nil
			}
			return http.StatusOK, nil
		}
		r.run(t)
		sleep(20 * time.Second)
		if beats := len(r.server.all()); beats != 3 || !slices.Equal(delivered, []string{"3"}) {
			t.Errorf("after %d beats, delivered %v", beats, delivered)
		}
	})
}
