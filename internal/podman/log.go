package podman

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// maxLogTail bounds what is read of a container's log for one tail.
const maxLogTail = 1 << 20

// Logs returns up to lines of the last lines that the container wrote to
// standard output and standard error, without their line ends; ErrNotFound when
// there is no such container.
func (c *Client) Logs(ctx context.Context, container string, lines int) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	resp, err := c.send(ctx, request{
		method: http.MethodGet, path: "/containers/" + url.PathEscape(container) + "/logs",
		query: url.Values{
			"stdout": {"true"}, "stderr": {"true"}, "follow": {"false"},
			"tail": {strconv.Itoa(lines)},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("read logs of %s: %w", container, err)
	}
	defer closeBody(resp)
	out, err := readFrames(io.LimitReader(resp.Body, maxLogTail), lines)
	if err != nil {
		return nil, fmt.Errorf("read logs of %s: %w", container, err)
	}
	return out, nil
}

// readFrames takes apart the multiplexed stream: a header of eight bytes, the
// stream's number in the first and the length in the last four, then that many
// bytes. It keeps the last lines of the text, at most limit.
func readFrames(r io.Reader, limit int) ([]string, error) {
	var text strings.Builder
	var header [8]byte
	for {
		if _, err := io.ReadFull(r, header[:]); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				break
			}
			return nil, err
		}
		if header[0] > 2 {
			return nil, fmt.Errorf("decode log frame: stream number %d", header[0])
		}
		size := int64(binary.BigEndian.Uint32(header[4:]))
		if _, err := io.CopyN(&text, r, size); err != nil {
			if errors.Is(err, io.EOF) {
				break // cut by the bound or by Podman; what came is worth showing
			}
			return nil, err
		}
	}
	all := strings.Split(strings.TrimRight(text.String(), "\n"), "\n")
	if len(all) == 1 && all[0] == "" {
		return nil, nil
	}
	return all[max(0, len(all)-limit):], nil
}
