package scrape

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/project-flotta/flotta-agent/internal/metrics/series"
)

// name reads the name of a metric or of a label; it is empty when there is none.
func (p *parser) name(colons bool) string {
	end := 0
	for end < len(p.rest) && (nameByte(p.rest[end], end == 0) || colons && p.rest[end] == ':') {
		end++
	}
	name := p.rest[:end]
	p.rest = p.rest[end:]
	return name
}

func nameByte(c byte, first bool) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || !first && c >= '0' && c <= '9'
}

// braces reads labels in braces, and keeps them or not.
func (p *parser) braces(keep bool) error {
	p.rest = p.rest[1:]
	for first := true; ; first = false {
		p.blanks()
		if strings.HasPrefix(p.rest, "}") {
			p.rest = p.rest[1:]
			return nil
		}
		if !first {
			if !strings.HasPrefix(p.rest, ",") {
				return p.unexpected("a comma or a closing brace")
			}
			p.rest = p.rest[1:]
			if p.blanks(); strings.HasPrefix(p.rest, "}") { // a comma may be the last
				continue
			}
		}
		l, err := p.label()
		if err != nil {
			return err
		}
		if !keep {
			continue
		}
		if p.labels = append(p.labels, l); len(p.labels) > p.limits.Labels {
			return fmt.Errorf("more than %d labels", p.limits.Labels)
		}
	}
}

func (p *parser) label() (series.Label, error) {
	name := p.name(false)
	if name == "" {
		return series.Label{}, p.unexpected("the name of a label")
	}
	if p.blanks(); !strings.HasPrefix(p.rest, "=") {
		return series.Label{}, p.unexpected("an equals sign")
	}
	p.rest = p.rest[1:]
	if p.blanks(); !strings.HasPrefix(p.rest, `"`) {
		return series.Label{}, p.unexpected("a quoted value")
	}
	value, err := p.quoted()
	if err != nil {
		return series.Label{}, fmt.Errorf("label %.40s: %w", name, err)
	}
	if len(name) > p.limits.LabelBytes || len(value) > p.limits.LabelBytes {
		return series.Label{}, fmt.Errorf("label %.40s is longer than %d bytes", name, p.limits.LabelBytes)
	}
	return series.Label{Name: name, Value: value}, nil
}

// quoted reads a value in quotes.
func (p *parser) quoted() (string, error) {
	text, escaped := p.rest[1:], false
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '\\':
			escaped = true
			i++
		case '"':
			p.rest = text[i+1:]
			value := text[:i]
			if !utf8.ValidString(value) {
				return "", errors.New("the value is not UTF-8")
			}
			if escaped {
				value = unescape(value)
			}
			return value, nil
		}
	}
	return "", errors.New("the closing quote is missing")
}

// unescape resolves the three escapes that there are, and leaves what looks
// like another one.
func unescape(s string) string {
	var b strings.Builder
	b.Grow(len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			switch s[i+1] {
			case 'n':
				b.WriteByte('\n')
				i++
				continue
			case '\\', '"':
				i++
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// settle sorts the labels, refuses duplicates and takes out empty ones.
func (p *parser) settle() error {
	sortLabels(p.labels)
	for i := 1; i < len(p.labels); i++ {
		if p.labels[i].Name == p.labels[i-1].Name {
			return fmt.Errorf("label %.40s is there twice", p.labels[i].Name)
		}
	}
	p.labels = slices.DeleteFunc(p.labels, func(l series.Label) bool { return l.Value == "" })
	return nil
}

func sortLabels(labels []series.Label) {
	slices.SortFunc(labels, func(a, b series.Label) int { return strings.Compare(a.Name, b.Name) })
}
