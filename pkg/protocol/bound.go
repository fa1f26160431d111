package protocol

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of the texts in a WorkloadStatus, in bytes, however much room there is.
const (
	maxStatusWord    = 128 // a reason, a digest
	maxStatusMessage = 1024
	maxStatusText    = 256 // a note, a part of an image
	maxStatusNotes   = 16
	maxStatusImages  = 16

	// minStatusRoom is what is left to each workload of a device that has very
	// many.
	minStatusRoom = 64

	cutMark = "..."
)

// Bounded returns the statuses with what they say beyond flotta v0.2 cut to about
// size bytes for all of them, so that neither many workloads nor one that writes
// much make a heartbeat too large to be taken. What is cut ends with a mark; what
// remains is valid UTF-8 without control characters. The list that it got is not
// changed.
func Bounded(list []WorkloadStatus, size int) []WorkloadStatus {
	if len(list) == 0 {
		return list
	}
	room := max(size/len(list), minStatusRoom)
	out := slices.Clone(list)
	for i := range out {
		out[i] = out[i].bounded(room)
	}
	return out
}

// bounded cuts what is said beyond flotta v0.2. Half of the room is the message's,
// which says most; the images have a quarter, notes and data the rest.
func (w WorkloadStatus) bounded(room int) WorkloadStatus {
	w.Reason = cut(w.Reason, maxStatusWord)
	w.DesiredDigest, w.AppliedDigest = cut(w.DesiredDigest, maxStatusWord), cut(w.AppliedDigest, maxStatusWord)
	w.Restarts = max(w.Restarts, 0)
	w.Message = cut(w.Message, min(room/2, maxStatusMessage))
	w.Notes = boundedNotes(w.Notes, room/8)
	w.Images = boundedImages(w.Images, room/4)
	w.DataSync = w.DataSync.bounded(room / 8)
	return w
}

func boundedNotes(notes []string, room int) []string {
	var out []string
	for i, n := range notes {
		n = cut(n, maxStatusText)
		if room -= len(n); room < 0 || i == maxStatusNotes {
			return append(out, fmt.Sprintf("%s and %d more", cutMark, len(notes)-i))
		}
		out = append(out, n)
	}
	return out
}

func boundedImages(images []WorkloadImage, room int) []WorkloadImage {
	var out []WorkloadImage
	for i, image := range images {
		image.Container, image.Reference = cut(image.Container, maxStatusText), cut(image.Reference, maxStatusText)
		image.ID = cut(image.ID, maxStatusWord)
		room -= len(image.Container) + len(image.Reference) + len(image.ID)
		if room < 0 || i == maxStatusImages {
			return append(out, WorkloadImage{Reference: fmt.Sprintf("%s and %d more", cutMark, len(images)-i)})
		}
		out = append(out, image)
	}
	return out
}

// cut makes text printable and at most size bytes long.
func cut(text string, size int) string {
	long := len(text) > size
	// Texts can be huge: what is cut away need not be printable.
	text = Printable(text[:min(len(text), size+utf8.UTFMax)])
	if !long && len(text) <= size {
		return text
	}
	text = text[:min(len(text), size)]
	// A character that the cut goes through goes away with it.
	kept := strings.ToValidUTF8(text[:max(len(text)-len(cutMark), 0)], "")
	return kept + cutMark[:min(len(cutMark), size)]
}

// Printable returns text without what a terminal would act on: invalid UTF-8 and
// control characters, those that change the direction of writing included. Line
// ends and tabs become spaces.
func Printable(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\u2028' || r == '\u2029':
			return ' '
		case r == '\r':
			return -1
		case unicode.IsControl(r) || unicode.Is(unicode.Cf, r):
			return unicode.ReplacementChar
		}
		return r
	}, text)
}
