package console

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// maxSyncs bounds how many may wait for a synchronisation at once, so that those
// who only look still find a place.
const maxSyncs = 4

// SyncRequest asks for a look at data paths now. Without workloads it is about
// all that have data paths.
type SyncRequest struct {
	Workloads []string
	// Audit asks that the bucket is listed, for what vanished there.
	Audit bool
}

// SyncResult is what came of it for one workload and direction.
type SyncResult struct {
	Workload  string `json:"workload"`
	Direction string `json:"direction,omitempty"` // empty: it is about the workload
	Missing   int    `json:"missing,omitempty"`   // what an audit did not find in the bucket, and is sent again
	Error     string `json:"error,omitempty"`     // empty: it worked
}

// syncResults is the answer.
type syncResults struct {
	Results []SyncResult `json:"results"`
}

func (r SyncRequest) target() string {
	q := url.Values{"workload": r.Workloads}
	if r.Audit {
		q.Set("audit", "true")
	}
	return pathSync + "?" + q.Encode()
}

// Sync asks the agent to look at data paths now, and waits until it has, or ctx
// ends. The error says what to do about it.
func Sync(ctx context.Context, socket string, r SyncRequest) ([]SyncResult, error) {
	raw, err := exchange(ctx, socket, http.MethodPost, r.target())
	if err != nil {
		return nil, err
	}
	var all syncResults
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, fmt.Errorf("decode answer: %w", err)
	}
	return all.Results, nil
}

// synchronise serves a request that takes its time: it ends when the one who asked
// goes away.
func (s *Server) synchronise(ctx context.Context, conn net.Conn, rest *bufio.Reader, query url.Values) (status int, body []byte) {
	select {
	case s.syncs <- struct{}{}:
		defer func() { <-s.syncs }()
	default:
		return http.StatusTooManyRequests, []byte(`{"error":"too many wait for a synchronisation"}`)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return http.StatusInternalServerError, nil
	}
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		_, _ = io.Copy(io.Discard, rest) // whatever ends it, nobody waits any more
		cancel()
	}()
	results := s.cfg.Sync(ctx, SyncRequest{Workloads: query["workload"], Audit: query.Get("audit") == "true"})
	_ = conn.SetReadDeadline(time.Now()) // it ends the goroutine
	<-watching
	body, err := json.Marshal(syncResults{append([]SyncResult{}, results...)})
	if err != nil {
		return http.StatusInternalServerError, nil
	}
	return http.StatusOK, body
}

// ShowSync writes the results, a line for each, and reports whether all is well.
func ShowSync(w io.Writer, results []SyncResult) (well bool, err error) {
	var b strings.Builder
	well = true
	for _, r := range results {
		what := escaped(r.Workload)
		if r.Direction != "" {
			what += " " + escaped(r.Direction)
		}
		switch {
		case r.Error != "":
			well = false
			fmt.Fprintf(&b, "%s: %s\n", what, printableText(r.Error))
		case r.Missing > 0:
			fmt.Fprintf(&b, "%s: ok, %d missing in the bucket, sent again\n", what, r.Missing)
		default:
			fmt.Fprintf(&b, "%s: ok\n", what)
		}
	}
	if len(results) == 0 {
		b.WriteString("no workload has data paths\n")
	}
	_, err = io.WriteString(w, b.String())
	return well, err
}
