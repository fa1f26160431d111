package environ_test

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/environ"
)

func reader(values map[string]string) *environ.Reader {
	return environ.New(func(name string) string { return values[name] })
}

func TestValues(t *testing.T) {
	t.Parallel()
	r := reader(map[string]string{"N": " 7 ", "B": "true", "D": "90s", "L": "debug", "A": ":80", "NS": "a, b"})
	if n := environ.Read(r, "N", "1", environ.Number(1, 9)); n != 7 {
		t.Errorf("number is %d", n)
	}
	if n := environ.Read(r, "UNSET", "3", environ.Number(1, 9)); n != 3 {
		t.Errorf("the fallback is %d", n)
	}
	if !environ.Read(r, "B", "false", environ.Boolean) || environ.Read(r, "D", "1s", environ.Duration(time.Minute)) != 90*time.Second ||
		environ.Read(r, "L", "info", environ.Level) != slog.LevelDebug || environ.Read(r, "A", "", environ.Listen) != ":80" ||
		!slices.Equal(environ.Read(r, "NS", "", environ.Namespaces), []string{"a", "b"}) {
		t.Error("a value is not what was set")
	}
	if err := r.Err(); err != nil {
		t.Error(err)
	}
}

func TestAllThatIsWrongIsNamed(t *testing.T) {
	t.Parallel()
	r := reader(map[string]string{"N": "10", "B": "maybe", "D": "1s", "L": "loud", "A": "80", "NS": "Hall"})
	environ.Read(r, "N", "1", environ.Number(1, 9))
	environ.Read(r, "B", "false", environ.Boolean)
	environ.Read(r, "D", "1h", environ.Duration(time.Minute))
	environ.Read(r, "L", "info", environ.Level)
	environ.Read(r, "A", "", environ.Listen)
	environ.Read(r, "NS", "default", environ.Namespaces)
	environ.Read(r, "NONE", "", environ.Namespaces)
	r.Refuse(errors.New("EXTRA is odd"))
	err := r.Err()
	if err == nil {
		t.Fatal("nothing is wrong")
	}
	for _, name := range []string{`N="10"`, `B="maybe"`, `D="1s"`, `L="loud"`, `A="80"`, `NS="Hall"`, "NONE", "EXTRA"} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%s is not named: %v", name, err)
		}
	}
}
