package remotewrite

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Outcome is what became of a request.
type Outcome int

// The outcomes. After OutOfOrder, TooOld and Malformed the receiver may have
// taken none of the samples although only one of them is meant, as Prometheus
// does: what is sent again in smaller requests shows which.
const (
	Failed     Outcome = iota // not delivered; to be sent again, later
	Delivered                 // the receiver has it
	OutOfOrder                // the receiver has this or newer samples of a series
	TooOld                    // the receiver takes no samples of that time
	Malformed                 // something in it is not to the receiver's taste, or it is too large
	Refused                   // the receiver takes nothing like this from us
)

func (o Outcome) String() string {
	switch o {
	case Delivered:
		return "delivered"
	case OutOfOrder:
		return "out of order"
	case TooOld:
		return "too old"
	case Malformed:
		return "malformed"
	case Refused:
		return "refused"
	default:
		return "failed"
	}
}

// Answer is what a receiver said to a request, or why it said nothing.
type Answer struct {
	Outcome    Outcome
	RetryAfter time.Duration // asked for by the receiver, at most 15 minutes; 0: not asked for
	Slow       bool          // Failed because the time was up on a connection: a smaller request may get through
	Err        error         // nil when Delivered
}

// maxRetryAfter bounds what a receiver can ask for: one that names the year 9999
// must not end the delivery.
const maxRetryAfter = 15 * time.Minute

// classify says what an answer means. All that is not known for sure is Failed:
// it loses nothing.
func classify(address string, resp *http.Response, text string, now time.Time) Answer {
	code := resp.StatusCode
	portal := strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html")
	if code >= 200 && code < 300 && !portal {
		return Answer{Outcome: Delivered}
	}
	a := Answer{Err: fmt.Errorf("write to %s: the receiver answers %d %s", address, code, http.StatusText(code))}
	if text = strings.TrimSpace(text); text != "" {
		a.Err = fmt.Errorf("%w: %q", a.Err, text)
	}
	switch {
	case code < 300:
		a.Err = fmt.Errorf("%w: a web page is the answer of somebody else, such as the portal of a network", a.Err)
	case code >= 300 && code < 400:
		a.Err = fmt.Errorf("%w: redirects are not followed, configure the address it leads to%s", a.Err, place(resp))
	case code == http.StatusTooManyRequests, code >= 500:
		a.RetryAfter = retryAfter(resp.Header, now)
	case code == http.StatusBadRequest, code == http.StatusConflict, code == http.StatusUnprocessableEntity:
		a.Outcome = complaint(code, strings.ToLower(text))
	case code == http.StatusRequestEntityTooLarge:
		a.Outcome = Malformed
	case code >= 400:
		a.Outcome = Refused
	}
	return a
}

// complaint reads the text of a receiver that does not like the samples. There
// is no standard; these are the words of Prometheus, Mimir, Cortex and Thanos,
// the last of which says 409 without many words.
func complaint(code int, text string) Outcome {
	has := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(text, w) {
				return true
			}
		}
		return false
	}
	switch {
	case has("out of order", "out-of-order", "duplicate sample", "duplicate-timestamp"):
		return OutOfOrder
	case has("out of bounds", "too old", "too-old"):
		return TooOld
	case code == http.StatusConflict:
		return OutOfOrder
	}
	return Malformed
}

// place says where a redirect leads, without user, password and query.
func place(resp *http.Response) string {
	to, err := resp.Location()
	if err != nil {
		return ""
	}
	return " (" + (&url.URL{Scheme: to.Scheme, Host: to.Host, Path: to.Path}).String() + ")"
}

// retryAfter reads seconds or a date. A date is compared with the receiver's own
// clock when it tells it, as the device's may be years off.
func retryAfter(h http.Header, now time.Time) time.Duration {
	text := strings.TrimSpace(h.Get("Retry-After"))
	if seconds, err := strconv.ParseInt(text, 10, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(min(max(seconds, 0), int64(maxRetryAfter/time.Second))) * time.Second
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}
