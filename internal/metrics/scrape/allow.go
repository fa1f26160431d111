package scrape

// Allow says which metrics are kept, by name. Nil keeps all; an empty list
// keeps none.
type Allow map[string]bool

// AllowNames returns a list of names.
func AllowNames(names ...string) Allow {
	a := make(Allow, len(names))
	for _, name := range names {
		a[name] = true
	}
	return a
}

// keeps reports whether a metric is kept.
func (a Allow) keeps(name string) bool { return a == nil || a[name] }

// SystemDefaults are the metrics of a node exporter that flotta's agents always
// kept when they were told nothing else.
func SystemDefaults() Allow {
	return AllowNames(
		"node_cpu_frequency_hertz",
		"node_cpu_scaling_frequency_hertz",
		"node_cpu_scaling_frequency_max_hertz",
		"node_cpu_scaling_frequency_min_hertz",
		"node_disk_read_bytes_total",
		"node_disk_written_bytes_total",
		"node_memory_MemAvailable_bytes",
		"node_memory_MemFree_bytes",
		"node_memory_MemTotal_bytes",
		"node_network_info",
	)
}

// DataTransferDefaults are the metrics of the synchronisation of data that
// flotta's agents always had.
func DataTransferDefaults() Allow {
	return AllowNames(
		"flotta_agent_datasync_bytes_transferred_counter",
		"flotta_agent_datasync_deleted_files_transferred_counter",
		"flotta_agent_datasync_files_transferred_counter",
		"flotta_agent_datasync_time_transferred_counter",
	)
}
