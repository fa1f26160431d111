package apply

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/unit"
)

// header is the first line of every unit that is ours, and of no other one.
const header = "# flotta-agent: mount of the configuration, format 1\n"

const hint = "# It is written anew when it differs, and removed with the mount. What is to be\n" +
	"# otherwise on this device goes into a drop-in.\n"

// commandTimeout is how long mount and umount themselves may take: a journal may
// have to be played back, and what was written to a slow disk has to reach it.
const commandTimeout = 10 * time.Minute

const (
	suffix      = ".mount"
	maxUnitName = 255
)

// mount is a file system at a folder, as a unit says it.
type mount struct{ device, where, kind, options string }

// sameFS reports whether both are mounted in the same way, if they are on the
// same device.
func (m mount) sameFS(other mount) bool {
	return m.where == other.where && m.kind == other.kind && m.options == other.options
}

// unitName returns the name that systemd demands of the unit of a mount point.
func unitName(where string) string { return unit.UnitNamePathEscape(where) + suffix }

// checkUnitName says what is wrong with the name of the unit of a mount point.
func checkUnitName(where string) error {
	if n := len(unitName(where)); n > maxUnitName {
		return fmt.Errorf("the name of its unit would have %d characters, more than the %d that systemd takes", n, maxUnitName)
	}
	return nil
}

// whereOf is the opposite of unitName. The library's own is wrong about what is
// not ASCII.
func whereOf(name string) string {
	name = strings.TrimSuffix(name, suffix)
	var b strings.Builder
	b.WriteByte('/')
	for i := 0; i < len(name); i++ {
		c := name[i]
		if c == '-' {
			c = '/'
		} else if c == '\\' && i+3 < len(name) && name[i+1] == 'x' {
			if n, err := strconv.ParseUint(name[i+2:i+4], 16, 8); err == nil {
				c = byte(n)
				i += 3
			}
		}
		b.WriteByte(c)
	}
	return filepath.Clean(b.String())
}

// render returns the text of the unit. Nothing in m may mean anything to systemd
// but itself: checkPath, checkDevice, checkOptions and filesystems.check see to
// that, and render looks again, because nothing else stands between a message
// and what root does at boot.
func render(m mount, before string, deviceTimeout time.Duration) ([]byte, error) {
	for _, value := range []string{m.device, m.where, m.kind, m.options} {
		if value == "" || strings.TrimSpace(value) != value || strings.HasSuffix(value, `\`) || strings.ContainsFunc(value, func(r rune) bool {
			return r < ' ' || r == '%' || r == '"' || r == '\'' || r == 0x7f
		}) {
			return nil, errors.New("a value of it cannot be in a unit")
		}
	}
	var b bytes.Buffer
	b.WriteString(header + hint + "\n[Unit]\n")
	fmt.Fprintf(&b, "Description=%s of the device configuration\n", m.where)
	b.WriteString("Documentation=https://project-flotta.io\n")
	if before != "" {
		b.WriteString("Before=" + before + "\n")
	}
	// It bounds how long a boot waits for the device and whoever waits for the
	// mount waits for it. The work goes on beyond it.
	fmt.Fprintf(&b, "JobTimeoutSec=%d\n", seconds(deviceTimeout))
	fmt.Fprintf(&b, "\n[Mount]\nWhat=%s\nWhere=%s\nType=%s\nOptions=%s\n", m.device, m.where, m.kind, m.options)
	fmt.Fprintf(&b, "DirectoryMode=0755\nLazyUnmount=no\nForceUnmount=no\nTimeoutSec=%d\n", seconds(commandTimeout))
	b.WriteString("\n[Install]\nWantedBy=local-fs.target\n")
	return b.Bytes(), nil
}

func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

// parse returns what a unit of ours mounts; false: it is not ours.
func parse(text []byte) (mount, bool) {
	rest, ours := bytes.CutPrefix(text, []byte(header))
	if !ours {
		return mount{}, false
	}
	var m mount
	inMount := false
	for line := range strings.Lines(string(rest)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			inMount = line == "[Mount]"
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok || !inMount {
			continue
		}
		switch key {
		case "What":
			m.device = value
		case "Where":
			m.where = value
		case "Type":
			m.kind = value
		case "Options":
			m.options = value
		}
	}
	return m, true
}
