package datasync

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// errGaveUp ends a cycle in which nothing works.
var errGaveUp = errors.New("gave up this cycle")

// outcome is what came of a cycle, or of a transfer that outlived its own.
type outcome struct {
	pending  int64
	failed   int64
	skipped  int64
	refused  int64
	blocked  string
	quota    bool // it is the quota that blocks
	firstErr error
	strikes  int  // failures of the store since its last success
	served   bool // the store had a success
	gaveUp   bool
	suspects map[string]error // items that failed, or whose store did
}

// take returns the outcome so far and begins a new one.
func (c *cycle) take() outcome {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.outcome
	c.outcome, c.taken = outcome{}, true
	return o
}

// tell reports what changed since the last cycle; failing says that it was given
// up.
func (g *group) tell(c outcome, failing bool) {
	lastErr := ""
	if c.firstErr != nil {
		lastErr = c.firstErr.Error()
	}
	switch {
	case c.gaveUp && !failing:
		g.log.Warn("data sync fails", slog.Any("err", c.firstErr))
		g.report.send(reasonFailing, protocol.EventWarnType, c.firstErr.Error())
	case g.failures == 0 && failing:
		g.log.Info("data sync works again")
		g.report.send(reasonRecovered, protocol.EventInfoType, "works again")
	case !c.gaveUp && lastErr != "" && g.lastErr == "":
		g.log.Warn("some files fail to be synchronised", slog.Any("err", c.firstErr))
	}
	switch {
	case c.blocked != "" && !g.holding:
		g.log.Warn("downloads wait for free space", slog.String("err", c.blocked))
		g.inflow.held = c.quota
		g.report.send(g.inflow.reason(reasonDiskFull, reasonQuotaReached), protocol.EventWarnType, c.blocked)
	case c.blocked == "" && g.holding && !c.gaveUp:
		g.log.Info("downloads go on")
		g.report.send(g.inflow.reason(reasonDiskFreed, reasonQuotaFreed), protocol.EventInfoType, "downloads go on")
	}
	g.holding = c.blocked != "" || g.holding && c.gaveUp
	g.lastErr = lastErr
}

// maxStrikes failures of the store in a row end a cycle: a store that is down is
// not asked for every file.
const maxStrikes = 3

// count adds to one of the cycle's counters.
func (c *cycle) count(n *int64, by int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*n += by
}

// fail notes the failure of one item.
func (c *cycle) fail(path string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed++
	if c.firstErr == nil {
		c.firstErr = fmt.Errorf("%q: %w", path, err)
	}
	// Without a bucket or its credentials no item can work; whether a denial
	// or a silence is about one item shows by the next ones.
	switch {
	case errors.Is(err, s3.ErrNoBucket), errors.Is(err, s3.ErrCredentials):
		c.strikes = maxStrikes
	case errors.Is(err, s3.ErrUnavailable), errors.Is(err, s3.ErrDenied):
		c.strikes++
	}
	if c.strikes >= maxStrikes && !c.gaveUp {
		c.gaveUp = true
		c.giveUp(errGaveUp)
	}
}

// suspect remembers an item until it is clear whether the store works.
func (c *cycle) suspect(path string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.suspects == nil {
		c.suspects = map[string]error{}
	}
	if len(c.suspects) < maxRetryItems {
		c.suspects[path] = err
	}
}

// worked notes that the store served a request.
func (c *cycle) worked() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.strikes, c.served = 0, true
}

// block notes why files are held back.
func (c *cycle) block(why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.blocked = why
	c.pending++
}

// transferred publishes one transferred file.
func (c *cycle) transferred(bytes int64) {
	c.engine.ledger.change(c.key.workload, c.key.dir, func(s *DirectionStatus) {
		s.Files++
		s.Bytes += bytes
	})
}
