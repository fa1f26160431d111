package podman

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// Secret is a Podman secret without its data.
type Secret struct {
	ID      string
	Name    string
	Labels  map[string]string // none before Podman 4.3, whose lists lack them too
	Created time.Time
}

type wireSecret struct {
	ID        string    `json:"ID"`
	CreatedAt time.Time `json:"CreatedAt"`
	Spec      struct {
		Name   string            `json:"Name"`
		Labels map[string]string `json:"Labels"`
	} `json:"Spec"`
}

func (w wireSecret) secret() Secret {
	return Secret{ID: w.ID, Name: w.Spec.Name, Labels: w.Spec.Labels, Created: w.CreatedAt}
}

// Secrets lists all of the user's secrets.
func (c *Client) Secrets(ctx context.Context) ([]Secret, error) {
	var list []wireSecret
	if err := c.call(ctx, request{method: http.MethodGet, path: "/secrets/json"}, &list); err != nil {
		return nil, fmt.Errorf("list secrets: %w", err)
	}
	out := make([]Secret, 0, len(list))
	for _, w := range list {
		out = append(out, w.secret())
	}
	return out, nil
}

// Secret inspects one secret by name; ErrNotFound when there is none.
func (c *Client) Secret(ctx context.Context, name string) (Secret, error) {
	var w wireSecret
	r := request{method: http.MethodGet, path: "/secrets/" + url.PathEscape(name) + "/json"}
	if err := c.call(ctx, r, &w); err != nil {
		return Secret{}, fmt.Errorf("inspect secret %s: %w", name, err)
	}
	return w.secret(), nil
}

// NewSecret is a secret to be made.
type NewSecret struct {
	Name   string
	Data   []byte            // 1 to 511,999 bytes
	Labels map[string]string // which Podman before 4.3 leaves out
}

// CreateSecret stores a secret; ErrExists when the name is taken, whatever its
// data.
func (c *Client) CreateSecret(ctx context.Context, s NewSecret) error {
	name := s.Name
	query := url.Values{"name": {name}, "driver": {"file"}}
	if len(s.Labels) > 0 {
		labels, err := json.Marshal(s.Labels)
		if err != nil {
			return fmt.Errorf("create secret %s: labels: %w", name, err)
		}
		query.Set("labels", string(labels))
	}
	r := request{method: http.MethodPost, path: "/secrets/create", query: query, body: s.Data}
	err := c.call(ctx, r, nil)
	if err == nil {
		return nil
	}
	if _, refused := errors.AsType[*APIError](err); refused {
		// Podman answers a taken name with a general 500: look, rather than
		// read its prose.
		if _, inspectErr := c.Secret(ctx, name); inspectErr == nil {
			return fmt.Errorf("create secret %s: %w", name, ErrExists)
		}
	}
	return fmt.Errorf("create secret %s: %w", name, err)
}

// RemoveSecret removes the secret; ErrNotFound when there is none.
func (c *Client) RemoveSecret(ctx context.Context, name string) error {
	r := request{method: http.MethodDelete, path: "/secrets/" + url.PathEscape(name)}
	if err := c.call(ctx, r, nil); err != nil {
		return fmt.Errorf("remove secret %s: %w", name, err)
	}
	return nil
}
