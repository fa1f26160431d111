package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/project-flotta/flotta-agent/test/device"
	"github.com/project-flotta/flotta-agent/test/image"
	"github.com/project-flotta/flotta-agent/test/site"
)

func main() {
	// Whoever reads the output may leave first; that must not end us before we have cleaned up.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, os.Getenv("KEEP") != "")
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// patience is how long one step may take on a machine under load.
const patience = 2 * time.Minute

var errInterrupted = errors.New("interrupted; everything is removed")

// demo is the stage: a control plane and one device.
type demo struct {
	began time.Time
	dir   string
	site  *site.Site
	edge  *site.Edge
}

// run shows everything, and cleans up whatever happens.
func run(ctx context.Context, keep bool) (err error) {
	dir, err := os.MkdirTemp("", "flotta-demo-")
	if err != nil {
		return err
	}
	d := &demo{began: time.Now(), dir: dir}
	defer func() { err = errors.Join(err, d.close()) }()
	steps := d.steps()
	if keep {
		steps = steps[:len(steps)-1] // without the removal: there is something to look at
	}
	for _, step := range steps {
		err := d.play(ctx, step)
		if ctx.Err() != nil {
			return errInterrupted
		}
		if err != nil {
			d.explain()
			return fmt.Errorf("%s: %w", step.title, err)
		}
	}
	fmt.Printf("\nDone in %s. Files travel every 2 s here; a device does it every 15 s unless told otherwise.\n",
		time.Since(d.began).Round(time.Second))
	if keep {
		d.lookAround()
		<-ctx.Done()
	}
	return nil
}

// close removes everything that there is so far.
func (d *demo) close() error {
	var err error
	if d.site != nil {
		err = d.site.Close()
	}
	return errors.Join(err, os.RemoveAll(d.dir))
}

// step is one thing that is shown. Its function returns what there is to see.
type step struct {
	title string
	show  func(context.Context) (string, error)
}

// play prints the title at once, so that one sees what is being waited for.
func (d *demo) play(ctx context.Context, s step) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	start := time.Now()
	fmt.Printf("%6.1fs  %-58s ", start.Sub(d.began).Seconds(), s.title)
	seen, err := s.show(ctx)
	if err != nil {
		fmt.Println(" not done")
		return err
	}
	fmt.Printf("%5.1fs\n", time.Since(start).Seconds())
	for line := range strings.Lines(seen) {
		fmt.Print("           │ ", strings.TrimRight(line, "\n"), "\n")
	}
	return nil
}

// explain prints what the device and the Edge API have to say about a step that failed.
func (d *demo) explain() {
	if d.edge == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	fmt.Fprintln(os.Stderr, d.edge.Journal(ctx, 80))
	fmt.Fprintln(os.Stderr, d.site.Problems())
}

// start starts the control plane.
func (d *demo) start(ctx context.Context) (string, error) {
	s, err := site.Start(ctx, site.Config{Dir: d.dir})
	if err != nil {
		return "", err
	}
	d.site = s
	return fmt.Sprintf("Edge API on port %d, S3 on port %d with the bucket %s", s.API.Port, s.S3.Port, site.Bucket), nil
}

func (d *demo) lookAround() {
	enter := fmt.Sprintf("nsenter --target %d --all --", d.edge.Leader())
	flotta := enter + " setpriv --reuid flotta --regid flotta --init-groups env -i PATH=$PATH HOME=/var/home/flotta XDG_RUNTIME_DIR=/run/user/$(" +
		enter + " id -u flotta)"
	fmt.Printf(`
Everything is left running. To look around, as root on this machine:

  the manifests, edit them     %s
  what the Edge API knows      cat %s/devices/default/%s.yaml
  the bucket                   ls -R %s
  a shell on the device        %s bash
  the agent's log              %s journalctl -u yggd -f
  the workload's containers    %s podman ps
  its unit                     %s systemctl --user status flotta-workload@hello

Ctrl-C ends and removes it all.
`, d.site.ManifestDir(), d.site.API.Dir, d.edge.ID(), d.site.BucketDir(), enter, enter, flotta, flotta)
}

// boot boots the device. It starts to ask for management by itself.
func (d *demo) boot(ctx context.Context) (string, error) {
	edge, err := d.site.NewEdge(ctx, site.EdgeConfig{})
	if err != nil {
		return "", err
	}
	d.edge = edge
	for _, tag := range []string{"v1", "v2"} {
		if err := edge.AddImage(ctx, device.User, image.Spec{Ref: imageOf(tag)}); err != nil {
			return "", err
		}
	}
	rootless, err := edge.Podman(ctx, "info", "--format", "{{.Host.Security.Rootless}}")
	if err == nil && rootless != "true" {
		err = fmt.Errorf("podman info says rootless: %s", rootless)
	}
	if err != nil {
		return "", err
	}
	// yggd starts the agent, which may be a moment after the boot.
	var seen device.Result
	err = site.Until(ctx, patience, func() error {
		seen, err = edge.Run(ctx, "sh", "-ec", "ps -o pid=,args= -p 1 | grep systemd; pgrep -a yggd; pgrep -a flotta-agent; podman --version")
		return err
	})
	return seen.Stdout, err
}

func imageOf(tag string) string { return "localhost/flotta-test:" + tag }
