package desired

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// maxMessageBytes bounds a configuration message: some hundred workloads with
// ConfigMaps of the size Kubernetes allows.
const maxMessageBytes = 32 << 20

// parse decodes the JSON of a configuration message. The error is the reason to
// refuse the message as a whole and holds nothing of its content.
func parse(raw []byte) (protocol.DeviceConfigurationMessage, error) {
	var m protocol.DeviceConfigurationMessage
	if len(raw) > maxMessageBytes {
		return m, fmt.Errorf("message has %d bytes, at most %d are read", len(raw), maxMessageBytes)
	}
	trimmed := bytes.TrimSpace(raw)
	if len(trimmed) == 0 || bytes.Equal(trimmed, []byte("null")) {
		return m, errors.New("message is empty")
	}
	if trimmed[0] != '{' {
		return m, errors.New("message is not a JSON object")
	}
	if err := json.Unmarshal(trimmed, &m); err != nil {
		return protocol.DeviceConfigurationMessage{Version: m.Version}, jsonReason(err)
	}
	if m.Configuration == nil {
		// A broken server must not wipe a device: "no workloads" is only
		// believed from a message that is a configuration.
		return m, errors.New("message has no configuration")
	}
	return m, nil
}

// jsonReason describes err by where and what type, because the texts of
// encoding/json quote values.
func jsonReason(err error) error {
	if te, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		kind, _, _ := strings.Cut(te.Value, " ") // "number 12": the number is content
		return fmt.Errorf("field %q is a %s", printable(te.Field, maxReasonSize), kind)
	}
	if se, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("message is not JSON at byte %d", se.Offset)
	}
	return errors.New("message has a value of the wrong form")
}

// checkDevice refuses a message that is for another device. A message that
// names no device came on this device's own connection and is its own.
func checkDevice(m protocol.DeviceConfigurationMessage, deviceID string) error {
	if deviceID == "" || m.DeviceID == "" || strings.EqualFold(m.DeviceID, deviceID) {
		return nil
	}
	return fmt.Errorf("message is for device %q", printable(m.DeviceID, maxNameSize))
}

// decode turns a message into the State it asks for. It cannot fail: what makes
// no sense is in Problems or in a workload's Invalid.
func decode(m protocol.DeviceConfigurationMessage, deviceID string) State {
	c := m.Configuration
	s := State{
		DeviceID:      deviceID,
		Version:       m.Version,
		Heartbeat:     decodeHeartbeat(c.Heartbeat),
		Ansible:       c.AnsibleManager,
		Metrics:       c.Metrics,
		OS:            c.OS,
		LogCollection: c.LogCollection,
		Mounts:        c.Mounts,
	}
	if s.DeviceID == "" {
		s.DeviceID = m.DeviceID
	}
	var problems problemList
	if c.Storage != nil && c.Storage.S3 != nil {
		storage, err := decodeStorage(*c.Storage.S3)
		if err != nil {
			problems.add("storage: %v", err)
		}
		s.Storage = storage
	}
	s.Workloads = decodeWorkloads(m.Workloads, &problems)
	s.Secrets = decodeSecrets(m.Secrets, &problems)
	s.Problems = problems.sorted()
	return s
}

// decodeWorkloads returns the workloads sorted by name. Of two of one name the
// first on the wire is taken.
func decodeWorkloads(wire []protocol.Workload, problems *problemList) []Workload {
	var workloads []Workload
	seen := map[string]bool{}
	for _, w := range wire {
		d, own := decodeWorkload(w)
		if seen[d.Name] {
			problems.add("workload %q is there twice, the first one is taken", d.Name)
			continue
		}
		seen[d.Name] = true
		for _, p := range own {
			problems.add("workload %q: %s", d.Name, p)
		}
		workloads = append(workloads, d)
	}
	slices.SortFunc(workloads, func(a, b Workload) int { return strings.Compare(a.Name, b.Name) })
	return workloads
}

// decodeSecrets is decodeWorkloads for secrets; those that cannot be decoded are
// left out.
func decodeSecrets(wire []protocol.Secret, problems *problemList) []Secret {
	var secrets []Secret
	seen := map[string]bool{}
	for _, w := range wire {
		name := printable(w.Name, maxNameSize)
		if seen[w.Name] {
			problems.add("secret %q is there twice, the first one is taken", name)
			continue
		}
		seen[w.Name] = true
		d, err := decodeSecret(w)
		if err != nil {
			problems.add("secret %q: %v", name, err)
			continue
		}
		secrets = append(secrets, d)
	}
	slices.SortFunc(secrets, func(a, b Secret) int { return strings.Compare(a.Name, b.Name) })
	return secrets
}

// maxProblems bounds what is reported of a configuration that is wrong
// everywhere.
const maxProblems = 50

// problemList collects State.Problems.
type problemList struct {
	texts []string
	more  int
}

func (l *problemList) add(format string, args ...any) {
	if len(l.texts) == maxProblems {
		l.more++
		return
	}
	l.texts = append(l.texts, fmt.Sprintf(format, args...))
}

func (l *problemList) sorted() []string {
	slices.Sort(l.texts)
	if l.more > 0 {
		return append(l.texts, fmt.Sprintf("and %d problems more", l.more))
	}
	return l.texts
}

func decodeHeartbeat(h *protocol.HeartbeatConfiguration) Heartbeat {
	d := Heartbeat{Period: DefaultHeartbeatPeriod}
	if h == nil {
		return d
	}
	if h.PeriodSeconds > 0 {
		d.Period = time.Duration(min(h.PeriodSeconds, math.MaxInt64/int64(time.Second))) * time.Second
	}
	if p := h.HardwareProfile; p != nil {
		d.IncludeHardware = p.Include
		d.DeltaHardware = p.Scope == protocol.ScopeDelta
	}
	return d
}
