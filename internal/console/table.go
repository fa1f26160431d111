package console

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// sheet is what a person reads: tables and lists below each other.
type sheet struct {
	text  bytes.Buffer
	now   time.Time
	color bool
}

func (s *sheet) put(text string) { _, _ = s.text.WriteString(text) } // a buffer takes all

// columns writes rows with their fields one below the other, and a space before
// them when something is above.
func (s *sheet) columns(rows []line) {
	widths := []int{}
	for _, row := range rows {
		for i, field := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], cells(field.text))
		}
	}
	if s.text.Len() > 0 {
		s.put("\n")
	}
	for _, row := range rows {
		last := len(row)
		for last > 0 && row[last-1].text == "" {
			last--
		}
		var out line
		for i, field := range row[:last] {
			out = append(out, field)
			if i < last-1 {
				out = append(out, span{strings.Repeat(" ", widths[i]-cells(field.text)+2), styleNone})
			}
		}
		s.put(out.render(unlimited, s.color) + "\n")
	}
}

// unlimited is wider than any line.
const unlimited = 1 << 30

// plain is a row without colours.
func plain(fields ...string) line {
	var out line
	for _, f := range fields {
		out = append(out, span{f, styleNone})
	}
	return out
}

// titles is the first row of a table.
func titles(names ...string) line {
	out := plain(names...)
	for i := range out {
		out[i].style = styleFaint
	}
	return out
}

func (s *sheet) list(title string, lines []string, style string) {
	if len(lines) == 0 {
		return
	}
	s.put("\n" + line{{title + ":", styleStrong}}.render(unlimited, s.color) + "\n")
	for _, text := range lines {
		s.put("  " + line{{text, style}}.render(unlimited, s.color) + "\n")
	}
}

func table(d Document, now time.Time, color bool) []byte {
	s := sheet{now: now, color: color}
	s.head(d)
	if len(d.Workloads) > 0 {
		s.workloads(d.Workloads)
	}
	if len(d.DataSync) > 0 {
		s.dataSync(d.DataSync)
	}
	if len(d.Playbooks) > 0 {
		s.playbooks(d.Playbooks)
	}
	if len(d.Queues) > 0 {
		s.queues(d.Queues)
	}
	if len(d.Storage) > 0 {
		s.storage(d.Storage)
	}
	var long, notes []string
	for _, w := range d.Workloads {
		if cell(w.Message) != w.Message {
			long = append(long, w.Name+": "+w.Message)
		}
		for _, n := range w.Notes {
			notes = append(notes, w.Name+": "+n)
		}
	}
	for _, p := range d.Playbooks {
		if cell(p.Message) != p.Message {
			long = append(long, p.Name+": "+p.Message)
		}
	}
	for _, sync := range d.DataSync {
		for _, direction := range sync.directions() {
			if direction.Paused != "" {
				notes = append(notes, direction.name+" of "+sync.Workload+" is paused: "+direction.Paused)
			}
		}
	}
	s.list("Problems", d.Problems, styleBad)
	s.list("Messages", long, styleNone)
	s.list("Notes", notes, styleNone)
	return s.text.Bytes()
}

// head says who the device is, and how it is as a whole.
func (s *sheet) head(d Document) {
	device := d.Device.ID
	if p := d.Device.Phase; p != "" && p != PhaseManaged {
		device += ", " + p
	}
	rows := []line{{{"Device", styleNone}, {device, styleStrong}}}
	add := func(name, text, style string) { rows = append(rows, line{{name, styleNone}, {text, style}}) }
	if c := d.Device.Certificate; c != nil {
		text, style := s.expiry(c.Expires)
		add("Certificate", text, style)
	}
	add("Agent", d.Version+", running for "+age(d.Started, s.now), styleNone)
	if os := d.OS; os.Name != "" {
		text := os.Name + ", kernel " + orNone(os.Kernel)
		if !os.Booted.IsZero() {
			text += ", up for " + age(os.Booted, s.now)
		}
		add("System", text, styleNone)
	}
	if d.OS.Update != "" {
		add("Update", d.OS.Update, styleWait)
	}
	if c := d.Connection; c != (Connection{}) {
		text, style := c.state()+", last contact "+ago(c.LastContact, s.now), styleGood
		if !c.connected() {
			style = styleWait
		}
		if c.Error != "" {
			text += ": " + c.Error
		}
		add("Connection", text, style)
	}
	add("Configuration", s.configuration(d.Configuration), styleNone)
	state := styleGood
	if !d.Healthy {
		state = styleBad
	}
	add("State", health(d), state)
	s.columns(rows)
}

// soon is when the end of a certificate is worth a look: it should have been
// renewed before.
const soon = 7 * 24 * time.Hour

func (s *sheet) expiry(at time.Time) (text, style string) {
	day := at.UTC().Format(time.DateOnly)
	switch left := at.Sub(s.now); {
	case left <= 0:
		return "expired " + ago(at, s.now) + ", on " + day, styleBad
	case left < soon:
		return "expires in " + age(s.now, at) + ", on " + day, styleWait
	default:
		return "expires in " + age(s.now, at) + ", on " + day, styleNone
	}
}

func (s *sheet) configuration(c Configuration) string {
	if c.Version == "" {
		return "none yet"
	}
	text := c.Version
	switch {
	case !c.Settled:
		text += ", being applied"
	case c.Applied.IsZero():
		text += ", applied"
	default:
		text += ", applied " + ago(c.Applied, s.now)
	}
	if !c.Received.IsZero() {
		text += ", received " + ago(c.Received, s.now)
	}
	return text
}

func health(d Document) string {
	if d.Healthy {
		return "as desired"
	}
	return fmt.Sprintf("not as desired (%d of %d workloads, other problems: %d)", d.failing(), len(d.Workloads), len(d.Problems))
}

func (s *sheet) workloads(list []Workload) {
	rows := []line{titles("NAME", "PHASE", "REASON", "RESTARTS", "APPLIED", "AGE", "IMAGE", "MESSAGE")}
	for _, w := range list {
		row := plain(
			w.Name, orNone(w.Phase), orNone(w.Reason), strconv.Itoa(w.Restarts),
			applied(w), age(w.Since, s.now), image(w.Images), cell(w.Message),
		)
		if w.asDesired() {
			row[1].style = styleGood
		} else {
			row[1].style, row[2].style = styleBad, styleBad
		}
		rows = append(rows, row)
	}
	s.columns(rows)
}

// dataSync writes a line for each direction that has data paths. What is wrong
// with it is among the problems.
func (s *sheet) dataSync(list []DataSync) {
	rows := []line{titles("DATA OF", "DIRECTION", "STATE", "FILES", "BYTES", "PENDING", "FAILED", "SKIPPED", "REFUSED", "LAST SUCCESS")}
	for _, sync := range list {
		for _, d := range sync.directions() {
			pending := strconv.FormatInt(d.Pending, 10)
			if d.PendingBytes > 0 {
				pending += " (" + size(d.PendingBytes) + ")"
			}
			row := plain(
				sync.Workload, d.name, d.state(), strconv.FormatInt(d.Files, 10), size(d.Bytes), pending,
				strconv.FormatInt(d.Failed, 10), strconv.FormatInt(d.Skipped, 10), strconv.FormatInt(d.Refused, 10), ago(d.LastSuccess, s.now),
			)
			row[2].style = d.style()
			rows = append(rows, row)
		}
	}
	s.columns(rows)
}

func (s *sheet) playbooks(list []Playbook) {
	rows := []line{titles("PLAYBOOK", "STATE", "REASON", "AGE", "MESSAGE")}
	for _, p := range list {
		row := plain(p.Name, p.State, orNone(p.Reason), age(p.Since, s.now), cell(p.Message))
		switch p.State {
		case protocol.PlaybookSuccessfullyCompleted:
			row[1].style = styleGood
		case protocol.PlaybookCompletedWithError:
			row[1].style, row[2].style = styleBad, styleBad
		}
		rows = append(rows, row)
	}
	s.columns(rows)
}

func (s *sheet) queues(list []Queue) {
	rows := []line{titles("QUEUE", "WAITING", "BYTES", "OF", "OLDEST", "DROPPED", "WHY")}
	for _, q := range list {
		limit, oldest := "-", "-"
		if q.Limit > 0 {
			limit = size(q.Limit)
		}
		if q.Waiting > 0 {
			oldest = age(q.Oldest, s.now)
		}
		row := plain(
			q.Name, strconv.FormatUint(q.Waiting, 10), size(q.Bytes), limit, oldest,
			strconv.FormatUint(q.Dropped.total(), 10), q.Dropped.why(),
		)
		if q.Dropped.total() > 0 {
			row[5].style = styleWait
		}
		rows = append(rows, row)
	}
	s.columns(rows)
}

// why says what entries were dropped for.
func (d Dropped) why() string {
	var out []string
	for _, n := range []struct {
		count uint64
		what  string
	}{{d.Size, "no room"}, {d.Age, "too old"}, {d.Damage, "damaged"}, {d.Refused, "refused"}} {
		if n.count > 0 {
			out = append(out, fmt.Sprintf("%d %s", n.count, n.what))
		}
	}
	return strings.Join(out, ", ")
}

// Parts of a disk in use from which on it is shown as filling, and as full.
const (
	filling = 0.85
	full    = 0.95
)

func (s *sheet) storage(list []Storage) {
	rows := []line{titles("STORAGE", "USED", "FREE", "OF", "PATH")}
	for _, v := range list {
		if v.Error != "" {
			rows = append(rows, line{{v.Name, styleNone}, {"?", styleWait}, {"?", styleNone}, {"?", styleNone}, {v.Path + ": " + v.Error, styleNone}})
			continue
		}
		row := plain(v.Name, strconv.Itoa(int(v.used()*100))+"%", size(v.Free), size(v.Total), v.Path)
		switch {
		case v.used() >= full:
			row[1].style = styleBad
		case v.used() >= filling:
			row[1].style = styleWait
		}
		rows = append(rows, row)
	}
	s.columns(rows)
}
