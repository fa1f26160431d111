//go:build integration

package device_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/device"
)

// childEnv makes the test binary boot a device, say where it is, and wait to be
// killed.
const childEnv = "FLOTTA_TEST_DEVICE_CHILD"

func TestMain(m *testing.M) {
	if mode := os.Getenv(childEnv); mode != "" {
		os.Exit(child(mode))
	}
	os.Exit(m.Run())
}

func child(mode string) int {
	d, err := device.Boot(context.Background(), device.Config{Limits: map[string]int64{"/srv/small": 32 << 20}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	leader, id := d.Leader(), ""
	if mode == "detach" {
		if id, err = d.Detach(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	fmt.Println(d.Dir(), leader, d.HostAddr(), id+".")
	if mode == "detach" {
		return 0
	}
	select {}
}

func must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// eventually waits until ok; a test fails after the limit, which is generous.
func eventually(t *testing.T, what string, limit time.Duration, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not within %s: %s", limit, what)
}

// run runs a command as root that has to succeed, and returns what it printed.
func run(t *testing.T, d *device.Device, args ...string) string {
	t.Helper()
	r, err := d.Run(t.Context(), args...)
	must(t, "run", err)
	return strings.TrimSpace(r.Stdout)
}

// runUser is run as the user of the workloads.
func runUser(t *testing.T, d *device.Device, args ...string) string {
	t.Helper()
	r, err := d.RunAs(t.Context(), device.User, args...)
	must(t, "run", err)
	return strings.TrimSpace(r.Stdout)
}
