package testenv

import (
	"io"
	"sync/atomic"
	"time"
)

// Fault is one thing that goes wrong with a request.
type Fault string

// The faults that a FaultProxy makes.
const (
	// FaultInternal answers 500 InternalError, and FaultSlowDown 503 SlowDown;
	// the store never sees the request.
	FaultInternal Fault = "500"
	FaultSlowDown Fault = "503"
	// FaultResetRequest resets the connection in the middle of the request's body.
	FaultResetRequest Fault = "reset in request"
	// FaultLostAnswer lets the store do what was asked and resets the connection.
	FaultLostAnswer Fault = "lost answer"
	// FaultResetResponse resets the connection in the middle of the answer's body,
	// FaultTruncate ends it there in good order.
	FaultResetResponse Fault = "reset in response"
	FaultTruncate      Fault = "truncated response"
	// FaultWrongETag answers with an ETag that nothing has.
	FaultWrongETag Fault = "wrong ETag"
	// FaultStaleList answers a listing with an older answer to the same question.
	FaultStaleList Fault = "stale list"
	// FaultStall lets no byte pass for a while, FaultSlow few.
	FaultStall Fault = "stall"
	FaultSlow  Fault = "slow"
)

// Faults are all of them.
func Faults() []Fault {
	return []Fault{
		FaultInternal, FaultSlowDown, FaultResetRequest, FaultLostAnswer, FaultResetResponse,
		FaultTruncate, FaultWrongETag, FaultStaleList, FaultStall, FaultSlow,
	}
}

// slowReader reads little at a time.
type slowReader struct {
	io.Reader

	pause time.Duration
}

func (s slowReader) Read(b []byte) (int, error) {
	time.Sleep(s.pause)
	return s.Reader.Read(b[:min(len(b), 4<<10)])
}

type countingReader struct {
	io.Reader

	n *atomic.Int64
}

func (c countingReader) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.n.Add(int64(n))
	return n, err
}
