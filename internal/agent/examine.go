package agent

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/project-flotta/flotta-agent/internal/doctor"
	"github.com/project-flotta/flotta-agent/internal/durable"
	"github.com/project-flotta/flotta-agent/internal/logs/syslog"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// ExaminePaths names the files that say what a device is to be. An empty path is
// the usual one.
type ExaminePaths struct {
	Config string // settings of the agent
	Yggd   string // folder of yggdrasil's settings
}

// Examination is what a device is to be, read from its files: the agent may be
// running meanwhile, or not at all. Nothing is changed by it.
type Examination struct {
	paths   ExaminePaths
	cfg     Config
	owner   account
	alone   bool                                // it does without yggdrasil
	yggd    yggdSettings                        // or what else says so
	message protocol.DeviceConfigurationMessage // empty: the device was told nothing
	raw     []byte                              // of the message
	trouble []doctor.Trouble
}

// yggdSettings are what yggdrasil's configuration says of the connection.
type yggdSettings struct {
	ClientID string `toml:"client-id"`
	CertFile string `toml:"cert-file"`
	KeyFile  string `toml:"key-file"`
	CARoot   any    `toml:"ca-root"` // a list; a single name is understood
	Server   string `toml:"server"`
	Password string `toml:"password"`
}

// Examine reads what there is. What cannot be read is in the Subject.
func Examine(paths ExaminePaths) *Examination {
	setDefault(&paths.Config, DefaultConfigPath)
	setDefault(&paths.Yggd, "/etc/yggdrasil")
	e := &Examination{paths: paths, cfg: Config{}.withDefaults()}
	if cfg, err := LoadConfig(paths.Config); err != nil {
		e.fault(paths.Config, err, "correct the setting; the agent does not start with it")
	} else {
		e.cfg = cfg
	}
	owner, err := runtimeAccount(e.cfg.Runtime)
	if err != nil {
		owner.uid = -1 // not root
		e.fault("/etc/passwd", err, "install the package anew, or run systemd-sysusers")
	}
	e.owner = owner
	if server := e.cfg.Server; server.Address != "" {
		e.direct(server)
	} else if raw, err := os.ReadFile(e.yggdFile()); err != nil {
		e.fault(e.yggdFile(), err, "configure yggdrasil, or the section [server] of the agent's settings: where the control plane is, and with which certificate to go there")
	} else if err := toml.Unmarshal(raw, &e.yggd); err != nil {
		e.fault(e.yggdFile(), errors.New("it is not TOML"), "correct it; yggd does not start with it")
	}
	if err := e.told(); err != nil {
		e.fault(e.desiredFile(), err, "the agent sets a broken file aside and asks for it again")
	}
	return e
}

// direct takes the connection of an agent that does without yggdrasil.
func (e *Examination) direct(server ServerConfig) {
	e.alone = true
	id, err := knownDeviceID(e.cfg, machineID)
	if err != nil {
		e.fault(e.paths.Config, err, "set server.device-id")
	}
	roots := make([]any, 0, len(server.CAFiles))
	for _, path := range server.CAFiles {
		roots = append(roots, path)
	}
	e.yggd = yggdSettings{ClientID: id, CertFile: server.CertFile, KeyFile: server.KeyFile, CARoot: roots, Server: server.Address}
}

// service is the unit that the agent runs in.
func (e *Examination) service() string {
	if e.alone {
		return "flotta-agent.service"
	}
	return "yggd.service"
}

func (e *Examination) yggdFile() string { return filepath.Join(e.paths.Yggd, "config.toml") }
func (e *Examination) workerFile() string {
	if e.alone {
		return ""
	}
	return filepath.Join(e.paths.Yggd, "workers", "device.toml")
}

// dropIns are the paths of those of the agent's settings.
func (e *Examination) dropIns() []string {
	paths, _ := dropIns(e.paths.Config) // that they cannot be read was told before
	return paths
}

func (e *Examination) desiredFile() string { return filepath.Join(e.cfg.StateDir, "desired.json") }

func (e *Examination) fault(path string, err error, advice string) {
	if errors.Is(err, fs.ErrPermission) {
		advice = "run this as root"
	}
	e.trouble = append(e.trouble, doctor.Trouble{Path: path, Problem: err.Error(), Advice: advice})
}

// told reads what the control plane told the device last. That it told nothing
// yet is no error.
func (e *Examination) told() error {
	var record struct {
		Message json.RawMessage `json:"message"`
	}
	err := durable.LoadDocument(e.desiredFile(), "desired-state", 1, &record)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case len(record.Message) == 0: // the device was told to leave
		return nil
	}
	e.raw = record.Message
	if err := json.Unmarshal(record.Message, &e.message); err != nil {
		return errors.New("it is not a configuration that this version reads")
	}
	return nil
}

// DeviceID is what the settings of the connection call the device; empty: nothing.
func (e *Examination) DeviceID() string { return e.yggd.ClientID }

// Subject is what a doctor has to look at.
func (e *Examination) Subject() doctor.Subject {
	return doctor.Subject{
		Root: e.owner.uid == 0, User: e.cfg.Runtime.User, UID: e.owner.uid,
		StateDir: e.cfg.StateDir, ContainerStore: e.owner.containerStore(), PodmanSocket: e.owner.podmanSocket(),
		Service: e.service(), WorkerFile: e.workerFile(),
		Credential: doctor.Credential{CertFile: e.yggd.CertFile, KeyFile: e.yggd.KeyFile, CAFiles: e.authorities()},
		Endpoints:  e.endpoints(),
		Trouble:    e.trouble,
	}
}

// authorities are the files whose certificates are trusted for the Edge API.
func (e *Examination) authorities() []string {
	var out []string
	switch roots := e.yggd.CARoot.(type) {
	case string:
		out = append(out, roots)
	case []any:
		for _, root := range roots {
			out = append(out, fmt.Sprint(root))
		}
	}
	return slices.DeleteFunc(out, func(path string) bool { return path == "" })
}

// endpoints are all servers that the device has to reach.
func (e *Examination) endpoints() []doctor.Endpoint {
	var out []doctor.Endpoint
	if e.yggd.Server != "" {
		address := e.yggd.Server
		if u, err := url.Parse(address); err == nil && u.Host != "" {
			address = u.Host
		}
		out = append(out, doctor.Endpoint{Name: "Edge API", Network: "tcp", Address: withPort(address, 443), TLS: true, Device: true})
	}
	c := e.message.Configuration
	if c == nil {
		return out
	}
	if c.Storage != nil && c.Storage.S3 != nil && c.Storage.S3.BucketHost != "" {
		out = append(out, bucketEndpoint(*c.Storage.S3))
	}
	if c.Metrics != nil && c.Metrics.Receiver != nil && c.Metrics.Receiver.URL != "" {
		out = append(out, receiverEndpoint(*c.Metrics.Receiver))
	}
	for _, name := range slices.Sorted(maps.Keys(c.LogCollection)) {
		if target := c.LogCollection[name].SyslogConfig; target != nil {
			out = append(out, syslogEndpoint(name, *target))
		}
	}
	return out
}

func bucketEndpoint(s protocol.S3StorageConfiguration) doctor.Endpoint {
	scheme, host, found := strings.Cut(s.BucketHost, "://")
	if !found {
		scheme, host = "https", s.BucketHost
	}
	port, plain := 443, strings.EqualFold(scheme, "http")
	if plain {
		port = 80
	}
	if s.BucketPort != 0 {
		port = int(s.BucketPort)
	}
	host = strings.Trim(host, "[]")
	out := doctor.Endpoint{Name: "bucket", Network: "tcp", Address: net.JoinHostPort(host, strconv.Itoa(port)), TLS: !plain}
	out.Roots, _ = decodeText(s.AWSCABundle) // the agent's own problems name it
	return out
}

func receiverEndpoint(r protocol.MetricsReceiverConfiguration) doctor.Endpoint {
	out := doctor.Endpoint{Name: "metrics receiver", Network: "tcp", Roots: []byte(r.CACert)}
	u, err := url.Parse(r.URL)
	if err != nil || u.Host == "" {
		out.Address = "?" // no address, as will be found; the text may hold a password
		return out
	}
	out.TLS = strings.EqualFold(u.Scheme, "https")
	port := 80
	if out.TLS {
		port = 443
	}
	out.Address = withPort(u.Host, port)
	return out
}

func syslogEndpoint(name string, s protocol.SyslogConfig) doctor.Endpoint {
	out := doctor.Endpoint{Name: "log target " + name, Network: "tcp", Address: s.Address}
	target, err := syslog.Settings{Address: s.Address, Protocol: s.Protocol}.Target()
	if err != nil {
		return out // which doctor says of the address
	}
	out.Address = target.Address
	switch target.Protocol {
	case syslog.UDP:
		out.Network = "udp"
	case syslog.TLS:
		out.TLS, out.Roots = true, []byte(s.CACert)
		if s.ClientCert != "" || s.ClientKey != "" {
			out.Pair = func() (tls.Certificate, error) { return tls.X509KeyPair([]byte(s.ClientCert), []byte(s.ClientKey)) }
		}
	}
	return out
}

// withPort adds a port to an address without one.
func withPort(address string, port int) string {
	if _, _, err := net.SplitHostPort(address); err == nil {
		return address
	}
	return net.JoinHostPort(strings.Trim(address, "[]"), strconv.Itoa(port))
}
