package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/project-flotta/flotta-agent/internal/bundle"
	"github.com/project-flotta/flotta-agent/internal/doctor"
)

const (
	// maxRead bounds what is read of a file or an answer.
	maxRead = 8 << 20
	// maxInspected bounds how many containers are looked at one by one.
	maxInspected = 100
	// maxListed bounds how many files of the state folder are listed.
	maxListed = 5000
	// journalLines is a day or two of a busy device.
	journalLines = "20000"
)

// Items are what explains the device to somebody elsewhere, the most important
// first: without what only the agent can tell.
func (e *Examination) Items(host doctor.Host) []bundle.Item {
	items := []bundle.Item{
		e.file("config/agent.toml", bundle.KindSettings, e.paths.Config),
		e.file("config/yggdrasil.toml", bundle.KindSettings, e.yggdFile()),
		e.file("config/tags.toml", bundle.KindSettings, e.cfg.TagsFile),
		{Name: "desired.json", Kind: bundle.KindDocument, Limit: 4 << 20, Collect: func(context.Context) ([]byte, error) { return e.raw, nil }},
		{Name: "state-files.txt", Collect: e.listing},
	}
	for _, path := range e.dropIns() {
		items = append(items, e.file("config/agent.toml.d/"+filepath.Base(path), bundle.KindSettings, path))
	}
	if path := e.workerFile(); path != "" {
		items = append(items, e.file("config/worker.toml", bundle.KindSettings, path))
	}
	items = append(items, e.system(host)...)
	items = append(items, e.containers(host)...)
	return append(items, e.journals(host)...)
}

func (e *Examination) file(name, kind, path string) bundle.Item {
	return bundle.Item{Name: name, Kind: kind, Collect: func(context.Context) ([]byte, error) { return readSome(path) }}
}

// readSome returns the first bytes of a file.
func readSome(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was read
	return io.ReadAll(io.LimitReader(f, maxRead))
}

// listing names the files of the state folder, without those of workloads.
func (e *Examination) listing(ctx context.Context) ([]byte, error) {
	var b bytes.Buffer
	n := 0
	err := filepath.WalkDir(e.cfg.StateDir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		info, err := entry.Info()
		if err != nil {
			return nil //nolint:nilerr // it went away meanwhile
		}
		fmt.Fprintf(&b, "%s %12d %s %s\n", info.Mode(), info.Size(), info.ModTime().UTC().Format(time.RFC3339), path)
		if n++; n >= maxListed {
			return fs.SkipAll
		}
		if entry.IsDir() && filepath.Dir(path) == filepath.Join(e.cfg.StateDir, "volumes") {
			return fs.SkipDir
		}
		return nil
	})
	return b.Bytes(), err
}

// program is an item that a command writes.
func program(host doctor.Host, item, name string, args ...string) bundle.Item {
	return bundle.Item{Name: item, Collect: func(ctx context.Context) ([]byte, error) {
		out, err := host.Command(ctx, name, args...)
		return []byte(out), err
	}}
}

func (e *Examination) system(host doctor.Host) []bundle.Item {
	items := []bundle.Item{
		e.file("system/os-release", bundle.KindText, "/etc/os-release"),
		e.file("system/mounts", bundle.KindText, "/proc/self/mounts"),
		e.file("system/meminfo", bundle.KindText, "/proc/meminfo"),
		e.file("system/resolv.conf", bundle.KindText, "/etc/resolv.conf"),
		program(host, "system/uname.txt", "uname", "-a"),
		program(host, "system/uptime.txt", "uptime"),
		program(host, "system/timedatectl.txt", "timedatectl"),
		program(host, "system/df.txt", "df", "-hT"),
		program(host, "system/df-inodes.txt", "df", "-i"),
		program(host, "system/ip-address.txt", "ip", "address"),
		program(host, "system/ip-route.txt", "ip", "route", "show", "table", "all"),
		program(host, "system/sockets.txt", "ss", "-tulpn"),
		program(host, "system/nftables.txt", "nft", "list", "ruleset"),
		program(host, "system/rpm-ostree.txt", "rpm-ostree", "status"),
		program(host, "units/failed.txt", "systemctl", "--no-pager", "--failed"),
		program(host, "units/service.txt", "systemctl", "--no-pager", "--full", "--lines=0", "status", e.service()),
		program(host, "units/system.txt", "systemctl", "--no-pager", "--all", "list-units", "flotta*", "podman*", "yggd*", "user@*"),
	}
	if e.owner.uid > 0 {
		items = append(items, program(host, "units/user.txt", "systemctl", "--user", "--machine="+e.cfg.Runtime.User+"@", "--no-pager", "--all", "list-units"))
	}
	return items
}

func (e *Examination) journals(host doctor.Host) []bundle.Item {
	newest := []string{"--no-pager", "--reverse", "--output=short-iso-precise", "--lines=" + journalLines}
	items := []bundle.Item{
		program(host, "journal/agent-newest-first.txt", "journalctl", append(newest, "--unit="+e.service())...),
		program(host, "journal/playbooks-newest-first.txt", "journalctl", append(newest, "--unit=flotta-playbook@*")...),
	}
	if e.owner.uid > 0 {
		items = append(items, program(host, "journal/workloads-newest-first.txt", "journalctl", append(newest, "_UID="+strconv.Itoa(e.owner.uid))...))
	} else {
		items = append(items, program(host, "journal/workloads-newest-first.txt", "journalctl", append(newest, "--unit=flotta-workload@*")...))
	}
	return append(items, program(host, "journal/kernel-newest-first.txt", "journalctl", append(newest, "--dmesg", "--priority=warning")...))
}

// containers are what Podman knows.
func (e *Examination) containers(host doctor.Host) []bundle.Item {
	ask := func(item, path string) bundle.Item {
		return bundle.Item{Name: item, Kind: bundle.KindDocument, Collect: func(ctx context.Context) ([]byte, error) {
			return e.podman(ctx, host, path)
		}}
	}
	return []bundle.Item{
		ask("podman/version.json", "version"),
		ask("podman/info.json", "info"),
		ask("podman/pods.json", "pods/json"),
		ask("podman/containers.json", "containers/json?all=true"),
		ask("podman/images.json", "images/json"),
		{Name: "podman/inspect.json", Kind: bundle.KindDocument, Collect: func(ctx context.Context) ([]byte, error) { return e.inspect(ctx, host) }},
	}
}

// inspect returns a list of all that Podman knows of each container.
func (e *Examination) inspect(ctx context.Context, host doctor.Host) ([]byte, error) {
	raw, err := e.podman(ctx, host, "containers/json?all=true")
	if err != nil {
		return nil, err
	}
	var list []struct{ ID string }
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("decode list of containers: %w", err)
	}
	var out []json.RawMessage
	var failures error
	for _, c := range list[:min(len(list), maxInspected)] {
		one, err := e.podman(ctx, host, "containers/"+url.PathEscape(c.ID)+"/json")
		if err != nil {
			failures = errors.Join(failures, err)
			continue
		}
		out = append(out, one)
	}
	text, err := json.Marshal(out)
	return text, errors.Join(failures, err)
}

// podman asks Podman for a document.
func (e *Examination) podman(ctx context.Context, host doctor.Host, path string) ([]byte, error) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return host.Dial(ctx, "unix", e.owner.podmanSocket())
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://podman/v4.0.0/libpod/"+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }() // it was read
	raw, err := io.ReadAll(io.LimitReader(response.Body, maxRead))
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("podman answers %s", response.Status)
	}
	return raw, nil
}
