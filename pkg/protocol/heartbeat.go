package protocol

// States of a device in a heartbeat.
const (
	StatusUp       = "up"
	StatusDegraded = "degraded"
)

// Heartbeat is a device's report.
type Heartbeat struct {
	Status             string                    `json:"status,omitempty"`
	Version            string                    `json:"version,omitempty"` // of the configuration in force
	Workloads          []WorkloadStatus          `json:"workloads"`
	PlaybookExecutions []PlaybookExecutionStatus `json:"playbook-executions"`
	Upgrade            *UpgradeStatus            `json:"upgrade,omitempty"`
	Hardware           *HardwareInfo             `json:"hardware,omitempty"`
	Events             []EventInfo               `json:"events"`
}

// States of a workload as flotta declares them. What agents send are Podman's
// words, in capitals, and any other.
const (
	WorkloadDeploying = "deploying"
	WorkloadRunning   = "running"
	WorkloadCrashed   = "crashed"
	WorkloadStopped   = "stopped"
)

// WorkloadStatus is the state of one workload. Status is free text in practice:
// agents send Podman's words.
type WorkloadStatus struct {
	Name           string `json:"name,omitempty"`
	LastDataUpload Time   `json:"last_data_upload"`
	Status         string `json:"status,omitempty"`

	// The rest is an addition to flotta v0.2, whose server ignores it and whose
	// agents do not send it.

	// Reason is one word; empty: the workload is as wanted. See InProgress.
	Reason        string          `json:"reason,omitempty"`
	Message       string          `json:"message,omitempty"`        // Reason for a person
	DesiredDigest string          `json:"desired_digest,omitempty"` // of what it should be
	AppliedDigest string          `json:"applied_digest,omitempty"` // of what was last seen to work
	Restarts      int64           `json:"restarts,omitempty"`       // of its containers
	Since         Time            `json:"since,omitzero"`           // of Status and Reason
	Images        []WorkloadImage `json:"images,omitempty"`
	Notes         []string        `json:"notes,omitempty"` // what is good to know and not wrong
	DataSync      *DataSyncStatus `json:"data_sync,omitempty"`
}

// WorkloadImage is the image that a container was made from.
type WorkloadImage struct {
	Container string `json:"container,omitempty"`
	Reference string `json:"reference,omitempty"`
	ID        string `json:"id,omitempty"`
}

// Reasons of a workload that is on its way to what is wanted. Any other reason
// means that something is wrong with it.
const (
	ReasonPulling  = "Pulling" // or waiting for its turn to
	ReasonStaging  = "Staging"
	ReasonStarting = "Starting"
	ReasonSettling = "Settling" // it runs, and has yet to prove that it lasts
)

// InProgress reports whether a workload with that reason is on its way, and
// nothing is wrong with it so far.
func InProgress(reason string) bool {
	switch reason {
	case ReasonPulling, ReasonStaging, ReasonStarting, ReasonSettling:
		return true
	}
	return false
}

// States of a playbook run.
const (
	PlaybookDeploying             = "Deploying"
	PlaybookTargetVerification    = "TargetVerification"
	PlaybookRunning               = "Running"
	PlaybookSuccessfullyCompleted = "SuccessfullyCompleted"
	PlaybookCompletedWithError    = "CompletedWithError"
)

// PlaybookExecutionStatus is the state of one playbook run.
type PlaybookExecutionStatus struct {
	Name           string `json:"name,omitempty"`
	LastDataUpload Time   `json:"last_data_upload"` // when Status was reached
	Status         string `json:"status,omitempty"`

	// The rest is an addition to flotta v0.2, whose server ignores it and whose
	// agents do not send it.

	ID      string `json:"id,omitempty"`      // of the PlaybookExecution
	Reason  string `json:"reason,omitempty"`  // one word
	Message string `json:"message,omitempty"` // Reason for a person, and the end of the output when it failed
}

// Outcomes of an operating system upgrade.
const (
	UpgradeSucceeded = "succeeded"
	UpgradeFailed    = "failed"
)

// UpgradeStatus is the outcome of the last operating system upgrade.
type UpgradeStatus struct {
	CurrentCommitID   string `json:"current_commit_ID,omitempty"`
	LastUpgradeStatus string `json:"last_upgrade_status,omitempty"`
	LastUpgradeTime   string `json:"last_upgrade_time,omitempty"`
}

// Kinds of EventInfo.
const (
	EventInfoType = "info"
	EventWarnType = "warn"
)

// EventInfo is something that happened on the device. Reason is a single word.
type EventInfo struct {
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	Type    string `json:"type,omitempty"`
}

// PlaybookExecution is a playbook that a device is asked to run.
type PlaybookExecution struct {
	Name                  string `json:"name,omitempty"`
	AnsiblePlaybookString string `json:"ansible_playbook_string,omitempty"`
	LastDataUpload        Time   `json:"last_data_upload"`

	// The rest is an addition to flotta v0.2, whose agents ignore it and whose
	// server does not send it.

	// ID tells this run from an earlier one of the same name. With another one, the
	// playbook is run again even though it is the same.
	ID             string          `json:"id,omitempty"`
	Config         string          `json:"config,omitempty"` // the EdgeConfig; its playbooks come in their order
	TimeoutSeconds int64           `json:"timeout_seconds,omitempty"`
	Strategy       string          `json:"execution_strategy,omitempty"` // one of those below; empty: ExecuteOnce
	User           string          `json:"user,omitempty"`               // runs the playbook; empty: root
	Check          bool            `json:"check,omitempty"`              // predict changes, make none
	Become         *PlaybookBecome `json:"become,omitempty"`
	CapAdd         []int32         `json:"cap_add,omitempty"` // numbers of capabilities in Linux, 0 (CHOWN) to 37 (AUDIT_READ)
	CapDrop        []int32         `json:"cap_drop,omitempty"`
}

// What happens to a playbook, and to those after it of the same EdgeConfig, when
// it fails.
const (
	StrategyStopOnFailure  = "StopOnFailure"  // those after it are not run
	StrategyRetryOnFailure = "RetryOnFailure" // it is run again, a few times
	StrategyExecuteOnce    = "ExecuteOnce"    // nothing
)

// PlaybookBecome is the user whom the tasks of a playbook become.
type PlaybookBecome struct {
	Method string `json:"method,omitempty"` // sudo or su; empty: Ansible's default
	User   string `json:"user,omitempty"`   // empty: root
}

// PlaybookExecutionsResponse is what the text in an answer to DirectiveAnsible
// holds.
type PlaybookExecutionsResponse []PlaybookExecution
