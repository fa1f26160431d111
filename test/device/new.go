package device

import (
	"context"
	"testing"
	"time"
)

// New boots a device for one test, and removes it when the test ends. The
// console and the journal of a failed test are in its output.
func New(tb testing.TB, cfg Config) *Device {
	tb.Helper()
	d, err := Boot(tb.Context(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			tb.Logf("journal of %s:\n%s", d.Name(), d.Journal(ctx, journalLines))
		}
		if err := d.Close(); err != nil {
			tb.Errorf("close device: %v", err)
		}
	})
	return d
}

// journalLines is about what a test of a minute writes.
const journalLines = 400
