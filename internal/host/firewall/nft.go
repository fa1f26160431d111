package firewall

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/project-flotta/flotta-agent/internal/command"
)

const (
	nftTimeout = 30 * time.Second
	maxError   = 500 // characters of a complaint
)

// runNft runs nft with input and returns what it printed. It is a function so that
// tests can be nft.
type runNft func(ctx context.Context, stdin string, args ...string) ([]byte, error)

// nft is that of the host. The bound on what it prints is far more than a listing of
// our own table takes; that of the chains of a large ruleset may exceed it, and is
// then done without.
func nft(ctx context.Context, stdin string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, nftTimeout)
	defer cancel()
	out, err := command.Runner{}.Run(ctx, stdin, "nft", args...)
	if failed, ok := errors.AsType[*command.Error](err); ok {
		failed.Stderr = complaint(failed.Stderr)
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// complaint returns the first line of what nft said, which names the fault; the
// others only point at it.
func complaint(said string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(said), "\n")
	if len(line) > maxError {
		line = strings.ToValidUTF8(line[:maxError], "") + "…"
	}
	return line
}
