package site

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/project-flotta/flotta-agent/test/device"
	"github.com/project-flotta/flotta-agent/test/testenv"
)

// Where the device keeps its credentials: two files, as yggdrasil has them.
const (
	certFile = "/etc/pki/flotta/cert.pem"
	keyFile  = "/etc/pki/flotta/key.pem"
	caFile   = "/etc/pki/flotta/ca.pem"
)

// Transport is what carries the messages of a device.
type Transport string

// The transports.
const (
	Yggd   Transport = "yggd"   // the agent is a worker of yggd
	Direct Transport = "direct" // the agent is a service of its own
)

// EdgeConfig describes a device of the site.
type EdgeConfig struct {
	Transport Transport // Yggd when empty
	// Settings is the text of /etc/flotta/agent.toml; DefaultSettings when empty.
	Settings string
	// Agent is the agent's program; that of the build when empty.
	Agent string
	// WorkerEnv is added to the agent's environment, as NAME=value.
	WorkerEnv []string
	// Bare and Packages are those of device.Config. The agent and the settings of
	// yggd for it are then the package's, and on a Bare device the Service is not
	// started.
	Bare     bool
	Packages []string
	// Cgroup, Limits, Memory and Console are those of device.Config.
	Memory int64
	// Ostree is that of device.Config.
	Ostree bool
	// NoMachineID is that of device.Config. Nobody tells the agent of a Direct
	// device then what it is called.
	NoMachineID bool
	Cgroup      device.Cgroup
	Limits      map[string]int64
	Console     io.Writer
}

// DefaultSettings make the agent quicker than a fleet needs it, and tests short.
const DefaultSettings = `log-level = "debug"
[runtime]
settle = "1s"
[sync]
interval = "2s"
[identity]
retry = "1s"
`

// Edge is a device that runs the agent.
type Edge struct {
	*device.Device
	Transport Transport
	site      *Site
}

// Service is the unit that the agent runs in.
func (e *Edge) Service() string {
	if e.Transport == Direct {
		return "flotta-agent.service"
	}
	return "yggd.service"
}

// Carrier is a regular expression for the command line of what speaks to the
// Edge API.
func (e *Edge) Carrier() string {
	if e.Transport == Direct {
		return "^/usr/bin/flotta-agent"
	}
	return "^/usr/sbin/yggd"
}

// NewEdge boots a device that asks this site to manage it.
func (s *Site) NewEdge(ctx context.Context, cfg EdgeConfig) (*Edge, error) {
	id := device.NewID()
	if cfg.Transport == "" {
		cfg.Transport = Yggd
	}
	files, err := s.files(id, cfg)
	if err != nil {
		return nil, fmt.Errorf("make device: %w", err)
	}
	d, err := device.Boot(ctx, device.Config{
		ID: id, Files: files, Hosts: []string{EdgeName, S3Name}, Limits: cfg.Limits, Console: cfg.Console, Cgroup: cfg.Cgroup,
		Memory: cfg.Memory, NoMachineID: cfg.NoMachineID, Ostree: cfg.Ostree, Bare: cfg.Bare, Packages: cfg.Packages,
	})
	if err != nil {
		return nil, err
	}
	s.onClose(d.Close)
	return &Edge{Device: d, Transport: cfg.Transport, site: s}, nil
}

func (s *Site) files(id string, cfg EdgeConfig) (map[string]device.File, error) {
	cert, key, err := s.registerPair()
	if err != nil {
		return nil, err
	}
	if cfg.Agent == "" {
		cfg.Agent = filepath.Join(s.bin, "flotta-agent")
	}
	if cfg.Settings == "" {
		cfg.Settings = DefaultSettings
	}
	files := map[string]device.File{
		"/usr/bin/flotta-agent":    {Source: cfg.Agent, Mode: 0o755},
		"/etc/yggdrasil/tags.toml": {Content: fmt.Appendf(nil, "namespace = %q\n", s.Namespace)},
		"/etc/flotta/agent.toml":   {Content: []byte(cfg.Settings)},
		certFile:                   {Content: cert, Mode: 0o600},
		keyFile:                    {Content: key, Mode: 0o600},
		caFile:                     {Source: s.Bootstrap("ca.pem")},
	}
	carrier, err := s.carrierFiles(id, cfg)
	if err != nil {
		return nil, err
	}
	maps.Copy(files, carrier)
	if cfg.Bare || len(cfg.Packages) > 0 { // the package brings them
		delete(files, "/usr/bin/flotta-agent")
		delete(files, "/etc/yggdrasil/workers/device.toml")
	}
	if cfg.Bare {
		delete(files, "/etc/flotta/agent.toml")
		delete(files, "/etc/systemd/system/multi-user.target.wants/yggd.service")
		delete(files, "/etc/systemd/system/multi-user.target.wants/flotta-agent.service")
	}
	return files, nil
}

// carrierFiles are what the transport needs.
func (s *Site) carrierFiles(id string, cfg EdgeConfig) (map[string]device.File, error) {
	if cfg.Transport == Direct {
		return s.directFiles(id, cfg), nil
	}
	return s.yggdFiles(id, cfg)
}

// directFiles are for an agent that is a service of its own.
func (s *Site) directFiles(id string, cfg EdgeConfig) map[string]device.File {
	const unit = "/etc/systemd/system/"
	server := fmt.Sprintf("[server]\naddress = %q\ncert-file = %q\nkey-file = %q\nca-files = [%q]\ndevice-id = %q\n", s.server(), certFile, keyFile, caFile, id)
	if cfg.NoMachineID {
		server = strings.ReplaceAll(server, fmt.Sprintf("device-id = %q\n", id), "")
	}
	var env strings.Builder
	env.WriteString("[Service]\nRestartSec=1\n")
	for _, e := range cfg.WorkerEnv {
		env.WriteString("Environment=" + strconv.Quote(e) + "\n")
	}
	return map[string]device.File{
		"/etc/flotta/agent.toml.d/50-server.toml":             {Content: []byte(server)},
		unit + "flotta-agent.service.d/test.conf":             {Content: []byte(env.String())},
		unit + "multi-user.target.wants/flotta-agent.service": {Link: "/usr/lib/systemd/system/flotta-agent.service"},
	}
}

// yggdFiles are for an agent that is a worker of yggd.
func (s *Site) yggdFiles(id string, cfg EdgeConfig) (map[string]device.File, error) {
	yggd, err := testenv.FindTool("yggd")
	if err != nil {
		return nil, err
	}
	root, err := testenv.Root()
	if err != nil {
		return nil, err
	}
	worker, err := os.ReadFile(filepath.Join(root, "config/yggdrasil/device.toml"))
	if err != nil {
		return nil, err
	}
	return map[string]device.File{
		"/usr/sbin/yggd":                                           {Source: yggd, Mode: 0o755},
		"/etc/yggdrasil/config.toml":                               {Content: []byte(s.yggdConfig(id))},
		"/etc/yggdrasil/workers/device.toml":                       {Content: []byte(withEnv(string(worker), cfg.WorkerEnv))},
		"/etc/systemd/system/yggd.service":                         device.YggdUnit(),
		"/etc/systemd/system/multi-user.target.wants/yggd.service": {Link: "../yggd.service"},
	}, nil
}

// server is where the Edge API is for a device.
func (s *Site) server() string { return EdgeName + ":" + strconv.Itoa(s.APIPath.Port()) }

func (s *Site) yggdConfig(id string) string {
	return fmt.Sprintf(`protocol = "http"
server = "%s"
path-prefix = "api/flotta-management/v1"
client-id = %q
cert-file = %q
key-file = %q
ca-root = [%q]
log-level = "debug"
`, s.server(), id, certFile, keyFile, caFile)
}

func withEnv(worker string, env []string) string {
	if len(env) == 0 {
		return worker
	}
	quoted := make([]string, 0, len(env))
	for _, e := range env {
		quoted = append(quoted, strconv.Quote(e))
	}
	return strings.Replace(worker, "env = []", "env = ["+strings.Join(quoted, ", ")+"]", 1)
}

// registerPair splits the credential for newcomers into its two files.
func (s *Site) registerPair() (cert, key []byte, err error) {
	raw, err := os.ReadFile(s.Bootstrap("client.pem"))
	if err != nil {
		return nil, nil, err
	}
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			cert = append(cert, pem.EncodeToMemory(block)...)
		} else {
			key = append(key, pem.EncodeToMemory(block)...)
		}
	}
	if cert == nil || key == nil {
		return nil, nil, errors.New("bootstrap credential has no certificate or no key")
	}
	return cert, key, nil
}

// Enrol waits until the device has asked, approves it, and waits until it is
// registered.
func (e *Edge) Enrol(ctx context.Context) error {
	if err := Until(ctx, time.Minute, func() error {
		if !e.site.Requested(e.ID()) {
			return fmt.Errorf("device %s has not asked to be managed", e.ID())
		}
		return nil
	}); err != nil {
		return err
	}
	if err := e.site.Approve(ctx, e.ID()); err != nil {
		return err
	}
	return e.Registered(ctx)
}

// Registered waits until the Edge API has registered the device.
func (e *Edge) Registered(ctx context.Context) error {
	return Until(ctx, time.Minute, func() error { return e.Condition("Registered") })
}

// Condition returns nil when that condition of the device is true.
func (e *Edge) Condition(name string) error {
	d, err := e.site.Device(e.ID())
	if err != nil {
		return err
	}
	for _, c := range d.Status.Conditions {
		if c.Type == name && c.Status == "True" {
			return nil
		}
	}
	return fmt.Errorf("condition %s of %s is not true: %+v", name, e.ID(), d.Status.Conditions)
}

// Podman runs Podman as the user of the workloads.
func (e *Edge) Podman(ctx context.Context, args ...string) (string, error) {
	r, err := e.RunAs(ctx, device.User, slices.Concat([]string{"podman"}, args)...)
	return strings.TrimSpace(r.Stdout), err
}

// UserUnit runs systemctl --user as the user of the workloads.
func (e *Edge) UserUnit(ctx context.Context, args ...string) (string, error) {
	r, err := e.RunAs(ctx, device.User, slices.Concat([]string{"systemctl", "--user"}, args)...)
	return strings.TrimSpace(r.Stdout), err
}

// Container returns the id of a running container of a workload, or why there is
// none.
func (e *Edge) Container(ctx context.Context, workload, container string) (string, error) {
	out, err := e.Podman(ctx, "ps", "--no-trunc", "--filter", "status=running", "--filter", "name=^"+workload+"-"+container+"$", "--format", "{{.ID}}")
	if err == nil && out == "" {
		return "", fmt.Errorf("container %s of %s does not run", container, workload)
	}
	return out, err
}

// Phase returns the state of a workload as the Edge API knows it; empty when it
// knows none.
func (e *Edge) Phase(workload string) string {
	d, err := e.site.Device(e.ID())
	if err != nil {
		return ""
	}
	for _, w := range d.Status.Workloads {
		if w.Name == workload {
			return w.Phase
		}
	}
	return ""
}

// Export is the folder on the device that a workload sees as /export.
func Export(workload string) string { return "/var/local/yggdrasil/device/volumes/" + workload }
