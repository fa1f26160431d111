package console

import "time"

// DataSync is the state of the data paths of one workload. A direction that has
// none, or at which the agent has not looked yet, is nil.
type DataSync struct {
	Workload   string         `json:"workload"`
	LastUpload time.Time      `json:"last_upload,omitzero"` // when a file last arrived in the bucket
	Egress     *DataDirection `json:"egress,omitempty"`     // from the device to the bucket
	Ingress    *DataDirection `json:"ingress,omitempty"`    // from the bucket to the device
}

// DataDirection is the state of one direction. Files, Bytes and Seconds count
// since the agent was started.
type DataDirection struct {
	Files        int64         `json:"files"`         // transferred
	Bytes        int64         `json:"bytes"`         // theirs
	Seconds      float64       `json:"seconds"`       // spent on them, all transfers added up
	Pending      int64         `json:"pending"`       // to be transferred, those under way included
	PendingBytes int64         `json:"pending_bytes"` // as far as the sizes are known
	InFlight     []Transfer    `json:"in_flight,omitempty"`
	Failed       int64         `json:"failed"`  // tried again
	Skipped      int64         `json:"skipped"` // no regular files
	Refused      int64         `json:"refused"` // names that one of the two sides cannot hold
	LastSuccess  time.Time     `json:"last_success,omitzero"`
	LastError    string        `json:"last_error,omitempty"`
	Blocked      string        `json:"blocked,omitempty"` // why transfers are held back although none failed
	Paused       string        `json:"paused,omitempty"`  // why nothing is to travel now, as the settings want it
	Problems     []DataProblem `json:"problems,omitempty"`
}

// Transfer is one file on its way.
type Transfer struct {
	Path  string    `json:"path"` // in the volume
	Size  int64     `json:"size"` // bytes
	Done  int64     `json:"done"` // bytes that travelled
	Since time.Time `json:"since,omitzero"`
	Rate  int64     `json:"rate"` // bytes per second, since then
}

// DataProblem is one thing that is wrong; Reason is one word.
type DataProblem struct {
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// directions returns those that there are, by name.
func (s DataSync) directions() []namedDirection {
	var out []namedDirection
	if s.Egress != nil {
		out = append(out, namedDirection{"egress", s.Egress})
	}
	if s.Ingress != nil {
		out = append(out, namedDirection{"ingress", s.Ingress})
	}
	return out
}

type namedDirection struct {
	name string
	*DataDirection
}

// state says in one word how the direction is.
func (d *DataDirection) state() string {
	switch {
	case d.LastError != "":
		return "failing"
	case d.Blocked != "":
		return "blocked"
	case len(d.Problems) > 0:
		return d.Problems[0].Reason
	case d.Paused != "":
		return "paused"
	case len(d.InFlight) > 0:
		return "transferring"
	case d.Pending > 0:
		return "pending"
	}
	return "ok"
}

// style is how that word is shown.
func (d *DataDirection) style() string {
	switch d.state() {
	case "ok", "transferring":
		return styleGood
	case "failing":
		return styleBad
	case "pending":
		return styleNone
	}
	return styleWait
}

// printableSync returns a copy without what a terminal would act on. Paths stay
// distinguishable: what cannot be printed is escaped.
func printableSync(s DataSync, clean func(string) string) DataSync {
	s.Workload = clean(s.Workload)
	direction := func(d *DataDirection) *DataDirection {
		if d == nil {
			return nil
		}
		c := *d
		c.LastError, c.Blocked, c.Paused = clean(d.LastError), clean(d.Blocked), clean(d.Paused)
		c.InFlight = each(d.InFlight, func(t Transfer) Transfer {
			t.Path = escaped(t.Path)
			return t
		})
		c.Problems = each(d.Problems, func(p DataProblem) DataProblem {
			return DataProblem{Reason: clean(p.Reason), Message: clean(p.Message)}
		})
		return &c
	}
	s.Egress, s.Ingress = direction(s.Egress), direction(s.Ingress)
	return s
}
