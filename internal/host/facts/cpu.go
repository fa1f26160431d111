package facts

import (
	"math"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// architecture is the kernel's name of what this binary runs on.
func architecture() string {
	switch runtime.GOARCH {
	case "amd64":
		return "x86_64"
	case "386":
		return "i686"
	case "arm64":
		return "aarch64"
	case "arm":
		return "armv7l"
	default: // ppc64le, s390x, riscv64: the same word
		return runtime.GOARCH
	}
}

func (h host) cpu() *protocol.CPU {
	c := parseCPU(h.table("proc/cpuinfo"))
	c.Architecture = architecture()
	// The highest clock: that of the moment changes from second to second, and is
	// what /proc/cpuinfo has where processors measure it.
	if slices.Contains(c.Flags, "aperfmperf") {
		c.Frequency = 0
	}
	if khz := h.number("sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"); khz > 0 {
		c.Frequency = float64(khz) / 1000
	}
	if c.ModelName == "" {
		c.ModelName = h.attribute("sys/firmware/devicetree/base/cpus/cpu@0/compatible")
	}
	return c
}

// parseCPU reads /proc/cpuinfo, which has other words on each architecture.
func parseCPU(text string) *protocol.CPU {
	c := &protocol.CPU{Flags: []string{}}
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		key, value = strings.TrimSpace(key), clean(value)
		switch key {
		case "processor":
			// On 32-bit ARM there is a line "Processor", hence the exact word.
			if _, err := strconv.Atoi(value); err == nil {
				c.Count++
			}
		case "model name", "cpu model", "Processor", "cpu":
			if c.ModelName == "" {
				c.ModelName = value
			}
		case "flags", "Features", "isa":
			if len(c.Flags) == 0 {
				c.Flags = strings.Fields(value)
			}
		case "cpu MHz", "clock":
			mhz, err := strconv.ParseFloat(strings.TrimSuffix(value, "MHz"), 64)
			if err == nil && c.Frequency == 0 && mhz > 0 && !math.IsInf(mhz, 0) {
				c.Frequency = mhz
			}
		}
	}
	if c.Flags == nil {
		c.Flags = []string{}
	}
	slices.Sort(c.Flags)
	return c
}

func (h host) memory() *protocol.Memory {
	m := &protocol.Memory{UsableBytes: parseMemTotal(h.table("proc/meminfo"))}
	m.PhysicalBytes = max(h.physicalMemory(),
		// not shown, or shown in part
		m.UsableBytes)
	return m
}

// parseMemTotal returns what /proc/meminfo says the kernel can use, in bytes.
func parseMemTotal(text string) int64 {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "MemTotal:" {
			continue
		}
		kib, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil || kib < 0 || kib > math.MaxInt64/1024 {
			return 0
		}
		return kib * 1024
	}
	return 0
}

// physicalMemory adds up the blocks of memory that are online.
func (h host) physicalMemory() int64 {
	const dir = "sys/devices/system/memory"
	size, err := strconv.ParseInt(h.attribute(path.Join(dir, "block_size_bytes")), 16, 64)
	if err != nil || size <= 0 || size > 1<<50 {
		return 0
	}
	var total int64
	for _, name := range h.list(dir) {
		if strings.HasPrefix(name, "memory") && h.number(path.Join(dir, name, "online")) == 1 {
			total += size
		}
	}
	return total
}
