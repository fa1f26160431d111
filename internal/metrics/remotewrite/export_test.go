package remotewrite

import (
	"net/http"
	"time"
)

// Understand is what Send makes of an answer.
func (c *Client) Understand(resp *http.Response, now time.Time) Answer {
	return classify(c.redacted, resp, readText(resp.Body), now)
}
