package collect

import (
	"maps"
	"net/url"
	"time"

	"github.com/project-flotta/flotta-agent/internal/metrics/scrape"
	"github.com/project-flotta/flotta-agent/internal/metrics/series"
)

// kind is what a target is. It is also its job, but for a workload's.
type kind string

const (
	kindSystem       kind = "node"
	kindDataTransfer kind = "data-transfer"
	kindSelf         kind = "flotta-agent"
	kindWorkload     kind = "workload"
)

// target is one page that is read.
type target struct {
	kind      kind
	workload  string
	container string // as far as it is known whose page it is
	url       string // empty: a page of the agent's own
	interval  time.Duration
	allow     scrape.Allow
	instance  string
	device    string

	host bool // the pod is in the network of the host
	pid  int  // else a process in its network; it may change
}

// key tells targets apart, for as long as they are the same one.
func (t target) key() string { return string(t.kind) + " " + t.workload + " " + t.url }

// name is for people.
func (t target) name() string {
	switch {
	case t.kind != kindWorkload:
		return string(t.kind)
	case t.container != "":
		return t.workload + "/" + t.container
	default:
		return t.workload
	}
}

// shown is the address without what may be secret in it.
func (t target) shown() string {
	u, err := url.Parse(t.url)
	if err != nil {
		return ""
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}

// like reports whether a loop of t can go on with u.
func (t target) like(u target) bool {
	same := maps.Equal(t.allow, u.allow) && (t.allow == nil) == (u.allow == nil)
	return same && t.kind == u.kind && t.workload == u.workload && t.container == u.container && t.url == u.url &&
		t.interval == u.interval && t.instance == u.instance && t.device == u.device && t.host == u.host
}

// labels are put on all series of the target.
func (t target) labels() []series.Label {
	job := string(t.kind)
	if t.kind == kindWorkload {
		job = t.workload
	}
	return []series.Label{
		{Name: "edgedeviceid", Value: t.device},
		{Name: "workload", Value: t.workload},
		{Name: "container", Value: t.container},
		{Name: "job", Value: job},
		{Name: "instance", Value: t.instance},
	}
}
