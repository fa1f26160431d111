package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// dropIn writes one beside the settings at path.
func dropIn(t *testing.T, path, name, text string) {
	t.Helper()
	must(t, os.MkdirAll(path+".d", 0o755))
	must(t, os.WriteFile(filepath.Join(path+".d", name), []byte(text), 0o600))
}

func TestDropIns(t *testing.T) {
	t.Parallel()
	path := writeSettings(t, "log-level = \"debug\"\n[server]\naddress = \"a:1\"\nca-files = [\"/a\", \"/b\"]\n[[sync.window]]\nwhen = \"Mon\"\npause = true\n")
	dropIn(t, path, "20-late.toml", "[server]\naddress = \"late:1\"\n")
	dropIn(t, path, "10-early.toml", "[server]\naddress = \"early:1\"\npoll = \"7s\"\nca-files = [\"/c\"]\n")
	dropIn(t, path, ".hidden.toml", "?")
	dropIn(t, path, "30.toml.rpmnew", "?")
	must(t, os.Mkdir(filepath.Join(path+".d", "folder"), 0o755))
	c, err := LoadConfig(path)
	must(t, err)
	if c.Server.Address != "late:1" || time.Duration(c.Server.Poll) != 7*time.Second || c.LogLevel != "debug" || len(c.Sync.Windows) != 1 {
		t.Errorf("settings %+v", c)
	}
	if diff := cmp.Diff([]string{"/c"}, c.Server.CAFiles); diff != "" {
		t.Errorf("a list is set as a whole (-want +got):\n%s", diff)
	}
	dropIn(t, path, "40.toml", "[[sync.window]]\nwhen = \"Tue\"\npause = true\n")
	c, err = LoadConfig(path)
	must(t, err)
	if len(c.Sync.Windows) != 1 || len(c.Server.CAFiles) != 1 {
		t.Errorf("settings %+v", c)
	}

	for text, want := range map[string]string{
		"[server]\nserver = \"x:1\"\n": "50.toml: unknown setting", "x": "50.toml: line 1", "[server]\npoll = \"1ms\"\n": "server.poll 1ms",
	} {
		dropIn(t, path, "50.toml", text)
		if _, err := LoadConfig(path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "50.toml") {
			t.Errorf("%q: %v, want %q and the file", text, err, want)
		}
	}
}

func TestServerSettings(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`address = "edge.example.com"`:              "server.address",
		`address = ":8043"`:                         "server.address",
		`cert-file = "device.pem"`:                  "server.cert-file",
		`key-file = "device.pem"`:                   "server.key-file",
		`ca-files = ["ca.pem"]`:                     "server.ca-files",
		`ca-files = "/ca.pem"`:                      "ca-files",
		`device-id = "Device"`:                      "server.device-id",
		`device-id = "a/b"`:                         "server.device-id",
		`device-id = "-a"`:                          "server.device-id",
		`poll = "10ms"`:                             "server.poll",
		`proxy = "proxy.example.com"`:               "server.proxy",
		`proxy = "ftp://u:hunter2@example.com:123"`: "server.proxy",
	} {
		_, err := LoadConfig(writeSettings(t, "[server]\n"+text+"\n"))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	c, err := LoadConfig(writeSettings(t, "[server]\naddress = \"[::1]:8043\"\nproxy = \"http://u:hunter2@p:3128\"\n"))
	must(t, err)
	if c.Server.CertFile != defaultCertFile || c.Server.KeyFile != defaultCertFile || time.Duration(c.Server.Poll) != 5*time.Second {
		t.Errorf("defaults %+v", c.Server)
	}
	if proxy, err := c.Server.proxy(); err != nil || proxy == nil {
		t.Errorf("proxy: %v", err)
	}
}
