// Program oracle parses pages as a Prometheus server does, for the test that
// compares our parser with it. It is a module of its own, so that nothing of it
// moves the versions of what is shipped.
//
// It reads one JSON object a line from standard input, {"open": bool, "page":
// base64}, and answers each with one line: {"error": text} or {"points":
// [{"labels": {name: value}, "bits": of the value, "timed": bool, "millis":
// int}]}.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
)

type point struct {
	Labels map[string]string `json:"labels"`
	Bits   uint64            `json:"bits"`
	Timed  bool              `json:"timed"`
	Millis int64             `json:"millis"`
}

type answer struct {
	Error  string  `json:"error,omitempty"`
	Points []point `json:"points"`
}

func main() {
	in := json.NewDecoder(bufio.NewReader(os.Stdin))
	out := bufio.NewWriter(os.Stdout)
	for {
		var question struct {
			Open bool   `json:"open"`
			Page []byte `json:"page"`
		}
		if err := in.Decode(&question); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		points, err := parse(question.Page, question.Open)
		a := answer{Points: points}
		if err != nil {
			a = answer{Error: err.Error()}
		}
		if err := errors.Join(json.NewEncoder(out).Encode(a), out.Flush()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

func parse(page []byte, open bool) (points []point, err error) {
	kind := "text/plain; version=0.0.4"
	if open {
		kind = "application/openmetrics-text; version=1.0.0"
	}
	p, err := textparse.New(page, kind, labels.NewSymbolTable(), textparse.ParserOptions{})
	if err != nil {
		return nil, err
	}
	for {
		entry, err := p.Next()
		if errors.Is(err, io.EOF) {
			return points, nil
		}
		if err != nil {
			return nil, err
		}
		if entry != textparse.EntrySeries {
			continue
		}
		_, at, value := p.Series()
		var l labels.Labels
		p.Labels(&l)
		if name, twice := l.HasDuplicateLabelNames(); twice {
			return nil, fmt.Errorf("label %q is not unique", name)
		}
		one := point{Labels: map[string]string{}, Bits: math.Float64bits(value)}
		l.Range(func(l labels.Label) {
			if l.Value != "" {
				one.Labels[l.Name] = l.Value
			}
		})
		if at != nil {
			one.Timed, one.Millis = true, *at
		}
		points = append(points, one)
	}
}
