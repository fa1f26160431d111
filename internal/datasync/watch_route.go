package datasync

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

const (
	// maxBlind bounds the memory for folders that could not be watched; beyond
	// it every cycle walks over everything.
	maxBlind = 1024
	// maxOdd bounds the memory for files that are not sent; of those beyond it
	// only the walks keep count.
	maxOdd = 16384
	// linkedWalk is when everything is looked at after a change of a file that
	// has several names: the change is notified under one of them.
	linkedWalk = time.Minute
)

// outflow is what is known of one egress route from one cycle to the next. Only
// marks and odd files are for other goroutines than the group's.
type outflow struct {
	marks *marks
	tree  *tree

	next   time.Time           // when everything is to be looked at
	audit  time.Time           // when the bucket is to be listed; zero: not known yet
	begun  bool                // hints of an earlier run are forgotten
	hinted bool                // the index may hold hints
	blind  map[string]struct{} // folders that could not be watched
	unseen int                 // such folders that found no place there
	limit  string              // why they could not

	mu      sync.Mutex
	odd     map[string]oddity
	sums    [2]int64 // of all odd files, those without a place included
	walking bool     // over everything: each odd file is seen once
}

// oddity is why a file is not sent.
type oddity int

const (
	oddSkipped oddity = iota
	oddRefused
)

// outflow returns what is known of the route.
func (c *cycle) outflow(r route) *outflow {
	o := c.outs[r]
	if o == nil {
		m := newMarks()
		o = &outflow{marks: m, tree: c.engine.watch.plant(r.local, m), odd: map[string]oddity{}}
		if c.outs == nil {
			c.outs = map[route]*outflow{}
		}
		c.outs[r] = o
	}
	return o
}

// unwatch ends the notifications of a group that ends.
func (g *group) unwatch() {
	for _, o := range g.outs {
		g.engine.watch.fell(o.tree)
	}
}

// complete reports whether marks tell of all changes.
func (o *outflow) complete() bool { return o.unseen == 0 }

// miss notes a folder that could not be watched.
func (o *outflow) miss(name string, err error) {
	o.limit = limitHint(err)
	if len(o.blind) >= maxBlind {
		o.unseen++
		return
	}
	if o.blind == nil {
		o.blind = map[string]struct{}{}
	}
	o.blind[name] = struct{}{}
}

// see notes that a folder is about to be looked at: whether it and those below it
// can be watched will show.
func (o *outflow) see(name string) {
	maps.DeleteFunc(o.blind, func(k string, _ struct{}) bool { return k == name || strings.HasPrefix(k, name+"/") })
}

func (o *outflow) blindSpots() []string { return slices.Sorted(maps.Keys(o.blind)) }

// strange notes a file that is not sent.
func (o *outflow) strange(name string, why oddity) {
	o.mu.Lock()
	defer o.mu.Unlock()
	before, ok := o.odd[name]
	switch {
	case ok && before == why:
		return
	case ok:
		o.sums[before]--
	case len(o.odd) >= maxOdd:
		if o.walking {
			o.sums[why]++
		}
		return
	}
	o.odd[name] = why
	o.sums[why]++
}

// forgetOdd notes that a file is sent, or gone. A name that ends with a slash
// means all that is below it, and no name means everything.
func (o *outflow) forgetOdd(name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case name == "":
		o.odd, o.sums = map[string]oddity{}, [2]int64{}
	case len(o.odd) == 0:
	case !strings.HasSuffix(name, "/"):
		if why, ok := o.odd[name]; ok {
			o.sums[why]--
			delete(o.odd, name)
		}
	default:
		for k, why := range o.odd {
			if strings.HasPrefix(k, name) {
				o.sums[why]--
				delete(o.odd, k)
			}
		}
	}
}

// recount says that a walk over everything begins or ends.
func (o *outflow) recount(begins bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.walking = begins; begins {
		o.odd, o.sums = map[string]oddity{}, [2]int64{}
	}
}

// tally adds the files that are not sent to the counts of a cycle.
func (o *outflow) tally(c *cycle) {
	o.mu.Lock()
	skipped, refused := o.sums[oddSkipped], o.sums[oddRefused]
	o.mu.Unlock()
	c.count(&c.skipped, skipped)
	c.count(&c.refused, refused)
}

// walkDue reports whether a cycle has to look at everything.
func (r *egressRun) walkDue() bool {
	o, cfg := r.out, r.engine.cfg
	return r.ask.full || cfg.Walk < 0 || !r.now.Before(o.next) || o.marks.everything() ||
		!o.complete() || !r.engine.watch.rooted(o.tree, r.volume)
}

// scan looks at everything, or at what is marked, and dispatches what is to be
// sent. It reports whether it looked at everything.
func (r *egressRun) scan(ctx context.Context, all bool, paths []string) (bool, error) {
	if !all {
		err := r.look(ctx, paths)
		if err == nil || err != errWalkAll { //nolint:errorlint // it is never wrapped.
			return false, err
		}
		r.hits = 0
	}
	r.out.recount(true)
	err := r.walkAll(ctx)
	r.out.recount(false)
	if err != nil {
		return true, err
	}
	every := max(0, r.engine.cfg.Walk)
	r.out.next = r.now.Add(every - rand.N(every/5+1))
	return true, nil
}

// linked brings the next walk forward when a file changed that has other names.
func (r *egressRun) linked(e entry) {
	if soon := r.now.Add(linkedWalk); e.Links > 1 && r.out.next.After(soon) {
		r.out.next = soon
	}
}

// tellBlind publishes whether folders can't be watched.
func (r *egressRun) tellBlind(before string) {
	o, c := r.out, r.cycle
	if len(o.blind) == 0 {
		o.limit = ""
	}
	if o.limit == before {
		return
	}
	var messages []string
	for r, o := range c.outs {
		if o.limit != "" {
			messages = append(messages, "some folders of "+strconv.Quote(r.local)+" are looked at in every cycle, "+
				"because the kernel does not watch more: "+o.limit)
		}
	}
	slices.Sort(messages)
	c.engine.ledger.problems(c.key.workload, c.key.dir, reasonWatchLimit, messages)
	switch {
	case before == "":
		c.log.Warn("folders can't be watched", slog.String("path", r.route.local), slog.String("err", o.limit))
		c.report.send(reasonWatchLimit, protocol.EventWarnType, messages[0])
	case len(messages) == 0:
		c.log.Info("folders are watched again", slog.String("path", r.route.local))
		c.report.send(reasonWatchBack, protocol.EventInfoType, "all folders are watched again")
	}
}

// limitHint says which setting of the kernel an error of enter is about.
func limitHint(err error) string {
	setting := ""
	switch {
	case errors.Is(err, unix.ENOSPC):
		setting = "max_user_watches"
	case errors.Is(err, unix.EMFILE):
		setting = "max_user_instances"
	default:
		return err.Error()
	}
	hint := "raise fs.inotify." + setting
	if now, err := os.ReadFile("/proc/sys/fs/inotify/" + setting); err == nil {
		hint += ", now " + strings.TrimSpace(string(now))
	}
	return hint
}
