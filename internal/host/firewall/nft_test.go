package firewall

import (
	"os/exec"
	"strings"
	"testing"
)

// TestOutputIsBounded, through a real pipe, whatever a command says.
func TestOutputIsBounded(t *testing.T) {
	t.Parallel()
	out := &bounded{limit: 1000}
	cmd := exec.Command("head", "-c", "1000000", "/dev/zero")
	cmd.Stdout = out
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if len(out.kept) != 1000 || !out.over {
		t.Errorf("kept %d bytes, over %v", len(out.kept), out.over)
	}
	few := &bounded{limit: 1000}
	cmd = exec.Command("cat")
	cmd.Stdin, cmd.Stdout = strings.NewReader("few"), few
	if err := cmd.Run(); err != nil || string(few.kept) != "few" || few.over {
		t.Errorf("kept %q, over %v, err %v", few.kept, few.over, err)
	}
}
