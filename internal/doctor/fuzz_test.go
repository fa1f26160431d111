package doctor

import (
	"strings"
	"testing"
	"testing/fstest"
)

// FuzzFiles: whatever the files of a machine hold, each check finds something,
// and says what to do unless all is well.
func FuzzFiles(f *testing.F) {
	f.Add("flotta:1:65536\n")
	f.Add("exec = \"/usr/bin/flotta-agent\"\n")
	f.Add("exec=../../x\nflotta:x:99999999999999999999\n=\n")
	f.Add("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----")
	f.Add("9223372036854775807")
	f.Fuzz(func(t *testing.T, text string) {
		files := fstest.MapFS{"cert.pem": {Data: []byte(text)}}
		_, _, known := sound()
		for name := range known {
			if !strings.HasPrefix(name, "state/") {
				files[name] = &fstest.MapFile{Data: []byte(text)}
			}
		}
		for _, check := range []string{"certificate", "service", "cgroups", "subids", "selinux", "inotify"} {
			for _, found := range only(t, check, func(h *Host, s *Subject, _ fstest.MapFS) {
				h.Files, s.Credential = files, Credential{CertFile: "/cert.pem", KeyFile: "/cert.pem", CAFiles: []string{"/cert.pem"}}
			}) {
				if found.Found == "" || (found.Advice == "") != (found.Level == OK || found.Level == Skip) {
					t.Errorf("%s: %+v", check, found)
				}
			}
		}
	})
}
