package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// The oldest Podman whose API the agent speaks.
const (
	podmanMajor = 4
	podmanMinor = 2
)

// podman asks Podman over the socket that the agent uses.
func (d *doctor) podman(ctx context.Context) Finding {
	subject := d.PodmanSocket
	version, err := d.podmanVersion(ctx)
	unit := "`systemctl enable --now podman.socket`"
	if !d.Root {
		unit = fmt.Sprintf("`systemctl --user --machine=%s@ enable --now podman.socket`", d.User)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fail(subject, "nobody listens: "+err.Error(), "install podman and run "+unit)
	case errors.Is(err, fs.ErrPermission):
		return warn(subject, "may not be used: "+err.Error(), "run this as root")
	case err != nil:
		return fail(subject, "no answer: "+err.Error(), "look at the journal of podman.service; "+unit)
	}
	major, minor, known := twoNumbers(version)
	if !known || major < podmanMajor || major == podmanMajor && minor < podmanMinor {
		return fail(subject, "Podman "+version, fmt.Sprintf("Podman %d.%d or newer is needed: upgrade it", podmanMajor, podmanMinor))
	}
	return ok(subject, "Podman "+version)
}

func (d *doctor) podmanVersion(ctx context.Context) (string, error) {
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.Dial(ctx, "unix", d.PodmanSocket)
		},
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://podman/v4.0.0/libpod/version", nil)
	if err != nil {
		return "", err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }() // it was read
	raw, err := io.ReadAll(io.LimitReader(response.Body, maxOutput))
	if err != nil {
		return "", err
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("it answers %s", response.Status)
	}
	var answer struct{ Version string }
	if err := json.Unmarshal(raw, &answer); err != nil {
		return "", fmt.Errorf("decode its version: %w", err)
	}
	return answer.Version, nil
}

// twoNumbers takes the first two numbers from a version.
func twoNumbers(version string) (major, minor int, ok bool) {
	first, rest, _ := strings.Cut(version, ".")
	second, _, _ := strings.Cut(rest, ".")
	major, err1 := strconv.Atoi(first)
	minor, err2 := strconv.Atoi(second)
	return major, minor, err1 == nil && err2 == nil
}

// unit returns properties of a unit of the system.
func (d *doctor) unit(ctx context.Context, name string, properties ...string) (map[string]string, error) {
	out, err := d.Command(ctx, "systemctl", "show", "--property="+strings.Join(properties, ","), name)
	if err != nil {
		return nil, err
	}
	values := map[string]string{}
	for line := range strings.Lines(out) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			values[key] = value
		}
	}
	return values, nil
}

// manager looks at the service manager that runs workloads.
func (d *doctor) manager(ctx context.Context) Finding {
	unit := "user@" + strconv.Itoa(d.UID) + ".service"
	if d.Root {
		unit = "multi-user.target"
	}
	state, err := d.unit(ctx, unit, "ActiveState", "SubState", "Result")
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return fail("", "there is no systemctl", "the agent needs systemd: workloads are its units")
	case err != nil:
		return fail("", "systemd does not answer: "+err.Error(), "is this machine booted with systemd? A container is not, unless its first process is")
	case state["ActiveState"] == "active":
		return ok("", unit+" is active")
	}
	advice := fmt.Sprintf("`loginctl enable-linger %s` and `systemctl start %s`; `journalctl -u %s` says why it does not run", d.User, unit, unit)
	if d.Root {
		advice = "the boot has not come to its end: `systemctl list-jobs`, `systemctl --failed`"
	}
	return fail("", fmt.Sprintf("%s is %s (%s)", unit, state["ActiveState"], state["SubState"]), advice)
}

// lingering looks whether the user's service manager starts without a login.
func (d *doctor) lingering(context.Context) Finding {
	switch {
	case d.Root:
		return skip("", "workloads run in the system's service manager")
	case d.exists("/var/lib/systemd/linger/" + d.User):
		return ok("", d.User+" lingers: its workloads start at boot")
	}
	return fail("", d.User+" does not linger: its workloads would start with a login only, and end with it", "`loginctl enable-linger "+d.User+"`")
}

// service looks at what the agent runs in.
func (d *doctor) service(ctx context.Context) []Finding {
	found := []Finding{d.serviceUnit(ctx)}
	if d.WorkerFile != "" {
		found = append(found, d.worker())
	}
	return found
}

func (d *doctor) serviceUnit(ctx context.Context) Finding {
	unit, name := d.Service, strings.TrimSuffix(d.Service, ".service")
	state, err := d.unit(ctx, unit, "LoadState", "ActiveState", "SubState", "NRestarts", "UnitFileState")
	switch {
	case err != nil:
		return fail(unit, "not known: "+err.Error(), "`systemctl status "+name+"` should work")
	case state["LoadState"] == "not-found":
		return fail(unit, "there is no such unit", "install "+map[bool]string{true: "yggdrasil", false: "the package anew"}[d.WorkerFile != ""])
	case state["ActiveState"] != "active":
		return fail(unit, fmt.Sprintf("%s (%s)", state["ActiveState"], state["SubState"]), "`systemctl enable --now "+name+"`; `journalctl -u "+name+"` says why it does not run")
	case state["UnitFileState"] == "disabled":
		return warn(unit, "active, but not enabled: it does not start at boot", "`systemctl enable "+name+"`")
	}
	if n, err := strconv.Atoi(state["NRestarts"]); err == nil && n > 0 {
		return warn(unit, fmt.Sprintf("active, restarted %d times since it was started", n), "`journalctl -u "+name+"` says why")
	}
	return ok(unit, "active")
}

// worker looks whether yggd would find the agent.
func (d *doctor) worker() Finding {
	subject := d.WorkerFile
	text, err := d.text(subject)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fail(subject, "missing: yggd does not know the agent", "install the package anew: it brings the file")
	case err != nil:
		return warn(subject, err.Error(), "run this as root")
	}
	program := ""
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(line, "=")
		if strings.TrimSpace(key) == "exec" {
			program = strings.Trim(strings.TrimSpace(value), `"'`)
		}
	}
	info, err := fs.Stat(d.Files, strings.TrimPrefix(program, "/"))
	switch {
	case program == "":
		return fail(subject, "names no program", `write exec = "/usr/bin/flotta-agent" into it`)
	case err != nil:
		return fail(subject, "names a program that is not there: "+program, "install the package anew, or correct exec")
	case info.IsDir() || info.Mode()&0o111 == 0:
		return fail(subject, program+" is no program that can be started", "chmod 755 "+program)
	}
	return ok(subject, "starts "+program)
}
