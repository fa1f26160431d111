//go:build bench

package sync_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var (
	rounds  = flag.Int("sync.rounds", 3, "rounds of each comparison; medians count")
	small   = flag.Int("sync.small", 10_000, "files of 4 KiB; 0: leave that out")
	many    = flag.Int("sync.many", 100_000, "files that do not change; 0: leave that out")
	million = flag.Int("sync.million", 1_000_000, "files for the memory; 0: leave that out")
	bytes1  = flag.Int64("sync.large", 1<<30, "bytes of the large file; 0: leave that out")
	only    = flag.String("sync.only", "", "the one contender that is measured")
	profile = flag.String("sync.profile", "", "folder for CPU profiles of the engine's initial transfers")
)

func TestSync(t *testing.T) {
	r := newRig(t)
	var rep report
	defer rep.print(t)
	if *small > 0 {
		r.small(&rep)
	}
	if *bytes1 > 0 {
		r.large1(&rep)
	}
	if *many > 0 {
		r.many(&rep)
	}
	if *million > 0 {
		r.million(&rep)
	}
}

// each runs work once for every contender in every round, another one first each
// time.
func (r *rig) each(work func(c contender, round int)) {
	all := r.contenders()
	for round := range *rounds {
		for i := range all {
			if c := all[(i+round)%len(all)]; *only == "" || *only == c.name {
				work(c, round)
			}
		}
	}
}

// ends makes our engine end when it is done.
func (r *rig) ends(c contender, what string, round int) []string {
	if c.name != ours {
		return nil
	}
	args := []string{"-once"}
	if *profile != "" {
		args = append(args, "-profile", filepath.Join(*profile, fmt.Sprintf("%s-%d.prof", strings.ReplaceAll(what, " ", "-"), round)))
	}
	return args
}

// settled is how old files are before anybody sends them: ours lets young ones
// rest first.
const settled = 2 * time.Second

func (r *rig) transfer(rep *report, what, source string) {
	up, down, idle := what+", up", what+", down", what+", nothing to do"
	wanted, size := r.count(source)
	r.each(func(c contender, round int) {
		bucket := r.bucket()
		state := filepath.Join(r.dir, "state-"+bucket)
		cmd := c.up(bucket, source, state)
		cmd.Args = append(cmd.Args, r.ends(c, up, round)...)
		rep.add(up, c.name, r.measure(cmd))
		if n, got := r.count(filepath.Join(r.store.Dir, bucket, prefix)); n != wanted || got != size {
			r.Fatalf("%s left %d files with %d bytes in the bucket, want %d with %d", c.name, n, got, wanted, size)
		}
		target := filepath.Join(r.dir, "down-"+bucket, "w", "in")
		must(r.T, os.MkdirAll(target, 0o755))
		cmd = c.down(bucket, target, state+"-down")
		cmd.Args = append(cmd.Args, r.ends(c, down, round)...)
		took := r.measure(cmd)
		rep.add(down, c.name, took)
		if wanted == 1 {
			took.wall += r.sync(filepath.Join(target, "file"))
			rep.add(down+" and on the disk", c.name, took)
		}
		if n, got := r.count(target); n != wanted || got != size {
			r.Fatalf("%s left %d files with %d bytes in the folder, want %d with %d", c.name, n, got, wanted, size)
		}
		// Last, because ours takes its time here: a virtual machine gives back what
		// memory the upload left free, and has to ask for it again in the download.
		if c.name == ours {
			rep.add(idle, c.name, r.idle(c.up(bucket, source, state)))
		} else {
			rep.add(idle, c.name, r.measure(c.up(bucket, source, state)))
		}
		r.drop(bucket, volumes(target), state, state+"-down")
	})
}

// sync returns how long it takes until a file is on the disk.
func (r *rig) sync(path string) time.Duration {
	f, err := os.Open(path)
	must(r.T, err)
	defer f.Close()
	start := time.Now()
	must(r.T, f.Sync())
	return time.Since(start)
}

func (r *rig) small(rep *report) {
	source := filepath.Join(r.dir, "small", "w", "out")
	r.files(source, *small, 4<<10)
	time.Sleep(settled)
	r.transfer(rep, fmt.Sprintf("%d files of 4 KiB", *small), source)
}

func (r *rig) large1(rep *report) {
	source := filepath.Join(r.dir, "large", "w", "out")
	r.large(filepath.Join(source, "file"), *bytes1)
	time.Sleep(settled)
	r.transfer(rep, fmt.Sprintf("one file of %d MiB", *bytes1>>20), source)
	r.drop("", filepath.Join(r.dir, "large"))
}

// idle is what one cycle without anything to do costs an engine that runs.
func (r *rig) idle(engine *execCmd) cost {
	r.Helper()
	const pause = 200 * time.Millisecond
	e := r.start(engine, "-interval", pause.String())
	time.Sleep(5 * pause)
	before := e.now()
	const cycles = 50
	time.Sleep(cycles * pause)
	after := e.now()
	e.stop()
	if n := after.requests - before.requests; n != 0 {
		r.Errorf("%d cycles with nothing to do made %d requests", cycles, n)
	}
	return cost{cpu: (after.cpu - before.cpu) / cycles, rss: after.rss, wall: -1}
}

// many is about files that are in the bucket already.
func (r *rig) many(rep *report) {
	what := fmt.Sprintf("%d files", *many)
	source := filepath.Join(r.dir, "many", "w", "out")
	r.files(source, *many, 100)
	bucket, state := r.bucket(), filepath.Join(r.dir, "state-many")
	all := r.contenders()
	e := all[0].up(bucket, source, state)
	e.Args = append(e.Args, "-once")
	rep.add(what+", up", ours, r.measure(e))
	// A lost index.
	must(r.T, os.RemoveAll(state))
	e = all[0].up(bucket, source, state)
	e.Args = append(e.Args, "-once")
	rep.add(what+", index rebuilt", ours, r.measure(e))
	again := r.measure(withArgs(all[0].up(bucket, source, state), "-once"))
	rep.add(what+", agent starts", ours, again)
	one := filepath.Join(source, "d0", "e0", "f0")
	r.each(func(c contender, round int) {
		change := func() { must(r.T, os.WriteFile(one, fmt.Appendf(nil, "%s %d %s", c.name, round, time.Now()), 0o644)) }
		if c.name != ours {
			rep.add(what+", nothing to do", c.name, r.measure(c.up(bucket, source, state)))
			change()
			rep.add(what+", one changed", c.name, r.measure(c.up(bucket, source, state)))
			return
		}
		rep.add(what+", nothing to do", c.name, r.idle(c.up(bucket, source, state)))
		const interval = time.Second
		running := r.start(c.up(bucket, source, state), "-interval", interval.String())
		time.Sleep(2 * interval)
		before, start := running.now(), time.Now()
		change()
		want, err := os.ReadFile(one)
		must(r.T, err)
		stored := filepath.Join(r.store.Dir, bucket, prefix, "d0/e0/f0")
		for got := ""; got != string(want); time.Sleep(5 * time.Millisecond) {
			raw, _ := os.ReadFile(stored)
			if got = string(raw); time.Since(start) > time.Minute {
				r.Fatal("the changed file does not arrive")
			}
		}
		took := time.Since(start)
		time.Sleep(2 * interval) // and what comes after
		after := running.now()
		running.stop()
		if n := after.requests - before.requests; n != 1 {
			r.Errorf("one changed file made %d requests", n)
		}
		rep.add(what+", one changed", c.name, cost{
			wall: took, cpu: after.cpu - before.cpu, rss: after.rss, requests: after.requests - before.requests,
		})
	})
	r.drop(bucket, volumes(source), state)
}

// million is about memory alone: a store that takes everything is in the process.
func (r *rig) million(rep *report) {
	source := filepath.Join(r.dir, "million", "w", "out")
	r.files(source, *million, 0)
	state := filepath.Join(r.dir, "state-million")
	what := fmt.Sprintf("%d files", *million)
	all := r.contenders()
	first := r.measure(withArgs(all[0].up("none", source, state), "-once", "-null"))
	rep.add(what+", first cycle", ours, first)
	rep.add(what+", nothing to do", ours, r.idle(withArgs(all[0].up("none", source, state), "-null")))
	r.drop("", volumes(source), state)
}
