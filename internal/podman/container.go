package podman

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// ContainerSummary is one entry of a container list.
type ContainerSummary struct {
	ID        string            `json:"Id"`
	Names     []string          `json:"Names"`
	Image     string            `json:"Image"`
	ImageID   string            `json:"ImageID"`
	State     string            `json:"State"`
	Health    string            `json:"Status"` // of its health check; empty without one
	PodID     string            `json:"Pod"`
	PodName   string            `json:"PodName"`
	Infra     bool              `json:"IsInfra"`
	PID       int               `json:"Pid"` // of its first process; of the past when it does not run
	ExitCode  int32             `json:"ExitCode"`
	Created   time.Time         `json:"Created"`
	StartedAt UnixTime          `json:"StartedAt"`
	Labels    map[string]string `json:"Labels"`
}

// UnixTime is a time that the wire carries as seconds since 1970.
type UnixTime struct{ time.Time }

// UnmarshalJSON accepts an integer, and null as the zero time.
func (t *UnixTime) UnmarshalJSON(raw []byte) error {
	var seconds int64
	if err := json.Unmarshal(raw, &seconds); err != nil {
		return err
	}
	t.Time = time.Time{}
	if seconds > 0 {
		t.Time = time.Unix(seconds, 0).UTC()
	}
	return nil
}

// Containers lists the containers, running or not, that carry label, given as
// key or key=value; all of them when it is empty. Infra and service containers
// carry no pod's labels.
func (c *Client) Containers(ctx context.Context, label string) ([]ContainerSummary, error) {
	query := url.Values{"all": {"true"}}
	if label != "" {
		f, err := filters(map[string][]string{"label": {label}})
		if err != nil {
			return nil, fmt.Errorf("list containers: %w", err)
		}
		query.Set("filters", f)
	}
	var list []ContainerSummary
	r := request{method: http.MethodGet, path: "/containers/json", query: query}
	if err := c.call(ctx, r, &list); err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	return list, nil
}

// Container is what an inspection shows.
type Container struct {
	ID           string         `json:"Id"`
	Name         string         `json:"Name"`
	PodID        string         `json:"Pod"`
	ImageID      string         `json:"Image"`
	ImageName    string         `json:"ImageName"`
	ImageDigest  string         `json:"ImageDigest"`
	RestartCount int            `json:"RestartCount"` // by Podman's restart policy
	Created      time.Time      `json:"Created"`
	State        ContainerState `json:"State"`
	Host         HostConfig     `json:"HostConfig"`
	Mounts       []Mount        `json:"Mounts"`
}

// Mount is what a container sees of the host, or of a volume, in a place of its own.
type Mount struct {
	Type        string `json:"Type"`   // bind, volume …
	Source      string `json:"Source"` // path on the host, as it was given
	Destination string `json:"Destination"`
}

// HostConfig is what a container was given of the host.
type HostConfig struct {
	// NetworkMode is host, container:<ID> for one that shares another's, or the
	// kind of a network of its own, such as bridge.
	NetworkMode string    `json:"NetworkMode"`
	Log         LogConfig `json:"LogConfig"`
	// PortBindings are the published ports, by port and protocol of the container.
	PortBindings map[string][]PortBinding `json:"PortBindings"`
}

// PortBinding is where the host publishes a port.
type PortBinding struct {
	HostIP   string `json:"HostIp"` // empty: everywhere
	HostPort string `json:"HostPort"`
}

// LogConfig says where a container's output goes.
type LogConfig struct {
	Driver string `json:"Type"` // journald, k8s-file, none …
	Path   string `json:"Path"` // of the driver's file; empty for a driver without one
}

// ContainerState is a container's life so far.
type ContainerState struct {
	Status     string    `json:"Status"`
	Running    bool      `json:"Running"`
	PID        int       `json:"Pid"` // 0 when it does not run
	OOMKilled  bool      `json:"OOMKilled"`
	ExitCode   int32     `json:"ExitCode"`
	Error      string    `json:"Error"`
	StartedAt  time.Time `json:"StartedAt"`  // the last start
	FinishedAt time.Time `json:"FinishedAt"` // the last exit; year 1 before the first
	Health     Health    `json:"Health"`
}

// Health is the verdict of a container's health check; Status is empty without
// one, else starting, healthy or unhealthy.
type Health struct {
	Status string `json:"Status"`
}

// Container inspects one container by name or ID; ErrNotFound when there is
// none.
func (c *Client) Container(ctx context.Context, name string) (Container, error) {
	var out Container
	r := request{method: http.MethodGet, path: "/containers/" + url.PathEscape(name) + "/json"}
	if err := c.call(ctx, r, &out); err != nil {
		return Container{}, fmt.Errorf("inspect container %s: %w", name, err)
	}
	return out, nil
}

// RemoveContainer removes a container that does not run; ErrNotFound when there is
// none. One that runs is an error.
func (c *Client) RemoveContainer(ctx context.Context, name string) error {
	r := request{method: http.MethodDelete, path: "/containers/" + url.PathEscape(name)}
	if err := c.call(ctx, r, nil); err != nil {
		return fmt.Errorf("remove container %s: %w", name, err)
	}
	return nil
}
