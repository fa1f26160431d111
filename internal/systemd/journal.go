package systemd

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/project-flotta/flotta-agent/internal/command"
)

// maxJournal bounds what is read of the journal at once.
const maxJournal = 4 << 20

// journalSlack is how many more entries are read than lines are wanted, because
// Podman's own record of events is among them and is left out.
const journalSlack = 200

// Output returns up to lines of the last lines that the unit's processes wrote
// since that time. It asks the journalctl command, because the journal's files
// have no other stable reader.
func (c *Client) Output(ctx context.Context, unit string, since time.Time, lines int) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	match := []string{"_SYSTEMD_UNIT=" + unit}
	if uid, ok := userOf(c.socket); ok {
		match = []string{"_SYSTEMD_USER_UNIT=" + unit, "_UID=" + uid}
	}
	args := append([]string{
		"--quiet", "--no-pager", "--output=json", "--output-fields=MESSAGE,PODMAN_EVENT",
		"--lines=" + strconv.Itoa(lines+journalSlack),
		"--since=@" + strconv.FormatInt(since.Unix(), 10),
	}, match...)
	raw, err := command.Runner{Limit: maxJournal}.Run(ctx, "", "journalctl", args...)
	if err != nil {
		return nil, fmt.Errorf("read journal of %s: %w", unit, err)
	}
	all := decodeJournal(raw)
	return all[max(0, len(all)-lines):], nil
}

// decodeJournal returns the messages of a journal in JSON lines that a program
// wrote for people. An entry that cannot be read is left out.
func decodeJournal(raw []byte) []string {
	var out []string
	for line := range bytes.Lines(raw) {
		var entry struct {
			Message json.RawMessage `json:"MESSAGE"`
			Event   json.RawMessage `json:"PODMAN_EVENT"`
		}
		if json.Unmarshal(line, &entry) != nil || entry.Event != nil {
			continue
		}
		if text := strings.TrimSpace(decodeMessage(entry.Message)); text != "" {
			out = append(out, text)
		}
	}
	return out
}

// decodeMessage takes a message as text, or as the numbers of its bytes, which
// is how the journal writes one that is not plain text.
func decodeMessage(raw json.RawMessage) string {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text
	}
	var numbers []byte16
	if json.Unmarshal(raw, &numbers) != nil {
		return ""
	}
	b := make([]byte, 0, len(numbers))
	for _, n := range numbers {
		b = append(b, byte(n&0xff))
	}
	return strings.ToValidUTF8(string(b), "\uFFFD")
}

// byte16 is a byte that encoding/json does not take for a part of base64.
type byte16 uint16

// userOf returns the UID in a UserSocket.
func userOf(socket string) (string, bool) {
	rest, ok := strings.CutPrefix(socket, "/run/user/")
	if !ok {
		return "", false
	}
	uid, _, ok := strings.Cut(rest, "/")
	return uid, ok
}
