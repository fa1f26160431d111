//go:build device

package e2e

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/project-flotta/flotta-agent/test/site"
)

const syncPaths = `data:
  egress: [{source: out, target: from-device}]
  ingress: [{source: to-device, target: in}]
`

func TestFilesTravelBothWays(t *testing.T) {
	t.Parallel()
	r := newRig(t, site.EdgeConfig{})
	r.save("w.yaml", r.workload("courier", "args: [serve, '8080']\nports: [{containerPort: 8080, hostPort: 18080}]", syncPaths))
	r.running("courier", "app")
	r.sub("egress", syncEgress)
	r.sub("ingress", syncIngress)
	r.sub("100 MiB both ways", syncLarge)
	r.sub("a symlink to a host file", syncSymlink)
	r.sub("a file that changes while it is uploaded", syncChanging)
	r.sub("the last upload is reported", syncReported)
}

// export is a path below the workload's /export, as the host sees it.
func (r *rig) export(path string) string {
	return r.edge.Path(filepath.Join(site.Export("courier"), path))
}

func (r *rig) write(path, content string) {
	r.Helper()
	must(r.T, os.MkdirAll(filepath.Dir(r.export(path)), 0o755))
	must(r.T, os.WriteFile(r.export(path), []byte(content), 0o644))
}

func (r *rig) put(key string, content []byte) {
	r.Helper()
	_, err := r.site.S3.Client().PutObject(r.ctx, &s3.PutObjectInput{
		Bucket: aws.String(r.site.Bucket), Key: aws.String(key), Body: bytes.NewReader(content),
	})
	must(r.T, err)
}

// arrives waits until a file of the device has that content.
func (r *rig) arrives(path string, want []byte) {
	r.Helper()
	r.until(path+" arrives on the device", func() error {
		got, err := os.ReadFile(r.export(path))
		if err == nil && !bytes.Equal(got, want) {
			err = fmt.Errorf("it has %d bytes that are not the %d wanted", len(got), len(want))
		}
		return err
	})
}

// oddNames are file names that people do use.
var oddNames = []string{
	"with space", "ümläut-日本", "100%+plus&more", `quote"d'`, "#hash?query", "-dash", ".hidden", "a=b;c,d", "deep/er/and/deep er/file",
}

func syncEgress(r *rig) {
	r.answers("18080", "/put?path=/out/new&text=fresh", "")
	r.object("from-device/new", "fresh")
	r.answers("18080", "/put?path=/out/new&text=again", "")
	r.object("from-device/new", "again")
	r.write("out/empty", "")
	r.object("from-device/empty", "")
	for _, name := range oddNames {
		r.write("out/odd/"+name, name)
	}
	for _, name := range oddNames {
		r.object("from-device/odd/"+name, name)
	}
	// Same size, older time, other content.
	r.write("out/old", "aaaa")
	r.object("from-device/old", "aaaa")
	r.write("out/old", "bbbb")
	past := time.Now().Add(-48 * time.Hour)
	must(r.T, os.Chtimes(r.export("out/old"), past, past))
	r.object("from-device/old", "bbbb")
	// What is unchanged stays as it is, and what is removed here stays there.
	before, err := os.Stat(filepath.Join(r.site.BucketDir(), "from-device/new"))
	must(r.T, err)
	must(r.T, os.Remove(r.export("out/empty")))
	r.write("out/marker", "cycle")
	r.object("from-device/marker", "cycle")
	r.write("out/marker", "cycle 2")
	r.object("from-device/marker", "cycle 2")
	after, err := os.Stat(filepath.Join(r.site.BucketDir(), "from-device/new"))
	must(r.T, err)
	if !after.ModTime().Equal(before.ModTime()) {
		r.Error("an unchanged file was sent again")
	}
	r.object("from-device/empty", "")
}

func syncIngress(r *rig) {
	r.put("to-device/greeting", []byte("hello"))
	r.answers("18080", "/file?path=/in/greeting", "hello")
	r.put("to-device/greeting", []byte("hello again"))
	r.answers("18080", "/file?path=/in/greeting", "hello again")
	r.put("to-device/empty", nil)
	r.arrives("in/empty", nil)
	for _, name := range oddNames {
		r.put("to-device/odd/"+name, []byte(name))
	}
	for _, name := range oddNames {
		r.arrives("in/odd/"+name, []byte(name))
	}
	before, err := os.Stat(r.export("in/greeting"))
	must(r.T, err)
	r.put("to-device/marker", []byte("cycle"))
	r.arrives("in/marker", []byte("cycle"))
	after, err := os.Stat(r.export("in/greeting"))
	must(r.T, err)
	if !os.SameFile(before, after) {
		r.Error("an unchanged object was downloaded again")
	}
}

func syncLarge(r *rig) {
	content := make([]byte, 100<<20)
	_, _ = rand.Read(content)
	must(r.T, os.WriteFile(r.export("out/large"), content, 0o600))
	r.put("to-device/large", content)
	// A reader on the device never sees a part of it.
	r.until("the large object arrives", func() error {
		info, err := os.Stat(r.export("in/large"))
		if err == nil && info.Size() != int64(len(content)) {
			r.Fatalf("a part of the file was visible: %d bytes", info.Size())
		}
		return err
	})
	r.arrives("in/large", content)
	r.until("the large file is in the bucket", func() error {
		got, err := os.ReadFile(filepath.Join(r.site.BucketDir(), "from-device/large"))
		if err == nil && !bytes.Equal(got, content) {
			err = fmt.Errorf("it has %d other bytes", len(got))
		}
		return err
	})
}

func syncSymlink(r *rig) {
	must(r.T, os.Symlink("/etc/shadow", r.export("out/shadow")))
	must(r.T, os.Symlink("/etc", r.export("out/etc")))
	r.write("out/after-links", "x")
	r.object("from-device/after-links", "x")
	r.until("the links are reported", func() error {
		if events := r.site.Events(r.edge.ID()); !strings.Contains(events, "shadow") {
			return fmt.Errorf("events: %s", events)
		}
		return nil
	})
	shadow, err := r.edge.ReadFile("/etc/shadow")
	must(r.T, err)
	must(r.T, filepath.WalkDir(r.site.BucketDir(), func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		if strings.Contains(path, "shadow") || strings.Contains(path, "/etc/") {
			r.Errorf("%s is in the bucket", path)
		}
		raw, err := os.ReadFile(path)
		if len(shadow) > 0 && bytes.Contains(raw, shadow) {
			r.Errorf("the content of /etc/shadow is in the bucket as %s", path)
		}
		return err
	}))
	// The same the other way round: a planted link must not lead a download out.
	must(r.T, os.Symlink("/etc", r.export("in/planted")))
	r.put("to-device/planted/flotta-was-here", []byte("x"))
	r.put("to-device/after-planted", []byte("x"))
	r.arrives("in/after-planted", []byte("x"))
	if _, err := os.Lstat(r.edge.Path("/etc/flotta-was-here")); err == nil {
		r.Error("a download followed a symbolic link out of the volume")
	}
}

func syncChanging(r *rig) {
	path := r.export("out/growing")
	f, err := os.Create(path)
	must(r.T, err)
	defer func() { _ = f.Close() }()
	chunk := bytes.Repeat([]byte("0123456789abcdef"), 64<<10) // 1 MiB
	var all bytes.Buffer
	// It grows for three cycles, so that it is read while it is written.
	for range 60 {
		_, err := f.Write(chunk)
		must(r.T, err)
		all.Write(chunk)
		time.Sleep(100 * time.Millisecond)
	}
	_, err = f.WriteString("end")
	must(r.T, err)
	all.WriteString("end")
	must(r.T, f.Close())
	r.object("from-device/growing", all.String())
}

func syncReported(r *rig) {
	r.until("the Edge API knows the last upload", func() error {
		d, err := r.site.Device(r.edge.ID())
		if err != nil {
			return err
		}
		for _, w := range d.Status.Workloads {
			if w.Name == "courier" && w.LastDataUpload != nil && time.Since(w.LastDataUpload.Time) < time.Hour {
				return nil
			}
		}
		return fmt.Errorf("workloads: %+v", d.Status.Workloads)
	})
}
