package podman

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// Pod is one entry of a pod list.
type Pod struct {
	ID         string            `json:"Id"`
	Name       string            `json:"Name"`
	Status     string            `json:"Status"` // Created, Running, Exited, Degraded, Paused, Stopped, Dead …
	Created    time.Time         `json:"Created"`
	InfraID    string            `json:"InfraId"` // its container; empty without one
	Labels     map[string]string `json:"Labels"`
	Containers []PodContainer    `json:"Containers"`
}

// PodContainer is a container as a pod list shows it.
type PodContainer struct {
	ID     string `json:"Id"`
	Name   string `json:"Names"`
	Status string `json:"Status"` // created, running, exited, stopped, paused …
}

// Pods lists the pods that carry label, given as key or key=value, in Podman's
// order; all of them when it is empty.
func (c *Client) Pods(ctx context.Context, label string) ([]Pod, error) {
	query := url.Values{}
	if label != "" {
		f, err := filters(map[string][]string{"label": {label}})
		if err != nil {
			return nil, fmt.Errorf("list pods: %w", err)
		}
		query.Set("filters", f)
	}
	var pods []Pod
	r := request{method: http.MethodGet, path: "/pods/json", query: query}
	if err := c.call(ctx, r, &pods); err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	return pods, nil
}

// RemovePod kills and removes the pod with its containers; ErrNotFound when
// there is none.
func (c *Client) RemovePod(ctx context.Context, name string) error {
	r := request{
		method: http.MethodDelete, path: "/pods/" + url.PathEscape(name),
		query: url.Values{"force": {"true"}},
	}
	if err := c.call(ctx, r, nil); err != nil {
		return fmt.Errorf("remove pod %s: %w", name, err)
	}
	return nil
}

// UnpausePod lets the paused containers of the pod run again; ErrNotFound when
// there is no such pod. Those that run already are left as they are.
func (c *Client) UnpausePod(ctx context.Context, name string) error {
	r := request{method: http.MethodPost, path: "/pods/" + url.PathEscape(name) + "/unpause"}
	if err := c.call(ctx, r, nil); err != nil {
		return fmt.Errorf("unpause pod %s: %w", name, err)
	}
	return nil
}
