package device

import (
	"testing"
)

func TestValidate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		cfg  Config
		ok   bool
	}{
		{"nothing", Config{}, true},
		{"all", Config{Name: "edge-1", Dir: "/var/tmp/x", Cgroup: CgroupV1, Limits: map[string]int64{"/srv/x": 16 << 20}}, true},
		{"name", Config{Name: "Edge 1"}, false},
		{"machine id", Config{ID: "edge-1"}, false},
		{"relative folder", Config{Dir: "x"}, false},
		{"folder that an overlay can't name", Config{Dir: "/tmp/a:b"}, false},
		{"cgroup", Config{Cgroup: "v3"}, false},
		{"relative file", Config{Files: map[string]File{"x": {}}}, false},
		{"file with two contents", Config{Files: map[string]File{"/x": {Content: []byte("x"), Source: "/x"}}}, false},
		{"tiny limit", Config{Limits: map[string]int64{"/srv/x": 1}}, false},
		{"limit that a bind can't name", Config{Limits: map[string]int64{"/srv/a b": 16 << 20}}, false},
	} {
		if err := c.cfg.Validate(); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestSlotsHaveAddressesOfTheirOwn(t *testing.T) {
	t.Parallel()
	seen := map[string]int{}
	for slot := range slots {
		n := newNetwork(record{slot: slot})
		for _, addr := range []string{n.host.String(), n.device.String()} {
			if other, ok := seen[addr]; ok {
				t.Fatalf("slots %d and %d share %s", other, slot, addr)
			}
			seen[addr] = slot
		}
		if len(n.link) > 15 {
			t.Fatalf("link name %q is too long", n.link)
		}
	}
}
