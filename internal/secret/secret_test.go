package secret_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/project-flotta/flotta-agent/internal/secret"
)

const canary = "canary-7f3a"

func TestReveal(t *testing.T) {
	t.Parallel()
	var zero secret.Value
	if v := secret.New(canary); v.Reveal() != canary || v.Empty() {
		t.Error("a secret does not reveal its text")
	}
	if zero.Reveal() != "" || !zero.Empty() || !secret.New("").Empty() {
		t.Error("the empty secret is not empty")
	}
}

// TestNothingPrintsIt prints a secret, and structures it is hidden in, in every
// way that a program prints things by accident.
func TestNothingPrintsIt(t *testing.T) {
	t.Parallel()
	v := secret.New(canary)
	type holder struct {
		Name   string
		Secret secret.Value
		hidden secret.Value
		Map    map[string]secret.Value
		List   []secret.Value
		Ptr    *secret.Value
	}
	h := holder{"n", v, v, map[string]secret.Value{"k": v}, []secret.Value{v}, &v}
	for _, arg := range []any{v, &v, h, &h, []any{v, h}, map[string]any{"h": h}, errors.New(v.String())} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x", "%X", "%p", "%t", "%c"} {
			if out := fmt.Sprintf(verb, arg); strings.Contains(out, canary) || strings.Contains(out, fmt.Sprintf("%x", canary)) {
				t.Errorf("%s of %T shows it: %s", verb, arg, out)
			}
		}
		if out := fmt.Sprint(arg); strings.Contains(out, canary) {
			t.Errorf("Sprint of %T shows it", arg)
		}
	}
	_ = h.hidden
	for name, handler := range map[string]func(*bytes.Buffer) slog.Handler{
		"text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
		"json": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
	} {
		var out bytes.Buffer
		slog.New(handler(&out)).Info("x", "v", v, "p", &v, "h", h, "any", []any{v}, slog.Group("g", "v", v))
		if strings.Contains(out.String(), canary) {
			t.Errorf("the %s log shows it: %s", name, out.String())
		}
	}
}

func TestMarshalRefuses(t *testing.T) {
	t.Parallel()
	v := secret.New(canary)
	for _, arg := range []any{v, &v, map[string]any{"v": v}, []secret.Value{v}, struct{ V secret.Value }{v}} {
		out, err := json.Marshal(arg)
		if err == nil || strings.Contains(string(out)+err.Error(), canary) {
			t.Errorf("%T: %s, %v", arg, out, err)
		}
	}
}
