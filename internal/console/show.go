package console

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"go.yaml.in/yaml/v2"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Formats of Show.
const (
	FormatTable = "table"
	FormatJSON  = "json"
	FormatYAML  = "yaml"
)

// maxCell is how much of a message a line of the table has; the whole of it
// follows below.
const maxCell = 60

// Check returns an error when there is no such format.
func Check(format string) error {
	switch format {
	case FormatTable, FormatJSON, FormatYAML:
		return nil
	}
	return fmt.Errorf("output %q: must be %s, %s or %s", format, FormatTable, FormatJSON, FormatYAML)
}

// Show writes the document as a person or a program wants it, a table in colour
// if it may be. Whatever it holds, a terminal does nothing but print it.
func Show(w io.Writer, d Document, format string, now time.Time, color bool) error {
	if err := Check(format); err != nil {
		return err
	}
	d = printable(d)
	var out []byte
	var err error
	switch format {
	case FormatTable:
		out = table(d, now, color)
	case FormatJSON:
		out, err = json.MarshalIndent(d, "", "  ")
		out = append(out, '\n')
	case FormatYAML:
		out, err = YAML(d)
	}
	if err != nil {
		return fmt.Errorf("encode status: %w", err)
	}
	_, err = w.Write(out)
	return err
}

// YAML encodes v with the names and the order of its JSON.
func YAML(v any) ([]byte, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var fields yaml.MapSlice
	if err := yaml.Unmarshal(raw, &fields); err != nil {
		return nil, err
	}
	return yaml.Marshal(fields)
}

func orNone(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// applied says what the workload runs as.
func applied(w Workload) string {
	switch w.AppliedDigest {
	case "":
		return "none"
	case w.DesiredDigest:
		return "current"
	}
	return "previous"
}

// image names the first image, and how many there are beside it.
func image(images []Image) string {
	if len(images) == 0 {
		return "-"
	}
	name := orNone(images[0].Reference)
	if more := len(images) - 1; more > 0 {
		name += fmt.Sprintf(" +%d", more)
	}
	return name
}

// cell cuts a text to what a line has room for.
func cell(text string) string {
	if runes := []rune(text); len(runes) > maxCell {
		return string(runes[:maxCell-3]) + "..."
	}
	return text
}

// age is the time since then, with its two largest units.
func age(then, now time.Time) string {
	if then.IsZero() {
		return "-"
	}
	d := max(now.Sub(then), 0)
	const day = 24 * time.Hour
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	case d < day:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
}

// printable returns a copy without what a terminal would act on.
func printable(d Document) Document {
	clean := printableText
	d.Version = clean(d.Version)
	printableHost(&d, clean)
	d.Configuration.Version, d.Configuration.Digest = clean(d.Configuration.Version), clean(d.Configuration.Digest)
	d.Problems = each(d.Problems, clean)
	d.Workloads = each(d.Workloads, func(w Workload) Workload {
		w.Name, w.Phase, w.Reason, w.Message = clean(w.Name), clean(w.Phase), clean(w.Reason), clean(w.Message)
		w.DesiredDigest, w.AppliedDigest = clean(w.DesiredDigest), clean(w.AppliedDigest)
		w.Images = each(w.Images, func(i Image) Image {
			return Image{Container: clean(i.Container), Reference: clean(i.Reference), ID: clean(i.ID)}
		})
		w.HostPorts = each(w.HostPorts, func(p Port) Port {
			return Port{Protocol: clean(p.Protocol), IP: clean(p.IP), Port: p.Port}
		})
		w.Notes = each(w.Notes, clean)
		return w
	})
	d.DataSync = each(d.DataSync, func(s DataSync) DataSync { return printableSync(s, clean) })
	return d
}

func printableText(text string) string { return protocol.Printable(text) }

func each[T any](list []T, change func(T) T) []T {
	if list == nil {
		return nil
	}
	out := make([]T, 0, len(list))
	for _, v := range list {
		out = append(out, change(v))
	}
	return out
}
