package adapter

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/internal/workload"
	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
)

const (
	dropInFolder = ".d"
	dropInFile   = "50-flotta.conf"

	// settingsLine begins the line of a drop-in that says what it was made from.
	settingsLine = "# settings: "

	// maxDropIn bounds what is read of a file that others can have written.
	maxDropIn = 1 << 20

	// stopSlack is what Podman may need beyond the time that it gives the
	// containers, on a slow disk under load.
	stopSlack = 60 * time.Second

	// startTimeout is that of the template, which counts for a reload, too.
	startTimeout = 900 * time.Second
)

// altered are the settings of a drop-in that is not as Configure writes them.
// Nobody can ask for them, so they differ from whatever should be there.
var altered = workload.UnitSettings{StopTimeout: -1}

// dropIn returns the text of the drop-in for these settings; none for zero ones.
func dropIn(s workload.UnitSettings) ([]byte, error) {
	if s.Equal(workload.UnitSettings{}) {
		return nil, nil
	}
	if s.StopTimeout < 0 {
		return nil, fmt.Errorf("stop timeout %s is negative", s.StopTimeout)
	}
	raw, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.WriteString("# Written by flotta-agent, which undoes what is changed here. What is to differ\n" +
		"# goes into another drop-in, whose name sorts after this one's.\n")
	b.WriteString(settingsLine)
	b.Write(raw)
	b.WriteByte('\n')
	if len(s.Mounts)+len(s.Devices) > 0 {
		b.WriteString("\n[Unit]\n")
	}
	for _, dir := range s.Mounts {
		value, err := conditionPath(dir)
		if err != nil {
			return nil, err
		}
		b.WriteString("ConditionPathIsMountPoint=" + value + "\n")
	}
	for _, path := range s.Devices {
		if last := path[max(0, len(path)-1):]; last == " " || last == "\\" {
			continue // conditionPath takes paths for folders: the unit does without
		}
		value, err := conditionPath(path)
		if err != nil {
			return nil, err
		}
		b.WriteString("ConditionPathExists=" + value + "\n")
	}
	if s.Completes || s.AutoUpdate || s.StopTimeout > 0 {
		b.WriteString("\n[Service]\n")
		if s.AutoUpdate {
			b.WriteString(staysUp)
		}
		if s.Completes || s.StopTimeout > 0 {
			writeService(&b, s)
		}
	}
	return b.Bytes(), nil
}

// writeService writes how the unit ends.
func writeService(b *bytes.Buffer, s workload.UnitSettings) {
	seconds := int64((s.StopTimeout + time.Second - 1) / time.Second)
	remove, leave := "/usr/bin/podman pod rm --force --ignore %i", "/usr/bin/podman pod stop --ignore %i"
	stopContainers := ""
	if s.StopTimeout > 0 {
		limit := fmt.Sprintf("--time=%d", seconds)
		remove = "/usr/bin/podman pod rm --force --ignore " + limit + " %i"
		leave = "/usr/bin/podman pod stop --ignore " + limit + " %i"
		// Podman 4.3 knows no grace of its own for a manifest, and takes the
		// network away from a pod before its containers have ended. So these
		// are stopped first, all at once.
		stopContainers = "-/usr/bin/podman stop --ignore " + limit + " --filter=label=" + manifest.LabelWorkload + "=%i"
		fmt.Fprintf(b, "TimeoutStopSec=%d\n", seconds+int64(stopSlack/time.Second))
		fmt.Fprintf(b, "TimeoutStartSec=%d\n", seconds+int64(startTimeout/time.Second))
		b.WriteString("ExecReload=\nExecReload=" + stopContainers + "\nExecReload=" + playCommand + "\n")
	}
	last := remove
	if s.Completes {
		// Its exit codes and its logs can be read until it is started anew,
		// which replaces it.
		b.WriteString("Restart=no\n")
		last = leave
	}
	b.WriteString("ExecStop=\n")
	if stopContainers != "" {
		b.WriteString("ExecStop=" + stopContainers + "\n")
	}
	b.WriteString("ExecStop=" + last + "\nExecStopPost=\nExecStopPost=-" + last + "\n")
}

// staysUp fails a start whose containers end badly, or end and are started
// again, within a moment. To Podman a unit has started as soon as its containers
// ran, however briefly.
const staysUp = "ExecStartPost=/bin/sh -c 'sleep 3; " +
	"for c in $$(/usr/bin/podman ps --all --quiet --filter label=" + manifest.LabelWorkload + "=%i); do " +
	"case \"$$(/usr/bin/podman inspect --format \"{{.State.Running}} {{.RestartCount}} {{.State.ExitCode}}\" $$c)\" in " +
	"\"true 0 \"*|\"false 0 0\") ;; *) exit 1;; esac; done'\n"

// playCommand is that of the template.
const playCommand = "/usr/bin/podman play kube --replace --service-container=true " +
	"/var/local/yggdrasil/device/workloads/%i/manifest.yaml"

// conditionPath writes an absolute path as the value of a condition. systemd
// takes the line as it is, blanks and quotes included, but for specifiers.
func conditionPath(dir string) (string, error) {
	if !filepath.IsAbs(dir) || !utf8.ValidString(dir) || strings.ContainsFunc(dir, unicode.IsControl) {
		return "", fmt.Errorf("mount or device %q is not an absolute path of printable characters", dir)
	}
	// At the end of a line a blank is lost, and a backslash joins the next line.
	if last := dir[len(dir)-1]; last == ' ' || last == '\\' {
		dir += "/"
	}
	return strings.ReplaceAll(dir, "%", "%%"), nil
}

// settingsOf returns the settings that the text of a drop-in stands for.
func settingsOf(text []byte) workload.UnitSettings {
	if len(text) == 0 {
		return altered
	}
	for line := range bytes.Lines(text) {
		raw, found := bytes.CutPrefix(line, []byte(settingsLine))
		if !found {
			continue
		}
		var s workload.UnitSettings
		if json.Unmarshal(raw, &s) != nil {
			return altered
		}
		if want, err := dropIn(s); err != nil || !bytes.Equal(want, text) {
			return altered
		}
		return s
	}
	return altered
}

// dropInPath is where the drop-in of a workload's unit belongs.
func (u *Units) dropInPath(name string) string {
	return filepath.Join(u.dropIns, unitOf(name)+dropInFolder, dropInFile)
}

// readDropIn returns the drop-in of a workload, or nil when there is none.
func (u *Units) readDropIn(name string) ([]byte, error) {
	path := u.dropInPath(name)
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxDropIn {
		return []byte{}, nil // whatever it is, it is none of ours
	}
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if raw == nil {
		raw = []byte{}
	}
	return raw, err
}

// settings returns those that a workload's drop-in stands for.
func (u *Units) settings(name string) (workload.UnitSettings, error) {
	text, err := u.readDropIn(name)
	if err != nil || text == nil {
		return workload.UnitSettings{}, err
	}
	return settingsOf(text), nil
}

// configured returns the workloads that have a drop-in.
func (u *Units) configured() ([]string, error) {
	entries, err := os.ReadDir(u.dropIns)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		unit, isFolder := strings.CutSuffix(e.Name(), dropInFolder)
		if name := nameOf(unit); isFolder && name != "" {
			names = append(names, name)
		}
	}
	return names, nil
}

// writeDropIn makes text the drop-in of a workload; nil: there is none.
func (u *Units) writeDropIn(name string, text []byte) error {
	path := u.dropInPath(name)
	folder := filepath.Dir(path)
	if text == nil {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		if err := durable.Sweep(folder); err != nil {
			return err
		}
		// It stays when an administrator keeps a drop-in there.
		_ = os.Remove(folder)
		return durable.SyncDir(u.dropIns)
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	// The user's service manager reads it, whatever the umask of the agent is.
	if err := os.Chmod(folder, 0o755); err != nil {
		return err
	}
	if err := durable.Sweep(folder); err != nil {
		return err
	}
	if info, err := os.Lstat(path); err == nil && info.IsDir() {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	if err := durable.WriteFile(path, text, 0o644); err != nil {
		return err
	}
	return durable.SyncDir(u.dropIns)
}
