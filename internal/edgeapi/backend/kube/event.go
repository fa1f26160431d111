package kube

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash/maphash"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// component is who Events are from.
const component = "flotta-edge-api"

const (
	// maxEvents bounds the events of one report: each is an object.
	maxEvents = 100
	// maxReason is the bound that newer versions of Events set.
	maxReason = 128
	// repeatWindow is how long the same event of the same device is taken for a
	// repetition of a report whose answer was lost.
	repeatWindow = 2 * time.Minute
	// maxRecent bounds the memory of events.
	maxRecent = 1 << 16
)

// eventWriter makes Events.
type eventWriter struct {
	client *client
	seed   maphash.Seed

	mu     sync.Mutex
	recent map[[sha256.Size]byte]time.Time // what was written, by content
}

func (w *eventWriter) init(c *client) {
	w.client, w.seed = c, maphash.MakeSeed()
	w.recent = make(map[[sha256.Size]byte]time.Time)
}

// write makes Events about a device. When it returns nil, the API server has
// them, or will never take them. It can be called again with the same.
func (w *eventWriter) write(ctx context.Context, d *v1alpha1.EdgeDevice, list []protocol.EventInfo) error {
	dropped := len(list) - maxEvents
	if dropped > 0 {
		list = append(list[:maxEvents:maxEvents], protocol.EventInfo{
			Type: protocol.EventWarnType, Reason: "EventsDropped", Message: fmt.Sprintf("%d more events were in one report", dropped),
		})
	}
	for _, e := range list {
		if err := w.writeOne(ctx, d, e); err != nil {
			return err
		}
	}
	return nil
}

func (w *eventWriter) writeOne(ctx context.Context, d *v1alpha1.EdgeDevice, info protocol.EventInfo) error {
	now := time.Now()
	event := eventOf(d, info, now)
	sum := sha256.Sum256([]byte(string(d.UID) + "\x00" + event.Type + "\x00" + event.Reason + "\x00" + event.Message))
	if w.repeated(sum, now) {
		return nil
	}
	// Another replica may get the repetition.
	minute := now.UTC().Truncate(time.Minute)
	named := sha256.Sum256(append(sum[:], minute.Format(time.RFC3339)...))
	event.Name = eventName(d.Name, hex.EncodeToString(named[:8]))
	_, err := w.client.core.Events(d.Namespace).Create(ctx, event, metav1.CreateOptions{})
	switch {
	case err == nil, apierrors.IsAlreadyExists(err):
	case apierrors.IsInvalid(err), apierrors.IsNotFound(err), apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		// It will never be taken, and the device must get on.
	default:
		return fmt.Errorf("create event: %w", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.recent) >= maxRecent {
		clear(w.recent)
	}
	w.recent[sum] = now
	return nil
}

func (w *eventWriter) repeated(sum [sha256.Size]byte, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	last, ok := w.recent[sum]
	return ok && now.Sub(last) < repeatWindow
}

func eventOf(d *v1alpha1.EdgeDevice, info protocol.EventInfo, now time.Time) *corev1.Event {
	at := fleet.Timestamp(now)
	event := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: d.Namespace},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindEdgeDevice,
			Namespace: d.Namespace, Name: d.Name, UID: d.UID, ResourceVersion: d.ResourceVersion,
		},
		Type: corev1.EventTypeNormal, Reason: printable(info.Reason, maxReason), Message: printable(info.Message, fleet.MaxText),
		Source:         corev1.EventSource{Component: component},
		FirstTimestamp: at, LastTimestamp: at, Count: 1,
		ReportingController: component,
	}
	if info.Type == protocol.EventWarnType {
		event.Type = corev1.EventTypeWarning
	}
	return event
}

// printable makes a text of a device one that terminals can be shown.
func printable(text string, limit int) string {
	text = strings.Map(func(r rune) rune {
		if r == utf8.RuneError {
			return -1
		}
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, fleet.Clip(text))
	for len(text) > limit {
		_, size := utf8.DecodeLastRuneInString(text)
		text = text[:len(text)-size]
	}
	return strings.TrimSpace(text)
}

// maxName is the bound of an object's name.
const maxName = 253

func eventName(device, hash string) string {
	if limit := maxName - len(hash) - 1; len(device) > limit {
		device = strings.TrimRight(device[:limit], ".-")
	}
	return device + "." + hash
}
