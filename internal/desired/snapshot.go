package desired

import (
	"time"

	"github.com/project-flotta/flotta-agent/internal/secret"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// DefaultHeartbeatPeriod is used when the configuration sets none, as flotta's
// agents always did.
const DefaultHeartbeatPeriod = 60 * time.Second

// State is everything a device was told, decoded and validated. It is a value:
// nobody changes it once it is in a Snapshot.
type State struct {
	DeviceID  string
	Version   string // as the control plane named it; echoed in heartbeats
	Heartbeat Heartbeat
	Storage   *Storage   // nil: nothing to synchronise with
	Workloads []Workload // by name; no two of one name
	Secrets   []Secret   // by name; no two of one name

	// Not yet acted on by any reconciler; kept so that nothing sent is lost.
	Ansible       *protocol.AnsibleManager
	Metrics       *protocol.MetricsConfiguration
	OS            *protocol.OSInformation
	LogCollection map[string]protocol.LogsCollectionInformation
	Mounts        []protocol.Mount

	// Retired are the workloads that are desired no more while their volumes are
	// kept, by name. None of them is in Workloads.
	Retired []Retired

	// Problems are the parts of the configuration that were left out because
	// they make no sense, one sentence each, without any value in it. A device
	// with problems is degraded; the rest of the configuration is in force.
	// What is wrong with one workload is in Workload.Invalid instead.
	Problems []string

	// Leaving says that the control plane no longer manages this device, and
	// that what its workloads wrote is still to be delivered. Workloads and
	// Storage say where to; nothing is started, changed or removed any more.
	Leaving bool
	// Withdrawn says that there is nothing to run any more. As long as there is
	// a Storage, what the workloads wrote last, when they were ended, is still
	// on its way there.
	Withdrawn bool
}

// Managed reports whether the control plane manages this device, as far as the
// device knows.
func (s State) Managed() bool { return !s.Leaving && !s.Withdrawn }

// Heartbeat says how to report.
type Heartbeat struct {
	Period          time.Duration
	IncludeHardware bool
	DeltaHardware   bool
}

// Storage is one S3 bucket.
type Storage struct {
	Host            string // without scheme; an IPv6 address without brackets
	Port            int
	PlainHTTP       bool // http instead of https
	Bucket          string
	Region          string
	AccessKeyID     secret.Value
	SecretAccessKey secret.Value
	CABundle        []byte // PEM; empty: the system's roots
}

// Workload is one pod to run.
type Workload struct {
	Name        string
	Namespace   string
	Labels      map[string]string
	Annotations map[string]string
	PodSpec     []byte   // canonical JSON object of the PodSpec, fields unknown to us included
	ConfigMaps  [][]byte // canonical JSON objects, by name: flotta v0.2 sends them in random order
	Ingress     []protocol.DataPath
	Egress      []protocol.DataPath
	QuotaBytes  int64        // what its volume may hold after a download; 0: as the agent's settings say
	AuthFile    secret.Value // docker config JSON
	Metrics     *protocol.WorkloadMetrics
	LogTarget   string

	// Invalid says why this workload cannot be applied; empty: it can. An
	// invalid workload holds up no other one, and what runs under its name is
	// left as it is. The Name of an invalid workload is fit for printing, but
	// need not be a valid name.
	Invalid string
}

// Secret is named data that workloads refer to.
type Secret struct {
	Name string
	Data map[string]secret.Value // key to the decoded value
}

// Snapshot is a State in force, with an identity and an end.
type Snapshot struct {
	state      State
	digest     string
	superseded chan struct{}
}

// NewSnapshot returns a snapshot of state. Digest identifies the content: equal
// digests, equal content.
func NewSnapshot(state State, digest string) *Snapshot {
	return &Snapshot{state: state, digest: digest, superseded: make(chan struct{})}
}

// State returns the desired state. Callers must not change what it refers to.
func (s *Snapshot) State() State { return s.state }

// Digest identifies the content, without its version: two snapshots of one
// digest differ at most in State().Version and State().Retired, and a reconciler
// of what is desired has nothing to do.
// It is empty before the first configuration; the device was told nothing then,
// and everything on it is left as it is.
func (s *Snapshot) Digest() string { return s.digest }

// Superseded is closed as soon as a newer snapshot is in force.
func (s *Snapshot) Superseded() <-chan struct{} { return s.superseded }
