package scrape

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// accept asks for the best of the two formats, as Prometheus does.
const accept = "application/openmetrics-text;version=1.0.0;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5," +
	"text/plain;version=0.0.4;q=0.4,*/*;q=0.1"

const maxRedirects = 3

// Page is what a target answered.
type Page struct {
	Text   string
	Format Format
}

// Fetch asks for the page at an address, for as long as ctx lasts. It is read
// whole, uncompressed, and up to the limit of bytes. What was cut off on its way
// is an error, as far as HTTP shows it: a page of unknown length has to end with
// a line's end.
//
// Redirects are followed within the same host and port; the caller's client
// sets how that is reached.
func Fetch(ctx context.Context, client *http.Client, address string, limits Limits) (Page, error) {
	page, err := fetch(ctx, client, address, limits.orDefault())
	if err != nil {
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err // the address is known to whoever reads this
		}
		return Page{}, fmt.Errorf("read metrics: %w", err)
	}
	return page, nil
}

func fetch(ctx context.Context, client *http.Client, address string, limits Limits) (Page, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return Page{}, err
	}
	req.Header.Set("Accept", accept)
	req.Header.Set("Accept-Encoding", "gzip")
	req.Header.Set("User-Agent", "flotta-agent")
	if end, ok := ctx.Deadline(); ok {
		req.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", strconv.FormatFloat(time.Until(end).Seconds(), 'f', 3, 64))
	}
	staying := *client
	staying.CheckRedirect = stay
	resp, err := staying.Do(req)
	if err != nil {
		return Page{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return Page{}, fmt.Errorf("the target answered %s", resp.Status)
	}
	format, err := formatOf(resp.Header.Get("Content-Type"))
	if err != nil {
		return Page{}, err
	}
	text, err := read(resp, limits.Bytes)
	if err != nil {
		return Page{}, err
	}
	return Page{Text: text, Format: format}, nil
}

// stay keeps a target from sending the agent elsewhere.
func stay(req *http.Request, via []*http.Request) error {
	switch {
	case req.URL.Host != via[0].URL.Host || req.URL.Scheme != via[0].URL.Scheme:
		return errors.New("the target redirects to another host")
	case len(via) > maxRedirects:
		return errors.New("the target redirects again and again")
	}
	return nil
}

// formatOf returns the format that an answer names. What names none, or one that
// is not of metrics, is taken for the classic one, as it always was.
func formatOf(contentType string) (Format, error) {
	kind, _, _ := mime.ParseMediaType(contentType)
	switch kind {
	case "application/openmetrics-text":
		return OpenMetrics, nil
	case "application/vnd.google.protobuf":
		return Classic, errors.New("the target answers with protocol buffers, which were not asked for: let it honour the Accept header")
	default:
		return Classic, nil
	}
}

func read(resp *http.Response, limit int64) (string, error) {
	var body io.Reader = resp.Body
	unknown := resp.ContentLength < 0 && len(resp.TransferEncoding) == 0
	switch encoding := resp.Header.Get("Content-Encoding"); encoding {
	case "", "identity":
	case "gzip":
		unzipped, err := gzip.NewReader(resp.Body)
		if err != nil {
			return "", fmt.Errorf("uncompress: %w", err)
		}
		body, unknown = unzipped, false // it has a sum at its end
	default:
		return "", fmt.Errorf("the target answers with encoding %.40q, which was not asked for", encoding)
	}
	var text strings.Builder
	n, err := io.Copy(&text, io.LimitReader(body, limit+1))
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "", fmt.Errorf("the page is cut off after %d bytes", n)
	case err != nil:
		return "", err
	case n > limit:
		return "", fmt.Errorf("the page is longer than %d bytes", limit)
	case unknown && n > 0 && !strings.HasSuffix(text.String(), "\n"):
		return "", fmt.Errorf("the page is cut off after %d bytes: its last line has no end", n)
	}
	return text.String(), nil
}
