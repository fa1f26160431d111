package podman

import (
	"context"
	"fmt"
	"net/http"
)

// Store is where Podman keeps images and containers.
type Store struct {
	Root         string `json:"graphRoot"`       // absolute path
	TemporaryDir string `json:"imageCopyTmpDir"` // where a pull puts what it downloads
}

// Store asks Podman where it keeps things.
func (c *Client) Store(ctx context.Context) (Store, error) {
	var out struct {
		Store Store `json:"store"`
	}
	if err := c.call(ctx, request{method: http.MethodGet, path: "/info"}, &out); err != nil {
		return Store{}, fmt.Errorf("read podman info: %w", err)
	}
	return out.Store, nil
}
