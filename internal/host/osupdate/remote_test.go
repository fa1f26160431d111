package osupdate

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const url2 = "https://new.example.com/repo"

func TestEdited(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string][2]string{
		"nothing":     {"", "[remote \"edge\"]\nurl=https://new.example.com/repo\n"},
		"usual":       {"[remote \"edge\"]\nurl=http://old\ngpg-verify=false\n", "[remote \"edge\"]\nurl=https://new.example.com/repo\ngpg-verify=false\n"},
		"without url": {"[remote \"edge\"]\ngpg-verify=true", "[remote \"edge\"]\nurl=https://new.example.com/repo\ngpg-verify=true\n"},
		"only a head": {" [remote \"edge\"] ", " [remote \"edge\"] \nurl=https://new.example.com/repo\n"},
		"head in a comment": {
			"# [remote \"edge\"]\n[remote \"edge\"]\n", "# [remote \"edge\"]\n[remote \"edge\"]\nurl=https://new.example.com/repo\n",
		},
		"another remote": {
			"[remote \"edge2\"]\nurl=http://a\n[remote \"edg\"]\nurl=http://b", "[remote \"edge2\"]\nurl=http://a\n[remote \"edg\"]\nurl=http://b\n[remote \"edge\"]\nurl=https://new.example.com/repo\n",
		},
		"keys that look alike": {
			"[remote \"edge\"]\n#url=http://c\ncontenturl=http://d\nurl-x=1\n url = http://old \ngpgkeypath=/url=\n[other]\nurl=http://e\n",
			"[remote \"edge\"]\n#url=http://c\ncontenturl=http://d\nurl-x=1\nurl=https://new.example.com/repo\ngpgkeypath=/url=\n[other]\nurl=http://e\n",
		},
	} {
		r := remote{name: "edge", text: []byte(tt[0])}
		if diff := cmp.Diff(tt[1], string(r.edited(url2))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestFindRemote(t *testing.T) {
	t.Parallel()
	const edge = "[remote \"edge\"]\nurl=http://old\n"
	for name, tt := range map[string]struct {
		files map[string]string
		path  string // that is written
		err   string
	}{
		"none":             {nil, "edge.conf", ""},
		"usual":            {map[string]string{"edge.conf": edge}, "edge.conf", ""},
		"in another file":  {map[string]string{"all.conf": edge, "edge.conf": "[remote \"x\"]\n"}, "all.conf", ""},
		"in no conf":       {map[string]string{"edge.conf.rpmsave": edge}, "edge.conf", ""},
		"in two files":     {map[string]string{"a.conf": edge, "b.conf": edge}, "", "several files"},
		"in ostree's file": {map[string]string{"../../../ostree/repo/config": edge}, "", "belongs to ostree"},
		"metalink":         {map[string]string{"edge.conf": edge + "metalink=https://m\n"}, "", "metalink"},
		"a folder":         {map[string]string{"edge.conf/x": ""}, "", "not a regular file"},
		"too large":        {map[string]string{"edge.conf": strings.Repeat("#", maxRemoteFile+1)}, "", "more than"},
	} {
		root := t.TempDir()
		for path, text := range tt.files {
			path = filepath.Join(root, remotesDir, path)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, path, text)
			if err := os.Chmod(path, 0o640); err != nil {
				t.Fatal(err)
			}
		}
		r, err := findRemote(root, "edge")
		changed := false
		if err == nil {
			changed, err = r.set(url2)
		}
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		path := filepath.Join(root, remotesDir, tt.path)
		if err != nil || !changed || !strings.Contains(read(t, path), "\nurl="+url2+"\n") {
			t.Errorf("%s: changed %v, %v", name, changed, err)
			continue
		}
		if info, err := os.Stat(path); err != nil || tt.files[tt.path] != "" && info.Mode().Perm() != 0o640 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
		if r, err = findRemote(root, "edge"); err == nil {
			changed, err = r.set(url2)
		}
		if err != nil || changed {
			t.Errorf("%s: a second time: changed %v, %v", name, changed, err)
		}
	}
	link := t.TempDir()
	if err := os.MkdirAll(filepath.Join(link, remotesDir), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"edge.conf": "../common", "x.conf": "/nowhere"} {
		if err := os.Symlink(target, filepath.Join(link, remotesDir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, text := range []string{"[remote \"edge\"]\nurl=http://old\n", "[remote \"other\"]\n"} {
		write(t, filepath.Join(link, remotesDir, "../common"), text)
		r, err := findRemote(link, "edge")
		if err != nil {
			t.Fatal(err)
		}
		if changed, err := r.set(url2); changed || err == nil || !strings.Contains(err.Error(), "is a link") {
			t.Errorf("a link to\n%s: %v, %v", text, changed, err)
		}
	}
	for _, name := range []string{"", "../edge", "-x", "a b", "edge\"]", ".", "a\n", strings.Repeat("a", 101)} {
		if _, err := findRemote(link, name); err == nil || !strings.Contains(err.Error(), "not a name") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// FuzzEdited: whatever is in the file, the remote then fetches from the new url,
// and every other remote from where it did.
func FuzzEdited(f *testing.F) {
	f.Add([]byte("[remote \"edge\"]\nurl=http://old\n[remote \"x\"]\nurl=http://x"))
	f.Add([]byte("[remote \"edge\"]\r\n\x00url=http://old\r\nurl"))
	f.Add([]byte("[]\n[remote \"edge\"] #\n[remote \"edge\"]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		before := remote{name: "edge", text: text}
		after := remote{name: "edge", text: before.edited(url2)}
		if got := after.url(); got != url2 {
			t.Errorf("edge has url %q in\n%s", got, after.text)
		}
		if diff := cmp.Diff(before.section("url"), after.section("url")); diff != "" {
			t.Errorf("other keys (-want +got):\n%s", diff)
		}
		x, y := remote{name: "x", text: text}, remote{name: "x", text: after.text}
		if diff := cmp.Diff(x.section(), y.section()); diff != "" {
			t.Errorf("another remote (-want +got):\n%s", diff)
		}
	})
}

func FuzzCheckURL(f *testing.F) {
	for _, text := range []string{"https://a/b", "file:///x", "http://[::1]:80/%20", "https://x/\nproxy=y", "-u", "http://a b"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if checkURL(text) == nil && (strings.ContainsAny(text, " \t\r\n\x00\\\"'") || text[0] == '-' || len(text) > maxURL) {
			t.Errorf("%q is a URL", text)
		}
	})
}

func TestImageReference(t *testing.T) {
	t.Parallel()
	digest := "@sha256:" + strings.Repeat("a", 64)
	for _, good := range []string{"r.example.com/os:1", "r.example.com:5000/a/b_c" + digest, "localhost/os:v1.2_X" + digest, "fedora/iot"} {
		if err := (Goal{Image: good}).check(true); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"os", "-x/y", "r/--help", "r/os@sha256:12", "r/os:", "R/os", "r/os os", "r/os\n", "docker://r/os", "r/../os", "r/" + strings.Repeat("a", 600)} {
		if err := (Goal{Image: bad}).check(true); err == nil {
			t.Errorf("%q is an image", bad)
		}
	}
	if err := (Goal{Commit: "x"}).check(true); err == nil || !strings.Contains(err.Error(), "os.image") {
		t.Errorf("a commit for bootc: %v", err)
	}
	if err := (Goal{}).check(true); err != nil {
		t.Error(err)
	}
}
