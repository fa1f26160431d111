package logs

import (
	"github.com/project-flotta/flotta-agent/internal/logs/follow"
	"github.com/project-flotta/flotta-agent/internal/logs/syslog"
)

// message is a line as receivers see it. Its parameters are a contract with
// those who filter by them.
func message(device string, l follow.Line) syslog.Message {
	m := syslog.Message{
		Time: l.Time, Severity: syslog.Info, Hostname: device, AppName: l.Workload, ProcID: l.Container, MsgID: "stdout",
		Text: l.Text,
	}
	if l.Stderr {
		m.Severity, m.MsgID = syslog.Error, "stderr"
	}
	m.Params = []syslog.Param{
		{Name: "device", Value: device},
		{Name: "workload", Value: l.Workload},
		{Name: "container", Value: l.Container},
		{Name: "stream", Value: m.MsgID},
	}
	if l.More {
		m.Params = append(m.Params, syslog.Param{Name: "continued", Value: "true"})
	}
	return m
}
