package doctor

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"time"
)

// Subject is what is to be looked at. A part of it that is empty is not.
type Subject struct {
	// Root says that workloads run in the Podman and the service manager of the
	// system, or else in those of User.
	Root bool
	User string
	UID  int

	StateDir       string // of the agent
	ContainerStore string // of the Podman that runs workloads
	PodmanSocket   string
	Service        string // unit that the agent runs in: yggd's, or its own
	WorkerFile     string // by which yggd knows the agent; empty: it runs by itself

	Credential Credential
	Endpoints  []Endpoint

	// Trouble is what went wrong when all this was read.
	Trouble []Trouble
}

// Trouble is a file that says what is to be looked at, and cannot be read.
type Trouble struct{ Path, Problem, Advice string }

// Credential is what the device proves with who it is. Paths to PEM files.
type Credential struct {
	CertFile, KeyFile string
	CAFiles           []string // trusted for the Edge API besides the system's
}

// Endpoint is a server that the device has to reach.
type Endpoint struct {
	Name    string // for a person
	Network string // "tcp" or "udp"
	Address string // host:port
	TLS     bool
	// Roots are PEM certificates that the server's has to lead to; empty: the
	// system's.
	Roots []byte
	// Pair is what the agent shows there; nil: nothing.
	Pair func() (tls.Certificate, error)
	// Device says that the device's own credential is presented, and that the
	// roots are those of the credential and of the system.
	Device bool
}

// checkTime bounds a check. A resolver that does not answer takes five seconds
// for each of its servers.
const checkTime = 15 * time.Second

// doctor is one visit.
type doctor struct {
	Host
	Subject
	wait time.Duration
}

// check is one look. It may find several things, or one.
type check struct {
	name string
	run  func(context.Context) []Finding
}

// Examine looks at everything, and returns when all was looked at or did not
// answer in time. A look that goes on after that, because the kernel does not
// come back from it, is left behind.
func Examine(ctx context.Context, h Host, s Subject) Report {
	d := &doctor{Host: h, Subject: s, wait: checkTime}
	return d.examine(ctx, d.checks())
}

func (d *doctor) checks() []check {
	one := func(look func(context.Context) Finding) func(context.Context) []Finding {
		return func(ctx context.Context) []Finding { return []Finding{look(ctx)} }
	}
	list := []check{
		{"settings", d.settings},
		{"clock", one(d.clock)},
		{"certificate", one(d.certificate)},
	}
	for _, e := range d.Endpoints {
		list = append(list, check{"endpoint", one(func(ctx context.Context) Finding { return d.endpoint(ctx, e) })})
	}
	return append(list, []check{
		{"service", d.service},
		{"podman", one(d.podman)},
		{"systemd", one(d.manager)},
		{"lingering", one(d.lingering)},
		{"cgroups", one(d.cgroups)},
		{"subids", one(d.subids)},
		{"selinux", one(d.selinux)},
		{"disk", d.disks},
		{"inotify", one(d.inotify)},
		{"nftables", one(d.nftables)},
	}...)
}

func (d *doctor) examine(ctx context.Context, checks []check) Report {
	started := time.Now().UTC().Truncate(time.Second)
	answers := make([]chan []Finding, len(checks))
	for i, c := range checks {
		answers[i] = make(chan []Finding, 1)
		go func() {
			ctx, cancel := context.WithTimeout(ctx, d.wait)
			defer cancel()
			answers[i] <- c.run(ctx)
		}()
	}
	// Those that heed their context have ended by then.
	late, stop := context.WithTimeout(ctx, d.wait+time.Second)
	defer stop()
	out := Report{Time: started}
	for i, c := range checks {
		for _, f := range answer(answers[i], late.Done(), d.wait) {
			f.Check = c.name
			out.Findings = append(out.Findings, f)
		}
	}
	out.Level = out.worst()
	return out
}

// answer waits for what a check finds. One that is there counts, however late it
// is asked for.
func answer(findings <-chan []Finding, overdue <-chan struct{}, wait time.Duration) []Finding {
	select {
	case f := <-findings:
		return f
	case <-overdue:
	}
	select {
	case f := <-findings:
		return f
	default:
		return []Finding{fail("", fmt.Sprintf("no answer within %s", wait), "look for a disk, a mount or a service that hangs: dmesg, mount, systemctl --failed")}
	}
}

// settings tells what could not be read, so that the rest is not taken for all.
func (d *doctor) settings(context.Context) []Finding {
	if len(d.Trouble) == 0 {
		return []Finding{ok("", "the settings and what the device was told can be read")}
	}
	var out []Finding
	for _, t := range d.Trouble {
		out = append(out, fail(t.Path, t.Problem, cmp.Or(t.Advice, "correct or restore the file; until then not everything can be checked")))
	}
	return out
}
