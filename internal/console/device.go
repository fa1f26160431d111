package console

import "time"

// Phases of a Device.
const (
	PhaseRegistering = "registering" // the control plane does not know it yet
	PhaseManaged     = "managed"
	PhaseLeaving     = "leaving" // what it was told is being cleared away
)

// Device is who the device is.
type Device struct {
	ID    string `json:"id"`
	Phase string `json:"phase,omitempty"` // empty: not known
	// Certificate is what it proves that with; nil: none is there.
	Certificate *Certificate `json:"certificate,omitempty"`
}

// Certificate is the device's own.
type Certificate struct {
	Subject string    `json:"subject"`
	Issuer  string    `json:"issuer"`
	Expires time.Time `json:"expires"`
}

// Connection is how the device talks to the control plane.
type Connection struct {
	Server      string    `json:"server,omitempty"`      // host:port
	LastContact time.Time `json:"last_contact,omitzero"` // when a report was last accepted; zero: not since the start
	LastAttempt time.Time `json:"last_attempt,omitzero"` // of a report
	Error       string    `json:"last_error,omitempty"`  // of that attempt; empty: it succeeded
}

// connected reports whether the last attempt came through.
func (c Connection) connected() bool { return !c.LastContact.IsZero() && c.Error == "" }

// state says in words how the connection is.
func (c Connection) state() string {
	switch {
	case c.connected():
		return "connected"
	case c.LastAttempt.IsZero():
		return "not tried yet"
	}
	return "not connected"
}

// Queue is what waits on the disk until the other side has it.
type Queue struct {
	Name    string    `json:"name"`
	Waiting uint64    `json:"waiting"`          // entries
	Bytes   int64     `json:"bytes"`            // theirs, on disk
	Limit   int64     `json:"limit,omitempty"`  // bytes at which the oldest are dropped; 0: not known
	Oldest  time.Time `json:"oldest,omitzero"`  // when the oldest entry came; zero: not known, or none
	Dropped Dropped   `json:"dropped,omitzero"` // never delivered
}

// Dropped counts entries by why they were given up, since the queue was made.
type Dropped struct {
	Size    uint64 `json:"size"`    // there was no room
	Age     uint64 `json:"age"`     // they were too old
	Damage  uint64 `json:"damage"`  // the disk lost them
	Refused uint64 `json:"refused"` // the other side does not take them
}

func (d Dropped) total() uint64 { return d.Size + d.Age + d.Damage + d.Refused }

// Storage is one place on a disk.
type Storage struct {
	Name       string `json:"name"` // what is kept there
	Path       string `json:"path"`
	Total      int64  `json:"total"` // bytes
	Free       int64  `json:"free"`  // bytes that the one who writes there may use
	Inodes     int64  `json:"inodes"`
	FreeInodes int64  `json:"free_inodes"` // of no meaning when Inodes is 0
	Error      string `json:"error,omitempty"`
}

// used is the part in use, from 0 to 1, of bytes or inodes, whichever is more.
func (s Storage) used() float64 {
	if s.Total <= 0 {
		return 0
	}
	used := 1 - part(s.Free, s.Total)
	if s.Inodes > 0 {
		used = max(used, 1-part(s.FreeInodes, s.Inodes))
	}
	return used
}

// OS is what the device runs.
type OS struct {
	Name         string    `json:"name"` // with its version
	Kernel       string    `json:"kernel"`
	Architecture string    `json:"architecture"`
	Booted       time.Time `json:"booted,omitzero"`
	Commit       string    `json:"commit,omitempty"` // of an image based system
	Update       string    `json:"update,omitempty"` // what is being done or waited for, for a person
}

// printableHost makes the sections of this file printable.
func printableHost(d *Document, clean func(string) string) {
	d.Device.ID, d.Device.Phase = clean(d.Device.ID), clean(d.Device.Phase)
	if c := d.Device.Certificate; c != nil {
		d.Device.Certificate = &Certificate{Subject: clean(c.Subject), Issuer: clean(c.Issuer), Expires: c.Expires}
	}
	d.Connection.Server, d.Connection.Error = clean(d.Connection.Server), clean(d.Connection.Error)
	d.Queues = each(d.Queues, func(q Queue) Queue {
		q.Name = clean(q.Name)
		return q
	})
	d.Storage = each(d.Storage, func(s Storage) Storage {
		s.Name, s.Path, s.Error = clean(s.Name), escaped(s.Path), clean(s.Error)
		return s
	})
	d.OS.Name, d.OS.Kernel, d.OS.Architecture = clean(d.OS.Name), clean(d.OS.Kernel), clean(d.OS.Architecture)
	d.OS.Commit, d.OS.Update, d.LogLevel = clean(d.OS.Commit), clean(d.OS.Update), clean(d.LogLevel)
	d.Playbooks = each(d.Playbooks, func(p Playbook) Playbook {
		p.Name, p.State, p.Reason, p.Message = clean(p.Name), clean(p.State), clean(p.Reason), clean(p.Message)
		return p
	})
}
