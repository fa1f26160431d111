package console

import "time"

// Document is what the agent says about itself. Sections are added, and never
// change their meaning.
type Document struct {
	Version string    `json:"version"` // of the agent
	Started time.Time `json:"started"`
	// Healthy says that all is as desired. The server sets it.
	Healthy       bool          `json:"healthy"`
	Device        Device        `json:"device"`
	Connection    Connection    `json:"connection,omitzero"`
	Configuration Configuration `json:"configuration"`
	// Problems are what is wrong besides single workloads, for a person.
	Problems  []string   `json:"problems"`
	Workloads []Workload `json:"workloads"`           // sorted by name
	DataSync  []DataSync `json:"data_sync"`           // sorted by workload; those that have data paths
	Playbooks []Playbook `json:"playbooks,omitempty"` // in the order of their turns
	Queues    []Queue    `json:"queues,omitempty"`
	Storage   []Storage  `json:"storage,omitempty"`
	OS        OS         `json:"os,omitzero"`
	LogLevel  string     `json:"log_level,omitempty"` // of the agent, now
}

// Configuration is what the device was told last.
type Configuration struct {
	Version string `json:"version"` // as the control plane calls it; empty: none came yet
	Digest  string `json:"digest"`  // of its content
	// Received is when it was accepted, Applied when all of it was first seen to
	// be as it says; zero: not known, or not yet.
	Received time.Time `json:"received,omitzero"`
	Applied  time.Time `json:"applied,omitzero"`
	// Settled says that nothing of it is being applied, or will be tried again.
	Settled bool `json:"settled"`
}

// Workload is the state of one workload.
type Workload struct {
	Name          string    `json:"name"`
	Phase         string    `json:"phase"`
	Reason        string    `json:"reason,omitempty"`         // one word; empty: all is well
	Message       string    `json:"message,omitempty"`        // Reason for a person
	DesiredDigest string    `json:"desired_digest,omitempty"` // of what it should be
	AppliedDigest string    `json:"applied_digest,omitempty"` // of what was last seen to work
	Restarts      int       `json:"restarts"`
	Since         time.Time `json:"since,omitzero"` // of Phase and Reason
	Images        []Image   `json:"images,omitempty"`
	HostPorts     []Port    `json:"host_ports,omitempty"`
	Notes         []string  `json:"notes,omitempty"` // good to know, and not wrong
}

// Playbook is the state of a run of a playbook.
type Playbook struct {
	Name    string    `json:"name"`
	State   string    `json:"state"`
	Reason  string    `json:"reason,omitempty"`  // one word
	Message string    `json:"message,omitempty"` // Reason for a person
	Since   time.Time `json:"since,omitzero"`    // of State
}

// Image is the image that a container was made from.
type Image struct {
	Container string `json:"container"`
	Reference string `json:"reference"`
	ID        string `json:"id,omitempty"`
}

// Port is a port of the host that a workload has.
type Port struct {
	Protocol string `json:"protocol"`
	IP       string `json:"ip,omitempty"` // empty: all
	Port     int    `json:"port"`
}

// asDesired reports whether the workload is what it should be, and well.
func (w Workload) asDesired() bool { return w.Reason == "" && w.DesiredDigest == w.AppliedDigest }

// failing returns how many workloads are not as desired.
func (d Document) failing() int {
	n := 0
	for _, w := range d.Workloads {
		if !w.asDesired() {
			n++
		}
	}
	return n
}
