package testenv

import (
	"bytes"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// listing is an answer that can be given again.
type listing struct {
	header http.Header
	body   []byte
}

// ForgetListings has FaultStaleList begin anew: no listing will be older than now.
func (p *FaultProxy) ForgetListings() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.listings)
}

// list remembers a listing and returns it, or an older one. Only first pages
// are: what follows an old first page goes on where that ended.
func (p *FaultProxy) list(r *http.Request, answer *http.Response, fault Fault) (io.Reader, int64) {
	raw, err := io.ReadAll(answer.Body)
	if err != nil {
		return bytes.NewReader(raw), int64(len(raw)) + 1
	}
	query := r.URL.Query()
	if query.Has("continuation-token") {
		return bytes.NewReader(raw), int64(len(raw))
	}
	const kept = 8
	name := r.URL.Path + "?" + query.Get("prefix")
	p.mu.Lock()
	defer p.mu.Unlock()
	former := p.listings[name]
	if fault == FaultStaleList && len(former) > 0 && strings.HasPrefix(query.Get("prefix"), p.StaleBelow) {
		p.injected[fault]++
		old := former[p.random.IntN(len(former))]
		maps.Copy(answer.Header, old.header)
		return bytes.NewReader(old.body), int64(len(old.body))
	}
	if len(former) == kept {
		former = former[1:]
	}
	p.listings[name] = append(slices.Clip(former), listing{answer.Header.Clone(), raw})
	return bytes.NewReader(raw), int64(len(raw))
}
