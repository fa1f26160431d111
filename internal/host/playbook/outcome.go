package playbook

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Why a run did not end well, or does not begin.
const (
	ReasonFailed          = "Failed"          // a task did
	ReasonTimedOut        = "TimedOut"        // it was ended
	ReasonInterrupted     = "Interrupted"     // power cut, reboot, or somebody stopped its unit
	ReasonInvalidPlaybook = "InvalidPlaybook" // Ansible cannot read it, or an option makes no sense
	ReasonUnknownUser     = "UnknownUser"     // there is no such user on the device
	ReasonNoHostMatched   = "NoHostMatched"   // no play was for this host
	ReasonOutOfMemory     = "OutOfMemory"     // the kernel ended one of its processes
	ReasonSkipped         = "Skipped"         // one before it failed, whose strategy is StopOnFailure
	ReasonNotStarted      = "NotStarted"      // its unit ends before it begins
	ReasonAnsibleMissing  = "AnsibleMissing"  // it waits until Ansible is there
	ReasonDisabled        = "Disabled"        // it waits until playbooks are switched on
	ReasonRetrying        = "Retrying"        // it failed and is about to be run again
)

const (
	// maxMessage bounds what is said of a run, in bytes.
	maxMessage = 1 << 10
	// maxEnd bounds the end of the output in it.
	maxEnd = 800
)

var (
	recapLine = regexp.MustCompile(`(?m)^(\S+) +: +(ok=\d+) +(changed=\d+) +(unreachable=\d+) +(failed=\d+)`)
	stars     = regexp.MustCompile(`\*{4,}`)
	emptyLine = regexp.MustCompile(`\n\s*\n+`)
)

const noHosts = "skipping: no hosts matched"

// recap returns the counts that Ansible prints at the end, in one line; empty:
// it printed none.
func recap(output string) string {
	_, end, found := strings.Cut(output, "PLAY RECAP")
	for found { // the last one: a playbook may print what it likes
		output = end
		_, end, found = strings.Cut(end, "PLAY RECAP")
	}
	m := recapLine.FindStringSubmatch(output)
	if m == nil {
		return ""
	}
	return m[1] + ": " + strings.Join(m[2:], " ")
}

// saying puts what happened and the end of the output into one message.
func saying(what, output string) string {
	end := last(printable(emptyLine.ReplaceAllString(stars.ReplaceAllString(output, "***"), "\n")), maxEnd)
	if end == "" {
		return first(what, maxMessage)
	}
	return first(what, maxMessage-maxEnd-2) + ":\n" + end
}

// printable leaves out what must not get to somebody's terminal.
func printable(text string) string {
	text = strings.Map(func(c rune) rune {
		switch {
		case c == '\n':
			return c
		case c == '\t':
			return ' '
		case !unicode.IsPrint(c):
			return -1
		}
		return c
	}, strings.ToValidUTF8(text, "\uFFFD"))
	return strings.TrimSpace(text)
}

// last returns at most n bytes from the end of text, in whole characters.
func last(text string, n int) string {
	if len(text) <= n {
		return text
	}
	const mark = "..."
	text = text[len(text)-n+len(mark):]
	for text != "" && !utf8.RuneStart(text[0]) {
		text = text[1:]
	}
	return mark + text
}

// first returns at most n bytes from the beginning of text, in whole characters.
func first(text string, n int) string {
	if len(text) <= n {
		return text
	}
	const mark = "..."
	return strings.ToValidUTF8(text[:n-len(mark)], "") + mark
}
