package heartbeat

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

func TestADeviceThatIsNotManagedReportsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.run(t)
		r.accept(t, "v1", 20, "")
		sleep(30 * time.Second)
		before := len(r.server.all())
		if _, err := r.store.Leave(); err != nil {
			t.Fatal(err)
		}
		sleep(time.Hour)
		if err := r.store.Withdraw(); err != nil {
			t.Fatal(err)
		}
		r.Event(protocol.EventInfo{Reason: "R"})
		sleep(time.Hour)
		if n := len(r.server.all()) - before; n != 0 {
			t.Errorf("%d beats after the device began to leave", n)
		}
		if err := r.store.Forget(); err != nil {
			t.Fatal(err)
		}
		sleep(time.Minute)
		if len(r.server.all()) == before {
			t.Error("no beat in the device's next life")
		}
	})
}
