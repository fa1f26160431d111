package firewall

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	nftTimeout = 30 * time.Second
	// maxOutput is far more than a listing of our own table takes; that of the
	// chains of a large ruleset may exceed it, and is then done without.
	maxOutput = 4 << 20
	maxError  = 500 // characters of a complaint
)

// errAbsent says that there is no nft on this host.
var errAbsent = errors.New("nft is not installed")

// command runs nft. It is a function so that tests can be nft.
type command func(ctx context.Context, stdin string, args ...string) ([]byte, error)

// nft runs the host's nft with input and returns what it printed.
func nft(ctx context.Context, stdin string, args ...string) ([]byte, error) {
	path, err := find("nft")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, nftTimeout)
	defer cancel()
	stdout, stderr := &bounded{limit: maxOutput}, &bounded{limit: 4 << 10}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Dir = "/"
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("run nft %s: %w: %s", strings.Join(args, " "), err, complaint(stderr.kept))
	}
	if stdout.over {
		return nil, fmt.Errorf("run nft %s: it says more than %d bytes", strings.Join(args, " "), maxOutput)
	}
	return stdout.kept, nil
}

func find(name string) (string, error) {
	// Neither depends on the environment of whoever started the agent.
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/bin"} {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", errAbsent
}

// complaint returns the first line of what nft said, which names the fault; the
// others only point at it.
func complaint(raw []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(strings.ToValidUTF8(string(raw), "?")), "\n")
	if len(line) > maxError {
		line = strings.ToValidUTF8(line[:maxError], "") + "…"
	}
	return line
}

// bounded keeps the first bytes that are written to it. It embeds no buffer: exec
// would fill that through its ReadFrom, past the bound.
type bounded struct {
	kept  []byte
	limit int
	over  bool
}

// Write keeps what fits, and never fails: a command that says too much is to end
// by itself.
func (b *bounded) Write(p []byte) (int, error) {
	n := len(p)
	if room := b.limit - len(b.kept); n > room {
		p, b.over = p[:max(room, 0)], true
	}
	b.kept = append(b.kept, p...)
	return n, nil
}
