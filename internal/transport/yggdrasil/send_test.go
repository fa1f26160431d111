package yggdrasil

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/transport"
	"github.com/project-flotta/flotta-agent/internal/transport/yggdrasil/pb"
)

func TestDecodeReply(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]transport.Reply{
		`{"StatusCode":208,"Body":null,"Metadata":{}}`:                                {Status: 208, Header: map[string]string{}},
		`{"StatusCode":200}`:                                                          {Status: 200, Header: map[string]string{}},
		`{"StatusCode":404,"Body":{"a": 1},"Metadata":{"content-type":"x;y"}}`:        {Status: 404, Body: []byte(`{"a": 1}`), Header: map[string]string{"Content-Type": "x;y"}},
		`{"StatusCode":200,"Body":"text","Metadata":{"Etag":"\"v1\"","More":"than"}}`: {Status: 200, Body: []byte(`"text"`), Header: map[string]string{"Etag": `"v1"`, "More": "than"}},
	} {
		got, err := decodeReply([]byte(raw))
		if err != nil {
			t.Errorf("%s: %v", raw, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", raw, diff)
		}
	}
	for _, raw := range []string{`{}`, `[]`, `null`, `{"StatusCode":"200"}`, `{"StatusCode":99}`, `{"StatusCode":1000}`, `{"StatusCode":200`, `{"StatusCode":200}x`, "\x00"} {
		if r, err := decodeReply([]byte(raw)); err == nil || isNoAnswer(err) {
			t.Errorf("%q: %v, %v, want a decoding error", raw, r, err)
		}
	}
	if _, err := decodeReply(nil); !isNoAnswer(err) {
		t.Errorf("empty: %v, want ErrNoAnswer", err)
	}
}

func FuzzDecodeReply(f *testing.F) {
	f.Add([]byte(`{"StatusCode":200,"Body":{"message_id":"x"},"Metadata":{"Content-Type":"application/json"}}`))
	f.Add([]byte(`{"StatusCode":208,"Body":null,"Metadata":{}}`))
	f.Add([]byte(``))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := decodeReply(raw)
		if err != nil {
			return
		}
		if r.Status < 100 || r.Status > 599 {
			t.Errorf("status %d accepted", r.Status)
		}
		if len(r.Body) > 0 && !json.Valid(r.Body) {
			t.Errorf("body is not JSON: %q", r.Body)
		}
	})
}

func TestSendToOldYggd(t *testing.T) {
	t.Parallel()
	f := startFake(t, &fakeYggd{socket: newSocket(t)})
	w := idleWorker(t, Config{SocketAddr: "unix:" + f.socket})
	if _, err := w.Send(t.Context(), transport.Message{Directive: "heartbeat"}); !isNoAnswer(err) || isUnavailable(err) {
		t.Errorf("Send = %v, want ErrNoAnswer", err)
	}
}

func TestSendTellsUndeliveredFromUnknown(t *testing.T) {
	t.Parallel()
	f := &fakeYggd{socket: newSocket(t)}
	w := idleWorker(t, Config{SocketAddr: "unix:" + f.socket})
	message := transport.Message{Directive: "heartbeat", Content: []byte(`{}`)}

	// No yggd.
	if _, err := w.Send(t.Context(), message); !isUnavailable(err) {
		t.Errorf("without yggd: %v, want ErrUnavailable", err)
	}
	// The connection ends, or time is up, while yggd has the message.
	inside, release := make(chan struct{}, 100), make(chan struct{})
	f.answer = func(context.Context, *pb.Data) ([]byte, error) {
		inside <- struct{}{}
		<-release
		return []byte(`{"StatusCode":200}`), nil
	}
	startFake(t, f)
	within(t, "connection", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_, err := w.Send(ctx, message)
		return err != nil && !isUnavailable(err)
	})
	<-inside
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() {
		_, err := w.Send(ctx, message)
		result <- err
	}()
	<-inside
	// Another one that never got its turn is known not to be delivered.
	impatient, stop := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer stop()
	if _, err := w.Send(impatient, message); !isUnavailable(err) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without a turn: %v, want ErrUnavailable and the deadline", err)
	}
	cancel()
	if err := <-result; err == nil || isUnavailable(err) {
		t.Errorf("cancelled while yggd had it: %v, want an error that is not ErrUnavailable", err)
	}
	close(release)
	within(t, "next send", func() bool {
		reply, err := w.Send(t.Context(), message)
		return err == nil && reply.Status == 200
	})
}

func TestSendRefusesContentThatIsNotJSON(t *testing.T) {
	t.Parallel()
	w := idleWorker(t, Config{SocketAddr: "unix:" + newSocket(t)})
	_, err := w.Send(t.Context(), transport.Message{Directive: "heartbeat", Content: []byte("{")})
	if err == nil || !strings.Contains(err.Error(), "JSON") {
		t.Errorf("Send = %v", err)
	}
}

func TestSendGivesEveryMessageAnID(t *testing.T) {
	t.Parallel()
	var ids []string
	f := startFake(t, &fakeYggd{socket: newSocket(t), answer: func(_ context.Context, d *pb.Data) ([]byte, error) {
		ids = append(ids, d.GetMessageId())
		return bytes.Clone([]byte(`{"StatusCode":200}`)), nil
	}})
	w := idleWorker(t, Config{SocketAddr: "unix:" + f.socket})
	for _, id := range []string{"", "", "mine"} {
		if _, err := w.Send(t.Context(), transport.Message{ID: id}); err != nil {
			t.Fatal(err)
		}
	}
	if len(ids) != 3 || ids[0] == "" || ids[0] == ids[1] || ids[2] != "mine" {
		t.Errorf("ids = %q", ids)
	}
}

func idleWorker(t *testing.T, c Config) *Worker {
	t.Helper()
	c.Log = slog.New(slog.NewTextHandler(testWriter{t}, nil))
	w, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w
}
