//go:build bench

package sync_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/bench/fleet"
	"github.com/project-flotta/flotta-agent/test/testenv"
)

const prefix = "p"

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// rig is a store that speaks http, and the programs that use it.
type rig struct {
	*testing.T
	dir     string
	store   *testenv.S3Server
	log     string // one line a request
	engine  string // programs
	former  string
	buckets int
}

func newRig(t *testing.T) *rig {
	r := &rig{T: t, dir: t.TempDir()}
	r.log = filepath.Join(r.dir, "access.log")
	data := filepath.Join(r.dir, "store")
	must(t, os.Mkdir(data, 0o755))
	var err error
	r.store, err = testenv.StartS3(t.Context(), testenv.S3Config{Dir: data, Plain: true, AccessLog: r.log})
	must(t, err)
	t.Cleanup(r.store.Stop)
	for name, to := range map[string]*string{"engine": &r.engine, "former": &r.former} {
		*to = filepath.Join(r.dir, name)
		cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-tags", "grpcnotrace", "-o", *to, "./"+name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", name, err, out)
		}
	}
	return r
}

// bucket makes a new one.
func (r *rig) bucket() string {
	r.Helper()
	r.buckets++
	name := fmt.Sprintf("bucket-%d", r.buckets)
	must(r.T, r.store.CreateBucket(r.Context(), name))
	return name
}

// drop removes a bucket behind the store's back, and what was downloaded.
func (r *rig) drop(bucket string, folders ...string) {
	r.Helper()
	for _, dir := range append(folders, filepath.Join(r.store.Dir, bucket)) {
		must(r.T, os.RemoveAll(dir))
	}
}

// files makes n files of that size below a folder, a hundred in each.
func (r *rig) files(dir string, n, size int) {
	r.Helper()
	source := rand.NewChaCha8([32]byte{byte(n)})
	data := make([]byte, size)
	for i := range n {
		folder := filepath.Join(dir, fmt.Sprintf("d%d", i/1000), fmt.Sprintf("e%d", i/100%10))
		if i%100 == 0 {
			must(r.T, os.MkdirAll(folder, 0o755))
		}
		_, _ = source.Read(data)
		must(r.T, os.WriteFile(filepath.Join(folder, fmt.Sprintf("f%d", i)), data, 0o644))
	}
}

// large makes one file, a piece at a time.
func (r *rig) large(path string, size int64) {
	r.Helper()
	must(r.T, os.MkdirAll(filepath.Dir(path), 0o755))
	f, err := os.Create(path)
	must(r.T, err)
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{1}), size)
	must(r.T, err)
	must(r.T, f.Close())
}

// count returns how many files there are below a folder, and their bytes.
func (r *rig) count(dir string) (files int, size int64) {
	r.Helper()
	must(r.T, filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			files, size = files+1, size+info.Size()
		}
		return err
	}))
	return files, size
}

// requests is how many the store has answered.
func (r *rig) requests() int {
	r.Helper()
	f, err := os.Open(r.log)
	must(r.T, err)
	defer func() { _ = f.Close() }()
	n := 0
	for in := bufio.NewReader(f); ; n++ {
		if _, err := in.ReadSlice('\n'); err == io.EOF {
			return n
		} else if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			r.Fatal(err)
		}
	}
}

// cost is what a piece of work took.
type cost struct {
	wall, cpu time.Duration
	rss       int64 // bytes, at most
	requests  int
}

// measure runs a program to its end.
func (r *rig) measure(cmd *exec.Cmd) cost {
	r.Helper()
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &text
	before := r.requests()
	start := time.Now()
	err := cmd.Run()
	c := cost{wall: time.Since(start)}
	if err != nil {
		out := text.Bytes()
		r.Fatalf("%s: %v\n%s", cmd, err, out[max(0, len(out)-2000):])
	}
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		r.Fatal("no usage of the process is known")
	}
	c.cpu = time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	c.rss = usage.Maxrss << 10
	c.requests = r.requests() - before
	return c
}

// contender is one way to synchronise a folder with a prefix of a bucket.
type contender struct {
	name     string
	up, down func(bucket, dir, state string) *exec.Cmd
}

const ours = "flotta-agent"

func (r *rig) contenders() []contender {
	at := r.store.Endpoint()
	home := filepath.Join(r.dir, "home")
	must(r.T, os.MkdirAll(home, 0o755))
	environ := []string{
		"HOME=" + home, "PATH=" + os.Getenv("PATH"), "AWS_REGION=us-east-1",
		"AWS_ACCESS_KEY_ID=" + r.store.AccessKey, "AWS_SECRET_ACCESS_KEY=" + r.store.SecretKey,
		"MC_HOST_b=http://" + r.store.AccessKey + ":" + r.store.SecretKey + "@" + net.JoinHostPort(r.store.Host, strconv.Itoa(r.store.Port)),
		"RCLONE_CONFIG_B_TYPE=s3", "RCLONE_CONFIG_B_PROVIDER=Other", "RCLONE_CONFIG_B_ENDPOINT=" + at,
		"RCLONE_CONFIG_B_ENV_AUTH=true", "RCLONE_CONFIG_B_REGION=us-east-1", "RCLONE_CONFIG=" + filepath.Join(home, "none"),
	}
	run := func(program string, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(r.Context(), program, args...)
		cmd.Env = environ
		return cmd
	}
	rclone := func(from, to string) *exec.Cmd {
		// The fast way to look for changes, and as many files at once as the others.
		return run(testenv.Tool(r.T, "rclone"), "copy", "--quiet", "--fast-list", "--transfers", "16", "--checkers", "16",
			"--update", "--use-server-modtime", from, to)
	}
	mc := func(from, to string) *exec.Cmd {
		return run(testenv.Tool(r.T, "mc"), "mirror", "--quiet", "--overwrite", from, to)
	}
	engine := func(bucket, dir, state, way string) *exec.Cmd {
		must(r.T, os.MkdirAll(state, 0o755))
		return run(r.engine, "-endpoint", at, "-bucket", bucket, "-prefix", prefix, "-dir", volumes(dir), "-state", state, way)
	}
	return []contender{
		{
			ours, func(b, dir, state string) *exec.Cmd { return engine(b, dir, state, "-up") },
			func(b, dir, state string) *exec.Cmd { return engine(b, dir, state, "-down") },
		},
		{
			"rclone", func(b, dir, _ string) *exec.Cmd { return rclone(dir, "b:"+b+"/"+prefix) },
			func(b, dir, _ string) *exec.Cmd { return rclone("b:"+b+"/"+prefix, dir) },
		},
		{
			"mc", func(b, dir, _ string) *exec.Cmd { return mc(dir, "b/"+b+"/"+prefix) },
			func(b, dir, _ string) *exec.Cmd { return mc("b/"+b+"/"+prefix, dir) },
		},
		{
			"s5cmd",
			func(b, dir, _ string) *exec.Cmd {
				return run(testenv.Tool(r.T, "s5cmd"), "--endpoint-url", at, "--log", "error", "sync", dir+"/", "s3://"+b+"/"+prefix+"/")
			},
			func(b, dir, _ string) *exec.Cmd {
				return run(testenv.Tool(r.T, "s5cmd"), "--endpoint-url", at, "--log", "error", "sync", "s3://"+b+"/"+prefix+"/*", dir+"/")
			},
		},
		{
			"flotta v0.2",
			func(b, dir, _ string) *exec.Cmd {
				return run(r.former, "-endpoint", at, "-bucket", b, "-prefix", prefix, "-dir", dir)
			},
			func(b, dir, _ string) *exec.Cmd {
				return run(r.former, "-endpoint", at, "-bucket", b, "-prefix", prefix, "-dir", dir, "-down")
			},
		},
	}
}

// volumes is the folder of volumes for a folder of files: V for V/w/out.
func volumes(dir string) string { return filepath.Dir(filepath.Dir(dir)) }

// running is an engine that keeps running.
type running struct {
	*rig
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	fleet.Process
}

// start runs the engine, and returns when all is where it belongs.
func (r *rig) start(cmd *exec.Cmd, args ...string) *running {
	r.Helper()
	e := &running{rig: r, cmd: cmd}
	cmd.Args = append(cmd.Args, args...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(r.T, err)
	out, err := cmd.StdoutPipe()
	must(r.T, err)
	e.in, e.out = in, bufio.NewReader(out)
	must(r.T, cmd.Start())
	r.Cleanup(func() { _ = cmd.Process.Kill() })
	e.Process = fleet.Process{Name: ours, PID: cmd.Process.Pid}
	if line, err := e.out.ReadString('\n'); err != nil || !strings.Contains(line, "ready") {
		r.Fatalf("engine says %q (err %v)", line, err)
	}
	return e
}

// stop ends it and returns the most memory that it had.
func (e *running) stop() (rss int64) {
	e.Helper()
	_ = e.in.Close()
	must(e.T, e.cmd.Wait())
	usage, _ := e.cmd.ProcessState.SysUsage().(*syscall.Rusage)
	return usage.Maxrss << 10
}

func (e *running) now() cost {
	e.Helper()
	cpu, err := e.CPU()
	must(e.T, err)
	rss, err := e.Resident()
	must(e.T, err)
	return cost{cpu: cpu, rss: rss, requests: e.requests()}
}
