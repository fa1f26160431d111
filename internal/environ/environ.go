package environ

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
)

// Reader reads variables and collects what is wrong with them.
type Reader struct {
	lookup func(string) string
	errs   []error
}

// New returns a reader of an environment. Lookup returns "" for what is not set,
// as os.Getenv does.
func New(lookup func(string) string) *Reader { return &Reader{lookup: lookup} }

// Text returns a variable without the spaces around it.
func (r *Reader) Text(name string) string { return strings.TrimSpace(r.lookup(name)) }

// Refuse adds something that is wrong.
func (r *Reader) Refuse(err error) { r.errs = append(r.errs, err) }

// Err names all that is wrong, or is nil.
func (r *Reader) Err() error {
	if err := errors.Join(r.errs...); err != nil {
		return fmt.Errorf("read environment: %w", err)
	}
	return nil
}

// Read returns a variable, converted; an unset one is its fallback.
func Read[T any](r *Reader, name, fallback string, convert func(string) (T, error)) T {
	text := r.Text(name)
	if text == "" {
		text = fallback
	}
	value, err := convert(text)
	if err != nil {
		r.Refuse(fmt.Errorf("%s=%q: %w", name, text, err))
	}
	return value
}

// Number converts whole numbers from low to high.
func Number(low, high int) func(string) (int, error) {
	return func(text string) (int, error) {
		n, err := strconv.Atoi(text)
		if err != nil || n < low || n > high {
			return 0, fmt.Errorf("want a number from %d to %d", low, high)
		}
		return n, nil
	}
}

// Boolean converts what strconv.ParseBool knows.
func Boolean(text string) (bool, error) {
	b, err := strconv.ParseBool(text)
	if err != nil {
		return false, errors.New("want true or false")
	}
	return b, nil
}

// Duration converts durations of at least the shortest, such as 15m.
func Duration(shortest time.Duration) func(string) (time.Duration, error) {
	return func(text string) (time.Duration, error) {
		d, err := time.ParseDuration(text)
		if err != nil || d < shortest {
			return 0, fmt.Errorf("want a duration of at least %s, such as 15m", shortest)
		}
		return d, nil
	}
}

// Level converts levels of log/slog.
func Level(text string) (slog.Level, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(text)); err != nil {
		return 0, errors.New("want debug, info, warn or error")
	}
	return l, nil
}

// Listen converts host:port to listen on; "" and "0" mean nowhere.
func Listen(text string) (string, error) {
	if text == "" || text == "0" {
		return text, nil
	}
	if _, _, err := net.SplitHostPort(text); err != nil {
		return "", fmt.Errorf("want host:port: %w", err)
	}
	return text, nil
}

// List returns the words of a text, which commas or spaces separate.
func List(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
}

// Namespaces converts a list of names of Kubernetes namespaces.
func Namespaces(text string) ([]string, error) {
	names := List(text)
	if len(names) == 0 {
		return nil, errors.New("want at least one namespace")
	}
	for _, name := range names {
		if msgs := validation.IsDNS1123Label(name); len(msgs) > 0 {
			return nil, fmt.Errorf("namespace %q: %s", name, msgs[0])
		}
	}
	return names, nil
}
