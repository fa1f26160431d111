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
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Getenv("KEEP") != "")
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// patience is how long one step may take on a machine under load.
const patience = 2 * time.Minute

// demo is the stage: a control plane and one device.
type demo struct {
	began time.Time
	site  *site.Site
	edge  *site.Edge
}

// run shows everything, and cleans up whatever happens.
func run(ctx context.Context, keep bool) (err error) {
	dir, err := os.MkdirTemp("", "flotta-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	d := &demo{began: time.Now()}
	if d.site, err = site.Start(ctx, site.Config{Dir: dir}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.site.Close()) }()
	steps := d.steps()
	if keep {
		steps = steps[:len(steps)-1] // the removal: there is to be something to look at
	}
	for _, step := range steps {
		if err := d.play(ctx, step); err != nil {
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

// step is one thing that is shown. Its function returns what there is to see.
type step struct {
	title string
	show  func(context.Context) (string, error)
}

func (d *demo) play(ctx context.Context, s step) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	start := time.Now()
	seen, err := s.show(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("%6.1fs  %-58s %5.1fs\n", time.Since(d.began).Seconds(), s.title, time.Since(start).Seconds())
	for line := range strings.Lines(seen) {
		fmt.Print("           │ ", strings.TrimRight(line, "\n"), "\n")
	}
	return nil
}

// explain prints what the device has to say about a step that failed.
func (d *demo) explain() {
	if d.edge == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	fmt.Fprintln(os.Stderr, d.edge.Journal(ctx, 80))
}

func (d *demo) lookAround() {
	enter := fmt.Sprintf("nsenter --target %d --all --", d.edge.Leader())
	flotta := enter + " setpriv --reuid flotta --regid flotta --init-groups env HOME=/var/home/flotta XDG_RUNTIME_DIR=/run/user/$(" +
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
	r, err := edge.Run(ctx, "sh", "-c", "ps -o pid=,args= -p 1; pgrep -a yggd; podman --version")
	return r.Stdout, err
}

func imageOf(tag string) string { return "localhost/flotta-test:" + tag }
