package console

import "bytes"

// agentMetrics writes what there is once.
func agentMetrics(b *bytes.Buffer, d Document) {
	one := func(name, help string, value float64, labels ...string) {
		header(b, family{name: name, kind: gauge, help: help})
		sample(b, name, value, labels...)
	}
	one("flotta_agent_info", "The agent's version, as a label.", 1, "version", d.Version)
	one("flotta_agent_healthy", "1 while all is as desired.", truth(d.Well()))
	one("flotta_agent_start_time_seconds", "When the agent was started.", seconds(d.Started))
	one("flotta_agent_problems", "Things that are wrong besides single workloads.", float64(len(d.Problems)))
	one("flotta_agent_managed", "1 while the control plane manages the device.", truth(d.Device.Phase == PhaseManaged))
	one("flotta_agent_connected", "1 while the last report to the control plane came through.", truth(d.Connection.connected()))
	one("flotta_agent_last_contact_timestamp_seconds", "When a report was last accepted; 0: not since the agent was started.", seconds(d.Connection.LastContact))
	one("flotta_agent_configuration_settled", "1 while nothing of the configuration is being applied.", truth(d.Configuration.Settled))
	if c := d.Device.Certificate; c != nil {
		one("flotta_agent_certificate_expiry_timestamp_seconds", "When the device's certificate expires.", seconds(c.Expires))
	}
}

// metric is one metric of each of several things.
type metric[T any] struct {
	name, kind, help string
	labels           func(T) []string // names and values by turns
	value            func(T) float64
}

// eachOf writes each metric for all things.
func eachOf[T any](b *bytes.Buffer, metrics []metric[T], things []T) {
	for _, m := range metrics {
		for i, thing := range things {
			if i == 0 {
				header(b, family{name: m.name, kind: m.kind, help: m.help})
			}
			sample(b, m.name, m.value(thing), m.labels(thing)...)
		}
	}
}

func ofWorkload(w Workload) []string { return []string{"workload", w.Name} }
func ofQueue(q Queue) []string       { return []string{"queue", q.Name} }
func ofStorage(s Storage) []string   { return []string{"storage", s.Name} }

var workloadFamilies = [...]metric[Workload]{
	{"flotta_workload_healthy", gauge, "1 while the workload is what it should be, and well.", ofWorkload, func(w Workload) float64 { return truth(w.asDesired()) }},
	{
		"flotta_workload_info", gauge, "The workload's phase, and why it is not well, as labels.",
		func(w Workload) []string { return []string{"workload", w.Name, "phase", w.Phase, "reason", w.Reason} }, func(Workload) float64 { return 1 },
	},
	{"flotta_workload_restarts", gauge, "Restarts of its containers since its pod was made.", ofWorkload, func(w Workload) float64 { return float64(w.Restarts) }},
	{"flotta_workload_since_timestamp_seconds", gauge, "Since when it is in this phase, for this reason.", ofWorkload, func(w Workload) float64 { return seconds(w.Since) }},
}

var queueFamilies = [...]metric[Queue]{
	{"flotta_queue_entries", gauge, "Entries that wait to be delivered.", ofQueue, func(q Queue) float64 { return float64(q.Waiting) }},
	{"flotta_queue_bytes", gauge, "Bytes of them on the disk.", ofQueue, func(q Queue) float64 { return float64(q.Bytes) }},
	{"flotta_queue_limit_bytes", gauge, "Bytes from which on the oldest entries are dropped; 0: not known.", ofQueue, func(q Queue) float64 { return float64(q.Limit) }},
	{"flotta_queue_oldest_timestamp_seconds", gauge, "When the oldest entry came; 0: not known, or there is none.", ofQueue, func(q Queue) float64 { return seconds(q.Oldest) }},
	{"flotta_queue_dropped_total", counter, "Entries that were given up, since the queue was made.", ofQueue, func(q Queue) float64 { return float64(q.Dropped.total()) }},
}

var storageFamilies = [...]metric[Storage]{
	{"flotta_storage_size_bytes", gauge, "Size of the disk.", ofStorage, func(s Storage) float64 { return float64(s.Total) }},
	{"flotta_storage_free_bytes", gauge, "Bytes that are free on it.", ofStorage, func(s Storage) float64 { return float64(s.Free) }},
	{"flotta_storage_used_ratio", gauge, "Part of its bytes or inodes in use, whichever is more.", ofStorage, func(s Storage) float64 { return s.used() }},
}

// measurable are those of which anything is known.
func measurable(list []Storage) []Storage {
	var out []Storage
	for _, s := range list {
		if s.Error == "" {
			out = append(out, s)
		}
	}
	return out
}
