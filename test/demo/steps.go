package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/project-flotta/flotta-agent/test/site"
)

const (
	workload = "hello"
	unit     = "flotta-workload@hello.service"
	port     = "18080"
)

func (d *demo) steps() []step {
	return []step{
		{"device booted: systemd, rootless Podman, yggd, agent", d.boot},
		{"device asks to be managed", d.asked},
		{"approved (flotta-edge-api approve)", d.approve},
		{"registered, with a certificate of its own", d.registered},
		{"manifest saved", d.save("v1")},
		{"workload running", d.running},
		{"a file the container wrote is in the bucket", d.upload},
		{"a file put in the bucket is read by the container", d.download},
		{"manifest edited: image v1 → v2", d.save("v2")},
		{"change rolled out", d.rolledOut},
		{"power cut, and the device is back with its workload", d.powerCut},
		{"manifest removed: workload deleted", d.remove},
	}
}

func (d *demo) asked(ctx context.Context) (string, error) {
	return "", site.Until(ctx, patience, func() error {
		if !d.site.Requested(d.edge.ID()) {
			return fmt.Errorf("no request of %s", d.edge.ID())
		}
		return nil
	})
}

func (d *demo) approve(ctx context.Context) (string, error) {
	return d.site.API.Command(ctx, "approve", d.edge.ID())
}

func (d *demo) registered(ctx context.Context) (string, error) {
	if err := d.edge.Registered(ctx); err != nil {
		return "", err
	}
	return d.site.API.Command(ctx, "devices")
}

// save returns a step that saves the manifests, the workload's with that image.
func (d *demo) save(tag string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) {
		edge := fmt.Sprintf(`apiVersion: management.project-flotta.io/v1alpha1
kind: EdgeDevice
metadata:
  name: %q
  labels: {place: demo}
spec:
  heartbeat: {periodSeconds: 2}
  storage: {s3: {configMapName: storage, secretName: storage}}
`, d.edge.ID())
		text := fmt.Sprintf(`apiVersion: management.project-flotta.io/v1alpha1
kind: EdgeWorkload
metadata: {name: %s}
spec:
  type: pod
  deviceSelector: {matchLabels: {place: demo}}
  data:
    egress:  [{source: out, target: from-devices}]
    ingress: [{source: to-devices, target: in}]
  pod:
    spec:
      containers:
      - name: app
        image: %s
        args: [serve, "8080"]
        ports: [{containerPort: 8080, hostPort: %s}]
`, workload, imageOf(tag), port)
		if err := d.site.WriteManifest("device.yaml", edge); err != nil {
			return "", err
		}
		shown := text
		if tag != "v1" {
			shown = "        image: " + imageOf(tag) + "\n"
		}
		return shown, d.site.WriteManifest("workload.yaml", text)
	}
}

// ask sends a request to the program in the container, through its port on the
// device, until it answers with want.
func (d *demo) ask(ctx context.Context, path, want string) error {
	url := "http://" + d.edge.Addr() + ":" + port + path
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	return site.Until(ctx, patience, func() error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		if err == nil && string(body) != want {
			err = fmt.Errorf("%s answers %s %q, want %q", url, resp.Status, body, want)
		}
		return err
	})
}

func (d *demo) running(ctx context.Context) (string, error) {
	if err := d.ask(ctx, "/version", "v1"); err != nil {
		return "", err
	}
	return d.state(ctx)
}

// state shows what an administrator would look at.
func (d *demo) state(ctx context.Context) (string, error) {
	ps, err := d.edge.Podman(ctx, "ps", "--filter", "name="+workload+"-app", "--format", "table {{.Names}}\t{{.Image}}\t{{.Status}}\t{{.Ports}}")
	if err != nil {
		return "", err
	}
	status, err := d.edge.UserUnit(ctx, "status", "--no-pager", "--lines=0", unit)
	if err != nil {
		return "", err
	}
	lines := strings.SplitAfter(status, "\n")
	return "$ podman ps\n" + ps + "\n$ systemctl --user status " + unit + "\n" + strings.Join(lines[:min(3, len(lines))], ""), nil
}

func (d *demo) upload(ctx context.Context) (string, error) {
	const text = "hello from the edge"
	if err := d.ask(ctx, "/put?path=/out/greeting&text=hello+from+the+edge", ""); err != nil {
		return "", err
	}
	err := site.Until(ctx, patience, func() error {
		got, err := os.ReadFile(filepath.Join(d.site.BucketDir(), "from-devices/greeting"))
		if err == nil && string(got) != text {
			err = fmt.Errorf("the object is %q", got)
		}
		return err
	})
	return "/export/out/greeting → s3://" + site.Bucket + "/from-devices/greeting: " + text, err
}

func (d *demo) download(ctx context.Context) (string, error) {
	const text = "hello from the cloud"
	_, err := d.site.S3.Client().PutObject(ctx, &s3.PutObjectInput{
		Bucket: aws.String(site.Bucket), Key: aws.String("to-devices/answer"), Body: bytes.NewReader([]byte(text)),
	})
	if err != nil {
		return "", err
	}
	return "s3://" + site.Bucket + "/to-devices/answer → /export/in/answer: " + text, d.ask(ctx, "/file?path=/in/answer", text)
}

func (d *demo) rolledOut(ctx context.Context) (string, error) {
	if err := d.ask(ctx, "/version", "v2"); err != nil {
		return "", err
	}
	return d.state(ctx)
}

func (d *demo) powerCut(ctx context.Context) (string, error) {
	if err := d.edge.PowerCut(); err != nil {
		return "", err
	}
	if err := d.edge.PowerOn(ctx); err != nil {
		return "", err
	}
	if err := d.ask(ctx, "/version", "v2"); err != nil {
		return "", err
	}
	return d.state(ctx)
}

func (d *demo) remove(ctx context.Context) (string, error) {
	if err := d.site.RemoveManifest("workload.yaml"); err != nil {
		return "", err
	}
	return "", site.Until(ctx, patience, func() error {
		out, err := d.edge.Podman(ctx, "pod", "ps", "--noheading", "--filter", "name=^"+workload+"$")
		if err == nil && out != "" {
			err = fmt.Errorf("podman pod ps: %s", out)
		}
		return err
	})
}
