package logs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/project-flotta/flotta-agent/internal/diskq"
	"github.com/project-flotta/flotta-agent/internal/logs/syslog"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

const (
	// firstBatch lines are sent at first before it is waited for their arrival,
	// and at most maxBatch (see batch); batchDatagrams by udp, where nobody says
	// when it is too much.
	firstBatch     = 256
	maxBatch       = 16 << 10
	batchDatagrams = 128
	// settleDatagrams is waited for between batches by udp, so that they do not
	// come faster than 6,400 lines a second, and a port that is closed can say so.
	settleDatagrams = 20 * time.Millisecond
	// formatLines are in memory as messages at once.
	formatLines = 256
	// datagramBytes is what every receiver of udp should take, by RFC 5426.
	datagramBytes = 2 << 10
	// maxRetry is the longest pause between two attempts, in those of the first.
	maxRetry = 60
	// farewellTimeout is how long the last batch may take to be confirmed when
	// the agent stops.
	farewellTimeout = 2 * time.Second
	// tellAfter so many failures in a row there is an event: a network that is
	// gone for a moment is none.
	tellAfter = 3
)

// target is a receiver with its spool. The fields of the buffer are the
// spooler's, under its lock.
type target struct {
	name  string
	cfg   Config
	queue *diskq.Queue

	buffer   [][]byte
	buffered int // bytes that are not in the queue yet
	bound    int

	mu        sync.Mutex
	info      protocol.LogsCollectionInformation
	to        syslog.Target
	invalid   string // why it cannot be sent to as it is configured
	connected bool
	lastError string
	failures  int
	sent      uint64 // lines, since the start
	dropped   uint64 // lines, as far as it was told
	dropping  bool   // told since the spool was empty last

	batch batch // the sender's

	stop context.CancelFunc // of the sender; nil: there is none
	done chan struct{}      // closed when the sender has ended
}

// settings maps what the control plane says of a receiver.
func settings(info protocol.LogsCollectionInformation) (syslog.Target, error) {
	if info.Kind != "" && info.Kind != "syslog" {
		return syslog.Target{}, fmt.Errorf("kind %q is not syslog", info.Kind)
	}
	if info.SyslogConfig == nil {
		return syslog.Target{}, errors.New("it has no syslog_config")
	}
	c := info.SyslogConfig
	return syslog.Settings{
		Address: c.Address, Protocol: c.Protocol,
		CA: []byte(c.CACert), Cert: []byte(c.ClientCert), Key: []byte(c.ClientKey),
	}.Target()
}

// bufferBytes is buffer_size in bytes.
func bufferBytes(info protocol.LogsCollectionInformation) int {
	kib := int64(info.BufferSize)
	if kib <= 0 {
		kib = defaultBufferKiB
	}
	return int(min(kib, 64<<10) << 10)
}

// is reports whether the target delivers by these settings.
func (t *target) is(info protocol.LogsCollectionInformation) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stop != nil && reflect.DeepEqual(t.info, info)
}

// configure makes the target one of these settings, and starts or stops its
// sender. The former sender has ended then.
func (t *target) configure(ctx context.Context, info protocol.LogsCollectionInformation) {
	if t.is(info) {
		return
	}
	t.halt()
	to, err := settings(info)
	t.mu.Lock()
	t.info, t.to, t.invalid, t.lastError, t.failures = info, to, "", "", 0
	if err != nil {
		t.invalid = err.Error()
	}
	t.mu.Unlock()
	if err != nil {
		return
	}
	ctx, t.stop = context.WithCancel(ctx)
	t.done = make(chan struct{})
	go func() {
		defer close(t.done)
		t.send(ctx, to)
	}()
}

// halt ends the sender, if there is one, and waits for it, which takes
// farewellTimeout at most.
func (t *target) halt() {
	if t.stop == nil {
		return
	}
	t.stop()
	<-t.done
	t.mu.Lock()
	t.stop = nil
	t.connected = false
	t.mu.Unlock()
}

// send delivers until ctx ends.
func (t *target) send(ctx context.Context, to syslog.Target) {
	for ctx.Err() == nil {
		err := t.session(ctx, to)
		if ctx.Err() != nil {
			return
		}
		failures := t.failed(err)
		select {
		case <-ctx.Done():
		case <-time.After(backoff(t.cfg.retry, failures-1)):
		}
	}
}

// session delivers by one connection until that breaks. It connects when there
// is something to be delivered.
func (t *target) session(ctx context.Context, to syslog.Target) error {
	var conn *syslog.Conn
	var closed <-chan struct{}
	defer func() {
		if conn != nil {
			_ = conn.Close() // what was not confirmed is sent again anyway
		}
		t.setConnected(false)
	}()
	limit := t.batch.limit
	if to.Protocol == syslog.UDP {
		limit = func() int { return batchDatagrams }
	}
	for {
		more := t.queue.Wait()
		entries, err := t.queue.Read(limit())
		if err != nil {
			return fmt.Errorf("read spool: %w", err)
		}
		if len(entries) == 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-closed:
				return conn.Err()
			case <-more:
			}
			continue
		}
		if conn == nil {
			if conn, err = syslog.Dial(ctx, to); err != nil {
				return err
			}
			closed = conn.Done()
			t.setConnected(true)
		}
		if err := t.deliver(ctx, conn, to.Protocol, entries); err != nil {
			if ctx.Err() == nil {
				t.batch.failed(len(entries))
			}
			return err
		}
		t.batch.arrived(len(entries))
	}
}

// batch is how many lines are sent before it is waited for their arrival. They
// are acknowledged together, so all of them come again when the connection breaks
// in between: a receiver or a network that does so again and again, or takes
// long, gets fewer at once until some arrive. It lives on across connections.
type batch struct{ lines int }

func (b *batch) limit() int {
	if b.lines == 0 {
		b.lines = firstBatch
	}
	return b.lines
}

// arrived makes the next one larger if this one was full.
func (b *batch) arrived(lines int) {
	if lines >= b.limit() {
		b.lines = min(2*b.lines, maxBatch)
	}
}

// failed makes the next one half of that which did not arrive.
func (b *batch) failed(lines int) {
	b.lines = max(min(b.limit(), lines)/2, 1)
}

// deliver sends entries and acknowledges them.
func (t *target) deliver(ctx context.Context, conn *syslog.Conn, protocol syslog.Protocol, entries []diskq.Entry) error {
	format, settle := syslog.Format{MaxBytes: t.cfg.MessageBytes, SDID: t.cfg.SDID}, t.cfg.Settle
	if protocol == syslog.UDP {
		format.MaxBytes, settle = datagramBytes, min(settle, settleDatagrams)
	}
	sent := 0
	for some := range slices.Chunk(entries, formatLines) {
		if sent > 0 && ctx.Err() != nil {
			break // what is on its way is enough
		}
		var messages [][]byte
		for _, e := range some {
			line, err := decodeRecord(e.Data)
			if err != nil {
				t.cfg.Log.Error("read line from spool", slog.String("target", t.name), slog.Any("err", err))
				continue
			}
			messages = append(messages, format.Messages(message(t.cfg.DeviceID, line))...)
		}
		if err := conn.Send(ctx, messages); err != nil {
			return err
		}
		sent += len(some)
	}
	lasting, cancel := outlast(ctx, farewellTimeout)
	defer cancel()
	if err := conn.Confirm(lasting, settle); err != nil {
		return err
	}
	if err := t.queue.Ack(entries[sent-1].Seq); err != nil {
		return fmt.Errorf("acknowledge lines: %w", err)
	}
	t.delivered(sent)
	return nil
}

// outlast returns a context that ends so much later than ctx: what was sent is
// confirmed also when the agent stops, or it would be sent again.
func outlast(ctx context.Context, by time.Duration) (context.Context, context.CancelFunc) {
	lasting, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(by)
		defer timer.Stop()
		select {
		case <-timer.C:
			cancel()
		case <-lasting.Done():
		}
	})
	return lasting, func() {
		stop()
		cancel()
	}
}

func (t *target) setConnected(connected bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.connected = connected
}

func (t *target) delivered(lines int) {
	t.mu.Lock()
	t.sent += uint64(lines) //nolint:gosec // a count
	told := t.failures >= tellAfter
	t.failures, t.lastError = 0, ""
	if t.queue.Stats().Entries == 0 {
		t.dropping = false
	}
	t.mu.Unlock()
	if told {
		t.cfg.Log.Info("log target takes lines again", slog.String("target", t.name))
		t.cfg.Event(protocol.EventInfo{
			Reason: reasonRecovered, Type: protocol.EventInfoType, Message: fmt.Sprintf("log target %s takes lines again", t.name),
		})
	}
}

// checkDropped tells once in an outage that the spool drops lines.
func (t *target) checkDropped() {
	d := t.queue.Stats().Dropped
	t.mu.Lock()
	grown := d.Size+d.Age > t.dropped
	tell := grown && !t.dropping
	t.dropped, t.dropping = d.Size+d.Age, t.dropping || grown
	t.mu.Unlock()
	if tell {
		t.cfg.Log.Warn("spool of log target drops its oldest lines", slog.String("target", t.name))
		t.cfg.Event(protocol.EventInfo{
			Reason: reasonDropped, Type: protocol.EventWarnType,
			Message: fmt.Sprintf("the spool of log target %s is full and drops its oldest lines", t.name),
		})
	}
}

// failed records why a session ended, and returns how many did in a row.
func (t *target) failed(err error) int {
	t.mu.Lock()
	t.failures++
	failures := t.failures
	t.lastError = clip(err.Error())
	t.mu.Unlock()
	if failures == tellAfter {
		t.cfg.Log.Warn("log target takes no lines", slog.String("target", t.name), slog.Any("err", err))
		t.cfg.Event(protocol.EventInfo{
			Reason: reasonFailing, Type: protocol.EventWarnType,
			Message: fmt.Sprintf("log target %s takes no lines; they wait on the device: %s", t.name, clip(err.Error())),
		})
	}
	return failures
}

// clip bounds what came from elsewhere.
func clip(s string) string {
	const most = 300
	if len(s) > most {
		s = s[:most]
	}
	return strings.ToValidUTF8(s, "?")
}

// backoff is how long to wait after so many failures beyond the first: twice as
// long each time, give or take a quarter, so that a fleet does not come back to
// a receiver at one moment.
func backoff(first time.Duration, failures int) time.Duration {
	d := min(first<<min(failures, 10), maxRetry*first)
	return d*3/4 + rand.N(d/2+1)
}
