package scrape

import (
	"slices"
	"strings"

	"github.com/project-flotta/flotta-agent/internal/metrics/series"
)

// entry returns the series with these labels of the target's, and ours.
func (s *Scraper) entry(theirs []series.Label) *entry {
	s.labels = append(s.labels[:0], theirs...)
	for i, l := range s.labels {
		if !has(s.own, l.Name) {
			continue
		}
		name := "exported_" + l.Name
		for has(s.labels, name) || has(s.own, name) {
			name = "exported_" + name
		}
		s.labels[i].Name = name
	}
	s.labels = append(s.labels, s.own...)
	sortLabels(s.labels)
	s.key = appendKey(s.key[:0], s.labels)
	if e := s.alive[string(s.key)]; e != nil {
		return e
	}
	// One string holds the key and all labels, and nothing of the page.
	key := string(s.key)
	e := &entry{labels: labelsOf(key, s.labels)}
	s.alive[key] = e
	return e
}

// appendKey writes labels so that no two sets of them look the same: a zero byte
// may be in a value, but 0xff is in no UTF-8.
func appendKey(b []byte, labels []series.Label) []byte {
	for _, l := range labels {
		b = append(b, l.Name...)
		b = append(b, 0xff)
		b = append(b, l.Value...)
		b = append(b, 0xff)
	}
	return b
}

// labelsOf returns labels like these that refer to their key.
func labelsOf(key string, like []series.Label) []series.Label {
	labels := make([]series.Label, len(like))
	for i, l := range like {
		name, value := len(l.Name), len(l.Name)+1+len(l.Value)
		labels[i] = series.Label{Name: key[:name], Value: key[name+1 : value]}
		key = key[value+1:]
	}
	return labels
}

func has(labels []series.Label, name string) bool {
	return slices.ContainsFunc(labels, func(l series.Label) bool { return l.Name == name })
}

func metricName(labels []series.Label) string {
	i, found := slices.BinarySearchFunc(labels, series.MetricName, func(l series.Label, name string) int {
		return strings.Compare(l.Name, name)
	})
	if !found {
		return ""
	}
	return labels[i].Value
}
