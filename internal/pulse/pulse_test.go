package pulse_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/project-flotta/flotta-agent/internal/pulse"
)

func TestPulse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := pulse.New()
		busy := make(chan time.Duration)
		go func() {
			for {
				select {
				case <-p.Beat():
				case d, ok := <-busy:
					if !ok {
						return
					}
					time.Sleep(d)
				}
			}
		}()
		defer close(busy)
		feel := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			return p.Feel(ctx)
		}
		for range 2 {
			if err := feel(); err != nil {
				t.Errorf("an idle loop: %v", err)
			}
		}
		busy <- 59 * time.Second
		if err := feel(); err != nil {
			t.Errorf("a slow loop: %v", err)
		}
		busy <- 61 * time.Second
		if err := feel(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a loop that hangs: %v", err)
		}
		time.Sleep(time.Minute) // it comes back
	})
}
