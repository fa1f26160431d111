package console

import (
	"bytes"
	"strconv"
	"strings"
	"time"
)

// MetricsType is the content type of Metrics.
const MetricsType = "text/plain; version=0.0.4; charset=utf-8"

// family is one metric: what it is called, and its value for one direction of one
// workload.
type family struct {
	name, kind, help string
	value            func(*DataDirection) float64
}

const (
	counter = "counter"
	gauge   = "gauge"
)

// families are the metrics of the data synchronisation.
var families = [...]family{
	{"flotta_datasync_files_total", counter, "Files transferred since the agent was started.", files},
	{"flotta_datasync_bytes_total", counter, "Bytes of the files transferred since the agent was started.", transferredBytes},
	{"flotta_datasync_seconds_total", counter, "Time spent on transferring files, all transfers added up.", func(d *DataDirection) float64 { return d.Seconds }},
	{"flotta_datasync_pending_files", gauge, "Files to be transferred, those under way included.", func(d *DataDirection) float64 { return float64(d.Pending) }},
	{"flotta_datasync_pending_bytes", gauge, "Bytes to be transferred, as far as the sizes are known.", func(d *DataDirection) float64 { return float64(d.PendingBytes) }},
	{"flotta_datasync_failed_files", gauge, "Files whose transfer failed and is tried again.", func(d *DataDirection) float64 { return float64(d.Failed) }},
	{"flotta_datasync_skipped_files", gauge, "Entries that are no regular files.", func(d *DataDirection) float64 { return float64(d.Skipped) }},
	{"flotta_datasync_refused_files", gauge, "Names that one of the two sides cannot hold.", func(d *DataDirection) float64 { return float64(d.Refused) }},
	{"flotta_datasync_blocked", gauge, "1 while transfers are held back although none failed.", func(d *DataDirection) float64 { return truth(d.Blocked != "") }},
	{"flotta_datasync_paused", gauge, "1 while the settings of the device let nothing travel.", func(d *DataDirection) float64 { return truth(d.Paused != "") }},
	{"flotta_datasync_problems", gauge, "Problems that last until somebody changes something.", func(d *DataDirection) float64 { return float64(len(d.Problems)) }},
	{"flotta_datasync_last_success_timestamp_seconds", gauge, "When all was found in order last; 0: not yet.", func(d *DataDirection) float64 { return seconds(d.LastSuccess) }},
}

// oldFamilies are the metrics that flotta v0.2 has, with its names, labels and
// units.
var oldFamilies = [...]family{
	{"flotta_agent_datasync_files_transferred_counter", counter, "Files transferred; as flotta v0.2 names it.", files},
	{"flotta_agent_datasync_bytes_transferred_counter", counter, "Bytes transferred; as flotta v0.2 names it.", transferredBytes},
	{"flotta_agent_datasync_time_transferred_counter", counter, "Milliseconds spent on transfers; as flotta v0.2 names it.", func(d *DataDirection) float64 { return d.Seconds * 1000 }},
	{"flotta_agent_datasync_deleted_files_transferred_counter", counter, "Files deleted in the target; always 0, because nothing is ever deleted there.", func(*DataDirection) float64 { return 0 }},
}

func files(d *DataDirection) float64            { return float64(d.Files) }
func transferredBytes(d *DataDirection) float64 { return float64(d.Bytes) }

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

// Metrics returns the document's numbers in the text format of Prometheus.
func Metrics(d Document) []byte {
	var b bytes.Buffer
	agentMetrics(&b, d)
	eachOf(&b, workloadFamilies[:], d.Workloads)
	eachOf(&b, queueFamilies[:], d.Queues)
	eachOf(&b, storageFamilies[:], measurable(d.Storage))
	series(&b, families[:], "workload", d.DataSync)
	series(&b, oldFamilies[:], "workload_name", d.DataSync)
	return b.Bytes()
}

// series writes the families for all workloads, whose names are in the label.
func series(b *bytes.Buffer, list []family, label string, all []DataSync) {
	for _, f := range list {
		begun := false
		for _, s := range all {
			for _, d := range s.directions() {
				if !begun {
					header(b, f)
					begun = true
				}
				sample(b, f.name, f.value(d.DataDirection), label, s.Workload, "direction", d.name)
			}
		}
	}
}

func header(b *bytes.Buffer, f family) {
	b.WriteString("# HELP " + f.name + " " + f.help + "\n# TYPE " + f.name + " " + f.kind + "\n")
}

// sample writes one line; labels are names and values by turns.
func sample(b *bytes.Buffer, name string, value float64, labels ...string) {
	b.WriteString(name)
	for i := 0; i+1 < len(labels); i += 2 {
		sep := byte(',')
		if i == 0 {
			sep = '{'
		}
		b.WriteByte(sep)
		b.WriteString(labels[i] + `="` + labelEscapes.Replace(strings.ToValidUTF8(labels[i+1], "\uFFFD")) + `"`)
	}
	if len(labels) > 0 {
		b.WriteByte('}')
	}
	b.WriteByte(' ')
	b.WriteString(strconv.FormatFloat(value, 'g', -1, 64))
	b.WriteByte('\n')
}

// labelEscapes are those of the text format.
var labelEscapes = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
