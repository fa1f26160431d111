package console

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
)

// levels are those that can be set, with their names.
var levels = [...]struct {
	name  string
	level slog.Level
}{{"debug", slog.LevelDebug}, {"info", slog.LevelInfo}, {"warn", slog.LevelWarn}, {"error", slog.LevelError}}

// CheckLevel returns an error when there is no such level.
func CheckLevel(name string) error {
	if _, ok := levelOf(name); !ok {
		return fmt.Errorf("level %q: must be debug, info, warn or error", name)
	}
	return nil
}

func levelOf(name string) (slog.Level, bool) {
	for _, l := range levels {
		if l.name == name {
			return l.level, true
		}
	}
	return 0, false
}

func levelName(level slog.Level) string { return strings.ToLower(level.String()) }

// levelAnswer is what a change of the level is answered with.
type levelAnswer struct {
	Before string `json:"before"`
	Now    string `json:"now"`
}

// SetLevel has the agent that listens on the socket log from that level on,
// until it is restarted. It returns the level before.
func SetLevel(ctx context.Context, socket, name string) (before string, err error) {
	if err := CheckLevel(name); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	raw, err := exchange(ctx, socket, http.MethodPost, pathLevel+"?"+url.Values{"level": {name}}.Encode())
	if err != nil {
		return "", err
	}
	var answer levelAnswer
	if err := json.Unmarshal(raw, &answer); err != nil {
		return "", fmt.Errorf("decode answer: %w", err)
	}
	return printableText(answer.Before), nil
}

// setLevel serves SetLevel.
func (s *Server) setLevel(name string) (status int, body []byte) {
	level, ok := levelOf(name)
	if !ok {
		return http.StatusBadRequest, failure("level must be debug, info, warn or error")
	}
	before := s.cfg.Level.Level()
	s.cfg.Level.Set(level)
	s.cfg.Log.Warn("log level changed", "before", levelName(before), "now", name)
	body, err := json.Marshal(levelAnswer{Before: levelName(before), Now: name})
	if err != nil { // two texts always encode
		return http.StatusInternalServerError, nil
	}
	return http.StatusOK, body
}
