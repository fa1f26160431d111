package fleet

import (
	"strings"
	"unicode/utf8"
)

const (
	// MaxText bounds every text of a device that is kept in its status.
	MaxText = 1024
	// maxMessage bounds the message of a condition.
	maxMessage = 4096
)

// Clip makes a text of a device fit for its status: valid UTF-8 of at most 1 KiB.
func Clip(text string) string { return clipTo(text, MaxText) }

func clipTo(text string, limit int) string {
	text = strings.ToValidUTF8(text, "�")
	if len(text) <= limit {
		return text
	}
	cut := limit
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut]
}
