//go:build integration

package datasync

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
	"github.com/project-flotta/flotta-agent/test/testenv"
)

// smallDisk mounts a disk of that many MiB; it goes with the test.
func smallDisk(t *testing.T, dir string, mib int) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", mib)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
}

// fill writes a file until the disk is full, and returns its path.
func fill(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "ballast")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for _, step := range []int{1 << 20, 4 << 10, 1} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, step))
		}
	}
	return path
}

func readOnly(t *testing.T, dir string, on bool) {
	t.Helper()
	flags := uintptr(syscall.MS_REMOUNT)
	if on {
		flags |= syscall.MS_RDONLY
	}
	// A write that is under way makes it busy.
	eventually(t, "the disk is mounted anew", func() bool {
		return syscall.Mount("", dir, "", flags, "") == nil
	})
}

// some returns files and objects of 100 KB, by name.
func some(n int) map[string]string {
	all := map[string]string{}
	for i := range n {
		all[fmt.Sprintf("d%d/f%d", i%3, i)] = strings.Repeat(fmt.Sprintf("%010d", i), 10_000)
	}
	return all
}

// arrived fails unless both directions come to their end by themselves.
func arrived(t *testing.T, b *bench, client *s3.Client, up, down map[string]string) {
	t.Helper()
	deadline := time.Now().Add(90 * time.Second)
	for {
		got := map[string]string{}
		for name, data := range b.files("in") {
			if !isTemp(filepath.Base(name)) {
				got[name] = data
			}
		}
		downDiff := cmp.Diff(down, got)
		upDiff := ""
		for name, data := range up {
			if o, err := client.Head(context.Background(), "up/"+name); err != nil || o.Size != int64(len(data)) {
				upDiff = fmt.Sprintf("object %s: %+v, %v", name, o, err)
				break
			}
		}
		if downDiff == "" && upDiff == "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("after 90 s still not:\n%.1000s\n%s\n%+v", downDiff, upDiff, b.engine.Status())
		}
		time.Sleep(20 * time.Millisecond)
	}
	for name, data := range up {
		if string(getObject(t, client, "up/"+name)) != data {
			t.Errorf("object %s has other content", name)
		}
	}
}

// noPart fails when a reader could take a part of a file for the file.
func noPart(t *testing.T, b *bench, down map[string]string) {
	t.Helper()
	for name, data := range b.files("in") {
		if !isTemp(filepath.Base(name)) && data != down[name] {
			t.Errorf("%s has %d bytes", name, len(data))
		}
	}
}

// troubled is an engine that makes cycles by itself, on a volume or an index of
// its own disk.
func troubled(t *testing.T) (*bench, *s3.Client) {
	t.Helper()
	server := testenv.S3(t)
	client, _ := realStore(t, server, nil)
	b := newBench(t, client, paths(up(), down()), func(c *Config) {
		c.Interval = 200 * time.Millisecond
		c.Walk = time.Second
	})
	b.stop()
	return b, client
}

func TestVolumeOnAFullDisk(t *testing.T) {
	t.Parallel()
	b, client := troubled(t)
	disk := b.path("")
	smallDisk(t, disk, 16)
	sent, received := some(20), some(40)
	for name, data := range sent {
		b.write("out/"+name, data)
	}
	for name, data := range received {
		putObject(t, client, "down/"+name, []byte(data))
	}
	ballast := fill(t, disk)
	b.start(b.engine.cfg)
	// What is sent does not care; what is received has no room.
	arrived(t, b, client, sent, map[string]string{})
	eventually(t, "the full disk shows", func() bool {
		s := b.status(ingress)
		return s.Blocked != "" || s.LastError != ""
	})
	noPart(t, b, received)
	if err := os.Truncate(ballast, 10<<20); err != nil {
		t.Fatal(err)
	}
	arrived(t, b, client, sent, received)
}

func TestIndexOnAFullDisk(t *testing.T) {
	t.Parallel()
	b, client := troubled(t)
	disk := filepath.Join(b.dir, "state")
	smallDisk(t, disk, 4)
	cfg := b.engine.cfg
	cfg.IndexPath = filepath.Join(disk, "datasync.db")
	ballast := fill(t, disk)
	sent, received := some(20), some(20)
	for name, data := range sent {
		b.write("out/"+name, data)
	}
	for name, data := range received {
		putObject(t, client, "down/"+name, []byte(data))
	}
	b.start(cfg)
	// Without any index nothing can be done; it comes as soon as there is room.
	time.Sleep(time.Second)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	arrived(t, b, client, sent, received)
	// Full in the middle of work: what can't be recorded is done again later.
	ballast = fill(t, disk)
	for i := range 30 {
		name := fmt.Sprintf("later/%0200d", i)
		sent[name], received[name] = name, name
		b.write("out/"+name, name)
		putObject(t, client, "down/"+name, []byte(name))
	}
	time.Sleep(time.Second)
	noPart(t, b, received)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	arrived(t, b, client, sent, received)
	eventually(t, "everything is recorded", func() bool {
		_ = b.sync(egress)
		_ = b.sync(ingress)
		before := b.status(egress).Files + b.status(ingress).Files
		return b.sync(egress) == nil && b.sync(ingress) == nil && b.status(egress).Files+b.status(ingress).Files == before
	})
}

func TestReadOnlyVolume(t *testing.T) {
	t.Parallel()
	b, client := troubled(t)
	volume := b.path("")
	smallDisk(t, volume, 32)
	sent, received := map[string]string{"first": "1"}, map[string]string{"first": "1"}
	b.write("out/first", "1")
	putObject(t, client, "down/first", []byte("1"))
	b.start(b.engine.cfg)
	arrived(t, b, client, sent, received)

	readOnly(t, volume, true)
	received["second"] = "2"
	putObject(t, client, "down/second", []byte("2"))
	eventually(t, "the read-only volume shows", func() bool { return b.status(ingress).LastError != "" || b.status(ingress).Blocked != "" })
	readOnly(t, volume, false)
	arrived(t, b, client, sent, received)
}

func TestStoreOnAFullDisk(t *testing.T) {
	t.Parallel()
	if os.Getenv(testenv.S3ServerEnv) != "" {
		t.Log("MinIO keeps a gigabyte free and takes nothing on a small disk; versitygw has this test")
		return
	}
	disk := filepath.Join(t.TempDir(), "store")
	smallDisk(t, disk, 48)
	server, err := testenv.StartS3(context.Background(), testenv.S3Config{Dir: disk})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	client, _ := realStore(t, server, func(c *s3.Config) { c.PartBytes = 5 << 20 })
	b := newBench(t, client, paths(up(), nil), func(c *Config) { c.Interval, c.Walk = 200*time.Millisecond, time.Second })
	ballast := fill(t, disk)
	sent := some(20)
	sent["large"] = string(bytes.Repeat([]byte("0123456789abcdef"), 12<<20/16))
	for name, data := range sent {
		b.write("out/"+name, data)
	}
	eventually(t, "the full store shows", func() bool { return b.status(egress).LastError != "" })
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	arrived(t, b, client, sent, map[string]string{})
}
