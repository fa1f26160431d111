package playbook

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

const (
	// maxPlaybook bounds one playbook, in bytes.
	maxPlaybook = 512 << 10
	maxName     = 253
	maxText     = 253 // of ids, which are somebody else's
	// lastCapability is AUDIT_READ, the last that the wire knows.
	lastCapability = 37
)

// request is what a run is to do. It is on disk before it is known to anybody,
// and all that the process which runs the playbook is told.
type request struct {
	Name     string
	ID       string
	Config   string
	Strategy string
	Digest   string
	Attempt  int // from 1
	Playbook string
	Ansible  string // path of ansible-playbook; empty: it is searched for
	Timeout  time.Duration
	Limited  bool // Timeout is less than what was asked for
	User     string
	Check    bool
	Become   *protocol.PlaybookBecome
	CapAdd   []int32
	CapDrop  []int32
}

// digestOf returns what tells a run from all others: what it does, as whom, and
// the name and the id it goes by.
func digestOf(e protocol.PlaybookExecution) string {
	e.LastDataUpload = protocol.Time{} // says nothing of the run
	form, err := json.Marshal(e)
	if err != nil { // texts and numbers always encode
		form = []byte(e.Name + "\x00" + e.ID + "\x00" + e.AnsiblePlaybookString)
	}
	sum := sha256.Sum256(form)
	return hex.EncodeToString(sum[:])
}

// instance is the name of one attempt: of its folder, and of its unit behind the
// @. It is made of digits and letters, whatever the playbook is called.
func instance(digest string, attempt int) string {
	return digest[:32] + "." + strconv.Itoa(attempt)
}

var instanceName = regexp.MustCompile(`^[0-9a-f]{32}\.[0-9]{1,3}$`)

// account is a name that can be a user's and nothing else: no option, no path.
var accountName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,31}$`)

// newRequest says what the entry asks for, or why it cannot be done.
func (c Config) newRequest(e protocol.PlaybookExecution) (request, error) {
	if err := check(e); err != nil {
		return request{}, err
	}
	r := request{
		Name: e.Name, ID: e.ID, Config: e.Config, Strategy: e.Strategy, Digest: digestOf(e), Attempt: 1,
		Playbook: e.AnsiblePlaybookString, Ansible: c.Ansible, Timeout: c.DefaultTimeout,
		User: e.User, Check: e.Check, Become: e.Become, CapAdd: e.CapAdd, CapDrop: e.CapDrop,
	}
	if e.TimeoutSeconds > 0 {
		r.Limited = e.TimeoutSeconds > int64(c.MaxTimeout/time.Second)
		r.Timeout = c.MaxTimeout
		if !r.Limited {
			r.Timeout = time.Duration(e.TimeoutSeconds) * time.Second
		}
	}
	return r, nil
}

// check says what no playbook can be run with.
func check(e protocol.PlaybookExecution) error {
	switch {
	case e.AnsiblePlaybookString == "":
		return errors.New("it is empty")
	case len(e.AnsiblePlaybookString) > maxPlaybook:
		return fmt.Errorf("it has %d bytes, and at most %d are run", len(e.AnsiblePlaybookString), maxPlaybook)
	case len(e.ID) > maxText || len(e.Config) > maxText:
		return fmt.Errorf("its id or the name of its configuration has more than %d bytes", maxText)
	case e.TimeoutSeconds < 0:
		return fmt.Errorf("timeout of %d seconds: must not be negative", e.TimeoutSeconds)
	case e.User != "" && !accountName.MatchString(e.User):
		return fmt.Errorf("user %q: not a name that a user can have", e.User)
	}
	switch e.Strategy {
	case "", protocol.StrategyExecuteOnce, protocol.StrategyRetryOnFailure, protocol.StrategyStopOnFailure:
	default:
		return fmt.Errorf("execution strategy %q: there are %s, %s and %s", e.Strategy,
			protocol.StrategyStopOnFailure, protocol.StrategyRetryOnFailure, protocol.StrategyExecuteOnce)
	}
	if b := e.Become; b != nil {
		switch {
		case b.Method != "" && b.Method != "sudo" && b.Method != "su":
			return fmt.Errorf("method %q of becoming another user: there are sudo and su", b.Method)
		case b.User != "" && !accountName.MatchString(b.User):
			return fmt.Errorf("user %q to become: not a name that a user can have", b.User)
		}
	}
	return checkCapabilities(e.CapAdd, e.CapDrop)
}

func checkCapabilities(add, drop []int32) error {
	for _, c := range slices.Concat(add, drop) {
		if c < 0 || c > lastCapability {
			return fmt.Errorf("capability %d: their numbers are from 0 to %d", c, lastCapability)
		}
	}
	if len(add) > lastCapability+1 || len(drop) > lastCapability+1 {
		return errors.New("a capability is named more than once")
	}
	for _, c := range add {
		if slices.Contains(drop, c) {
			return fmt.Errorf("capability %d: it is both given and taken away", c)
		}
	}
	return nil
}

// checkName says why a run cannot be spoken of under that name.
func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("has no name")
	case len(name) > maxName:
		return fmt.Errorf("has a name of %d bytes, and at most %d are taken", len(name), maxName)
	case !utf8.ValidString(name):
		return errors.New("has a name that is not text")
	}
	for _, c := range name {
		if !unicode.IsPrint(c) {
			return fmt.Errorf("has the name %q, which cannot be printed", name)
		}
	}
	return nil
}

// The documents in the folder of a run. The request is the agent's, the others
// are those of the process that runs the playbook; nobody writes another's.
const (
	requestKind, requestFile = "playbook-request", "request.json"
	phaseKind, phaseFile     = "playbook-phase", "phase.json"
	resultKind, resultFile   = "playbook-result", "result.json"
	documentVersion          = 1

	outputFile = "output"
	workDir    = "work" // the playbook, and what Ansible reads beside it
	homeDir    = "home" // scratch of the user who runs it
)

// phase says how far a run has come. That it is Running is on disk before
// Ansible is told to change anything.
type phase struct {
	State string
	At    time.Time
}

// result is how a run ended.
type result struct {
	Ran     bool // Ansible was told to run the playbook, and may have changed something
	OK      bool
	Reason  string
	Message string
	At      time.Time
}

// papers are the documents of a run as they are on disk. What is not there, or
// cannot be read, is zero.
type papers struct {
	request request
	phase   phase
	result  *result
}

// readPapers never fails: a damaged document is one that is not there, but for
// the error, which is for the log.
func readPapers(dir string) (papers, error) {
	var p papers
	var r result
	var errs []error
	load := func(file, kind string, v any) bool {
		err := durable.LoadDocument(filepath.Join(dir, file), kind, documentVersion, v)
		if err != nil && !errors.Is(err, durable.ErrNotExist) {
			errs = append(errs, err)
		}
		return err == nil
	}
	if !load(requestFile, requestKind, &p.request) {
		p.request = request{}
	}
	if !load(phaseFile, phaseKind, &p.phase) {
		p.phase = phase{}
	}
	if load(resultFile, resultKind, &r) {
		p.result = &r
	}
	return p, errors.Join(errs...)
}

func (r request) save(dir string, w durable.Writer) error {
	return w.SaveDocument(filepath.Join(dir, requestFile), requestKind, documentVersion, r, 0o600)
}
