package agent

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/internal/bundle"
)

// FuzzSecretsOfAMessage: whatever a device was told, its secrets are collected
// without a panic, and those that were are not in what a bundle would have of it.
func FuzzSecretsOfAMessage(f *testing.F) {
	f.Add([]byte(quote(plant().message("key", "key"))))
	f.Add([]byte(`{"secrets":[{"name":"a","data":"{\"k\":\"aHVudGVyMjIy\"}"}],"workloads":[{"specification":"a: &x [*x]","configmaps":["{"],"imageRegistries":{"authFile":"{\"auths\":{\"r\":{\"auth\":\"====\"}}}"}}]}`))
	f.Add([]byte(`{"configuration":{"storage":{"s3":{"bucket_host":"http://u:passw@h","aws_access_key_id":"="}},"metrics":{"receiver":{"url":"://%zz"}}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		e := &Examination{cfg: Config{}.withDefaults(), raw: raw}
		if json.Unmarshal(raw, &e.message) != nil {
			return
		}
		e.endpoints()
		secrets := e.Secrets()
		document, err := bundle.Document(raw)
		if err != nil {
			return
		}
		out, err := bundle.NewRedactor(secrets).Bytes(document)
		if err != nil {
			return
		}
		for _, s := range secrets {
			if text := s.Reveal(); len(text) >= 4 && text != bundle.Redacted && strings.Contains(string(out), text) {
				t.Errorf("%q is left in %s", text, out)
			}
		}
	})
}

// FuzzHostFiles: whatever the files of a system hold, they are read without a
// panic, and what is told of them has no line end.
func FuzzHostFiles(f *testing.F) {
	f.Add([]byte("PRETTY_NAME=\"Fedora\"\nNAME=x\n"))
	f.Add([]byte("btime 1767225600\nbtime -1\n"))
	f.Add([]byte("btime 99999999999999999999\nNAME='\""))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if name := releaseName(raw); strings.Contains(name, "\n") {
			t.Errorf("name %q", name)
		}
		if at := bootTime(raw); !at.IsZero() && at.Before(time.Unix(0, 0)) {
			t.Errorf("boot time %s", at)
		}
	})
}
