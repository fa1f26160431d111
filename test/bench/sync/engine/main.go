// Command engine is the agent's synchronisation engine and nothing else, for
// measurements. It synchronises one workload; what it did it says in JSON, one
// line each time it is asked through a line on its standard input.
package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"time"

	"github.com/project-flotta/flotta-agent/internal/datasync"
	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

const workload = "w"

type settings struct {
	dir, state, endpoint, bucket, prefix, profile string
	up, down, once, null                          bool
	interval                                      time.Duration
}

func main() {
	var c settings
	flag.StringVar(&c.dir, "dir", "", "folder of volumes; the files are below w/out and w/in")
	flag.StringVar(&c.state, "state", "", "folder for the index")
	flag.StringVar(&c.endpoint, "endpoint", "", "URL of the store")
	flag.StringVar(&c.bucket, "bucket", "", "bucket")
	flag.StringVar(&c.prefix, "prefix", "p", "prefix of the objects")
	flag.StringVar(&c.profile, "profile", "", "file for a CPU profile")
	flag.BoolVar(&c.up, "up", false, "upload")
	flag.BoolVar(&c.down, "down", false, "download")
	flag.BoolVar(&c.once, "once", false, "end when everything is done")
	flag.BoolVar(&c.null, "null", false, "instead of a store, take everything and keep nothing")
	flag.DurationVar(&c.interval, "interval", 15*time.Second, "time between cycles")
	flag.Parse()
	// The agent's own setting.
	debug.SetGCPercent(100)
	if err := run(c); err != nil {
		fmt.Fprintln(os.Stderr, "engine:", err)
		os.Exit(1)
	}
}

func run(c settings) error {
	if c.profile != "" {
		f, err := os.Create(c.profile)
		if err != nil {
			return err
		}
		defer f.Close() //nolint:errcheck // a measurement.
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	store, err := c.desired(log)
	if err != nil {
		return err
	}
	cfg := datasync.Config{
		Desired: store, VolumesDir: c.dir, IndexPath: filepath.Join(c.state, "datasync.db"),
		Interval: c.interval, Log: log,
	}
	if c.null {
		cfg.Open = func(desired.Storage) (datasync.Store, error) { return null{}, nil }
	}
	engine, err := datasync.New(cfg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- engine.Run(ctx) }()
	c.wait(engine)
	if !c.once {
		c.answer(engine)
	}
	cancel()
	return <-ended
}

// desired is the desired state of a device with one workload.
func (c settings) desired(log *slog.Logger) (*desired.Store, error) {
	at, err := url.Parse(c.endpoint)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseInt(at.Port(), 10, 32)
	if err != nil {
		return nil, err
	}
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	w := protocol.Workload{Name: workload, Specification: "containers: [{name: c, image: i}]", Data: &protocol.DataConfiguration{}}
	if c.up {
		w.Data.Egress = []protocol.DataPath{{Source: "out", Target: c.prefix}}
	}
	if c.down {
		w.Data.Ingress = []protocol.DataPath{{Source: c.prefix, Target: "in"}}
	}
	raw, err := json.Marshal(protocol.DeviceConfigurationMessage{
		DeviceID: "device", Version: "1", Workloads: []protocol.Workload{w},
		Configuration: &protocol.DeviceConfiguration{Storage: &protocol.StorageConfiguration{S3: &protocol.S3StorageConfiguration{
			BucketHost: at.Scheme + "://" + at.Hostname(), BucketPort: int32(port), BucketName: c.bucket,
			AWSAccessKeyID: b64(os.Getenv("AWS_ACCESS_KEY_ID")), AWSSecretAccessKey: b64(os.Getenv("AWS_SECRET_ACCESS_KEY")),
		}}},
	})
	if err != nil {
		return nil, err
	}
	store, err := desired.Open(filepath.Join(c.state, "desired.json"), "device", log)
	if err != nil {
		return nil, err
	}
	return store, store.Accept(raw)
}

// wait returns when everything is where it belongs.
func (c settings) wait(engine *datasync.Engine) {
	for ; ; time.Sleep(10 * time.Millisecond) {
		for _, w := range engine.Status().Workloads {
			if (!c.up || done(w.Egress)) && (!c.down || done(w.Ingress)) {
				return
			}
		}
	}
}

func done(d datasync.DirectionStatus) bool {
	return !d.LastSuccess.IsZero() && d.Pending == 0 && d.Failed == 0
}

// answer writes the state for each line that comes, until the input ends.
func (c settings) answer(engine *datasync.Engine) {
	out := json.NewEncoder(os.Stdout)
	_ = out.Encode("ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		if strings.TrimSpace(in.Text()) == "free" {
			debug.FreeOSMemory()
		}
		_ = out.Encode(engine.Status())
	}
}

// null is a store that takes everything.
type null struct{ datasync.Store }

func (null) List(context.Context, string, func([]s3.Object) error) error { return nil }

func (null) Put(_ context.Context, u s3.Upload) (string, error) {
	_, err := io.Copy(io.Discard, io.NewSectionReader(u.Body, 0, u.Size))
	return "d41d8cd98f00b204e9800998ecf8427e", err
}

func (null) Uploads(context.Context, string, func([]s3.Begun) error) error { return nil }

func (null) Close() {}
