package podman

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// maxLine bounds one line of a stream.
const maxLine = 1 << 20

// ImageExists reports whether the image is in local storage. A name that is no
// image reference does not exist.
func (c *Client) ImageExists(ctx context.Context, reference string) (bool, error) {
	r := request{method: http.MethodGet, path: "/images/" + url.PathEscape(reference) + "/exists"}
	err := c.call(ctx, r, nil)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, ErrNotFound):
		return false, nil
	default:
		return false, fmt.Errorf("look up image %s: %w", reference, err)
	}
}

// Image is an image in local storage.
type Image struct {
	ID         string   `json:"Id"`
	Names      []string `json:"RepoTags"` // with tags; may hold digests too
	Digests    []string `json:"RepoDigests"`
	Size       int64    `json:"Size"`       // bytes, with the layers that it shares
	Containers int      `json:"Containers"` // made from it; a list tells, an inspection does not
}

// Image inspects one image by reference or ID; ErrNotFound when there is none.
func (c *Client) Image(ctx context.Context, reference string) (Image, error) {
	var out Image
	r := request{method: http.MethodGet, path: "/images/" + url.PathEscape(reference) + "/json"}
	if err := c.call(ctx, r, &out); err != nil {
		return Image{}, fmt.Errorf("inspect image %s: %w", reference, err)
	}
	return out, nil
}

// Images lists all images but those that are only steps of others.
func (c *Client) Images(ctx context.Context) ([]Image, error) {
	var list []Image
	if err := c.call(ctx, request{method: http.MethodGet, path: "/images/json"}, &list); err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	return list, nil
}

// RemoveImage removes a name, and with its only name, or by its ID, the image;
// ErrNotFound when there is none. An image that a container uses, and by ID one
// with several names, is refused.
func (c *Client) RemoveImage(ctx context.Context, name string) error {
	r := request{
		method: http.MethodDelete, path: "/images/" + url.PathEscape(name),
		query: url.Values{"force": {"false"}},
	}
	if err := c.call(ctx, r, nil); err != nil {
		return fmt.Errorf("remove image %s: %w", name, err)
	}
	return nil
}

// Pull asks for one image.
type Pull struct {
	Reference string
	AuthFile  string            // content of a docker config JSON; empty: none
	Progress  func(line string) // called for each line Podman writes; may be nil
}

// PullImage pulls an image, also when it is in local storage already, and
// returns its ID. It takes as long as it takes, or until ctx ends; what was
// downloaded until then is kept by Podman.
func (c *Client) PullImage(ctx context.Context, p Pull) (string, error) {
	header := http.Header{}
	if p.AuthFile != "" {
		auth, err := registryAuth(p.AuthFile)
		if err != nil {
			return "", fmt.Errorf("pull image %s: auth file: %w", p.Reference, err)
		}
		header.Set("X-Registry-Auth", auth)
	}
	resp, err := c.send(ctx, request{
		method: http.MethodPost, path: "/images/pull", header: header,
		query: url.Values{"reference": {p.Reference}, "policy": {"always"}},
	})
	if err != nil {
		return "", fmt.Errorf("pull image %s: %w", p.Reference, err)
	}
	defer closeBody(resp)
	id, err := readPull(resp.Body, p.Progress)
	if err != nil {
		return "", fmt.Errorf("pull image %s: %w", p.Reference, err)
	}
	return id, nil
}

// readPull reads the report of a pull: JSON lines of progress, then either an
// error or the IDs. The status was 200 before Podman knew which.
func readPull(r io.Reader, progress func(string)) (string, error) {
	var id, failure string
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4096), maxLine)
	for lines.Scan() {
		var report struct {
			Stream string `json:"stream"`
			Error  string `json:"error"`
			ID     string `json:"id"`
		}
		raw := lines.Bytes()
		if len(raw) == 0 {
			continue
		}
		if err := json.Unmarshal(raw, &report); err != nil {
			return "", fmt.Errorf("decode progress: %w", err)
		}
		if text := strings.TrimSpace(report.Stream); text != "" && progress != nil {
			progress(text)
		}
		if report.Error != "" {
			failure = report.Error
		}
		if report.ID != "" {
			id = report.ID
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("read progress: %w", err)
	}
	if failure != "" {
		return "", &APIError{Cause: failure, Message: failure}
	}
	if id == "" {
		return "", io.ErrUnexpectedEOF
	}
	return id, nil
}

// registryAuth turns a docker config JSON into the header by which Podman takes
// the credentials of any number of registries for one call.
func registryAuth(authFile string) (string, error) {
	var file struct {
		Auths map[string]struct {
			Auth          string `json:"auth"`
			Username      string `json:"username"`
			Password      string `json:"password"`
			IdentityToken string `json:"identitytoken"`
		} `json:"auths"`
	}
	if err := json.Unmarshal([]byte(authFile), &file); err != nil {
		// The decoder's error may quote the secret.
		return "", errors.New("not a docker config JSON")
	}
	type credentials struct {
		Username      string `json:"username,omitempty"`
		Password      string `json:"password,omitempty"`
		IdentityToken string `json:"identitytoken,omitempty"`
	}
	out := make(map[string]credentials, len(file.Auths))
	for registry, entry := range file.Auths {
		cred := credentials{Username: entry.Username, Password: entry.Password, IdentityToken: entry.IdentityToken}
		if entry.Auth != "" {
			plain, err := base64.StdEncoding.DecodeString(entry.Auth)
			user, password, found := strings.Cut(string(plain), ":")
			if err != nil || !found {
				return "", fmt.Errorf("registry %s: auth is not base64 of user:password", registry)
			}
			// Docker pads the password with zero bytes.
			cred.Username, cred.Password = user, strings.TrimRight(password, "\x00")
		}
		out[registry] = cred
	}
	raw, err := json.Marshal(out)
	if err != nil {
		return "", errors.New("not a docker config JSON")
	}
	return base64.URLEncoding.EncodeToString(raw), nil
}
