//go:build integration

package architecture

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// maxAgentBytes bounds the agent's binary, stripped as it is shipped: half of
// what flotta v0.2 takes on the device.
const maxAgentBytes = 25 << 20

// TestAgentBinary builds the binaries as they are released and looks at what
// came out.
func TestAgentBinary(t *testing.T) {
	t.Parallel()
	bin := t.TempDir()
	build := exec.Command("make", "build", "BIN="+bin)
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("make build: %v\n%s", err, out)
	}
	agent := filepath.Join(bin, "flotta-agent")
	info, err := os.Stat(agent)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("flotta-agent: %.1f MB", float64(info.Size())/1e6)
	if info.Size() > maxAgentBytes {
		t.Errorf("flotta-agent has %d bytes, want at most %d: it travels over mobile links and lies on small disks", info.Size(), maxAgentBytes)
	}
	out, err := exec.Command("go", "version", "-m", agent).Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "redhatinsights/yggdrasil") {
			t.Errorf("flotta-agent links %s: it is GPL-3.0", strings.TrimSpace(line))
		}
	}
	if !bytes.Contains(out, []byte("CGO_ENABLED=0")) {
		t.Error("flotta-agent is not static")
	}
}

// TestAgentLinksNoReflectiveCall: one reachable call of a method by its name
// makes the linker keep every exported method of every type.
func TestAgentLinksNoReflectiveCall(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("go", "build", "-trimpath", "-tags", "grpcnotrace", "-ldflags", "-s -w -dumpdep",
		"-o", filepath.Join(t.TempDir(), "flotta-agent"), "./cmd/flotta-agent")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("go build: %v\n%.2000s", err, out)
	}
	mark := regexp.MustCompile(`(?m)^(.+?) (?:<UsedInIface>)?<ReflectMethod> -> `)
	for _, found := range unique(mark.FindAllSubmatch(out, -1)) {
		t.Errorf("%s is linked and calls methods by name: dead code stays in the binary", found)
	}
	if !bytes.Contains(out, []byte("main.main -> ")) {
		t.Error("the linker did not tell what depends on what: this test looks at nothing")
	}
}

func unique(matches [][][]byte) []string {
	seen := map[string]bool{}
	var names []string
	for _, m := range matches {
		if name := string(m[1]); !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	return names
}
