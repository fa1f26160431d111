package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/test/site"
)

const (
	workload = "hello"
	unit     = "flotta-workload@hello.service"
	port     = "18080"

	// What the files hold that travel.
	fromEdge  = "hello from the edge"
	fromCloud = "hello from the cloud"
)

func (d *demo) steps() []step {
	return []step{
		{"control plane started: Edge API, S3", d.start},
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
		{"manifest edited: a program that ends at once", d.saveBad},
		{"taken back, and the device says why", d.takenBack},
		{"manifest mended", d.save("v2")},
		{"power cut, and the device is back with its workload", d.powerCut},
		{"manifest removed: workload deleted", d.remove},
	}
}

func (d *demo) asked(ctx context.Context) (string, error) {
	err := site.Until(ctx, patience, func() error {
		if !d.site.Requested(d.edge.ID()) {
			return fmt.Errorf("no request of %s", d.edge.ID())
		}
		return nil
	})
	if err == nil && d.edge.Condition("Registered") == nil {
		err = fmt.Errorf("%s is registered before anyone approved it", d.edge.ID())
	}
	return "", err
}

func (d *demo) approve(ctx context.Context) (string, error) {
	return d.site.API.Command(ctx, "approve", d.edge.ID())
}

func (d *demo) registered(ctx context.Context) (string, error) {
	if err := d.edge.Registered(ctx); err != nil {
		return "", err
	}
	// A heartbeat is accepted only with the device's own certificate.
	if err := site.Until(ctx, patience, func() error {
		status, err := d.site.Device(d.edge.ID())
		if err == nil && status.Status.Phase != "up" {
			err = fmt.Errorf("device is %q, want up", status.Status.Phase)
		}
		return err
	}); err != nil {
		return "", err
	}
	if err := d.certificate(); err != nil {
		return "", err
	}
	return d.site.API.Command(ctx, "devices")
}

// certificate checks that the device's certificate is in its own name.
func (d *demo) certificate() error {
	raw, err := d.edge.ReadFile("/etc/pki/flotta/cert.pem")
	if err != nil {
		return err
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return errors.New("read certificate: no PEM in it")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err == nil && cert.Subject.CommonName != d.edge.ID() {
		err = fmt.Errorf("certificate is for %q, want %q", cert.Subject.CommonName, d.edge.ID())
	}
	return err
}

// goodArgs are those of a program that serves.
const goodArgs = `[serve, "8080"]`

// save returns a step that saves the manifests, the workload's with that image.
func (d *demo) save(tag string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return d.saveWith(tag, goodArgs) }
}

func (d *demo) saveBad(context.Context) (string, error) { return d.saveWith("v2", `[exit, "3"]`) }

// takenBack waits until the version before answers again, and the device has
// told the Edge API why.
func (d *demo) takenBack(ctx context.Context) (string, error) {
	if err := site.Until(ctx, patience, func() error {
		status, err := d.site.Device(d.edge.ID())
		if err != nil {
			return err
		}
		for _, w := range status.Status.Workloads {
			if w.Name == workload && w.Reason == "ContainerExited" {
				return nil
			}
		}
		return fmt.Errorf("the Edge API has heard nothing of it: %+v", status.Status.Workloads)
	}); err != nil {
		return "", err
	}
	if err := d.ask(ctx, "/version", "v2"); err != nil {
		return "", err
	}
	// It ends with 1, because something is not as wanted.
	status, err := d.edge.Run(ctx, "sh", "-c", "flotta-agent status || test $? -eq 1")
	return "$ flotta-agent status\n" + status.Stdout, err
}

// saveWith saves the manifests.
func (d *demo) saveWith(tag, args string) (string, error) {
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
        args: %s
        ports: [{containerPort: 8080, hostPort: %s}]
`, workload, imageOf(tag), args, port)
	if err := d.site.WriteManifest("device.yaml", edge); err != nil {
		return "", err
	}
	shown := text
	if tag != "v1" {
		shown = "        image: " + imageOf(tag) + "\n        args: " + args + "\n"
	}
	return shown, d.site.WriteManifest("workload.yaml", text)
}

// ask sends a request to the program in the container, through its port on the
// device, until it answers with want.
func (d *demo) ask(ctx context.Context, path, want string) error {
	url := "http://" + d.edge.Addr() + ":" + port + path
	// A connection that nobody answers any more must not take the time of all the others.
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
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
		if err == nil && (resp.StatusCode != http.StatusOK || string(body) != want) {
			err = fmt.Errorf("%s answers %s %q, want %q", url, resp.Status, body, want)
		}
		return err
	})
}

// silent says that nothing listens on the workload's port of the device.
func (d *demo) silent(ctx context.Context) error {
	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(d.edge.Addr(), port))
	if err != nil {
		return nil //nolint:nilerr // that is what is wanted
	}
	_ = conn.Close()
	return fmt.Errorf("port %s of the device is still open", port)
}

func (d *demo) running(ctx context.Context) (string, error) { return d.runs(ctx, "v1") }

// runs waits until that version of the workload answers and the Edge API has
// heard that it runs.
func (d *demo) runs(ctx context.Context, version string) (string, error) {
	if err := d.ask(ctx, "/version", version); err != nil {
		return "", err
	}
	if err := site.Until(ctx, patience, func() error {
		if phase := d.edge.Phase(workload); phase != v1alpha1.PhaseRunning {
			return fmt.Errorf("the Edge API has heard that it is %q", phase)
		}
		return nil
	}); err != nil {
		return "", err
	}
	return d.state(ctx)
}

// state shows what an administrator would look at. Both commands fail when the
// workload does not run.
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
	if err := d.ask(ctx, "/put?path=/out/greeting&text=hello+from+the+edge", ""); err != nil {
		return "", err
	}
	err := site.Until(ctx, patience, func() error { return d.object(ctx, "from-devices/greeting", fromEdge) })
	return "/export/out/greeting → s3://" + site.Bucket + "/from-devices/greeting: " + fromEdge, err
}

// object asks the S3 server for an object, and compares it.
func (d *demo) object(ctx context.Context, key, want string) error {
	object, err := d.site.S3.Client().GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String(site.Bucket), Key: &key})
	if err != nil {
		return err
	}
	defer func() { _ = object.Body.Close() }()
	got, err := io.ReadAll(object.Body)
	if err == nil && string(got) != want {
		err = fmt.Errorf("object %s is %q, want %q", key, got, want)
	}
	return err
}

func (d *demo) download(ctx context.Context) (string, error) {
	_, err := d.site.S3.Client().PutObject(ctx, &s3.PutObjectInput{
		Bucket: aws.String(site.Bucket), Key: aws.String("to-devices/answer"), Body: bytes.NewReader([]byte(fromCloud)),
	})
	if err != nil {
		return "", err
	}
	return "s3://" + site.Bucket + "/to-devices/answer → /export/in/answer: " + fromCloud, d.ask(ctx, "/file?path=/in/answer", fromCloud)
}

func (d *demo) rolledOut(ctx context.Context) (string, error) { return d.runs(ctx, "v2") }

func (d *demo) powerCut(ctx context.Context) (string, error) {
	before, err := d.edge.Container(ctx, workload, "app")
	if err != nil {
		return "", err
	}
	if err := d.edge.PowerCut(); err != nil {
		return "", err
	}
	if err := d.silent(ctx); err != nil {
		return "", err
	}
	if err := d.edge.PowerOn(ctx); err != nil {
		return "", err
	}
	seen, err := d.runs(ctx, "v2")
	if err != nil {
		return "", err
	}
	after, err := d.edge.Container(ctx, workload, "app")
	if err == nil && after == before {
		err = fmt.Errorf("container %s is the one of before the power cut", after)
	}
	if err != nil {
		return "", err
	}
	return seen, d.ask(ctx, "/file?path=/in/answer", fromCloud)
}

func (d *demo) remove(ctx context.Context) (string, error) {
	if err := d.site.RemoveManifest("workload.yaml"); err != nil {
		return "", err
	}
	if err := site.Until(ctx, patience, func() error { return d.gone(ctx) }); err != nil {
		return "", err
	}
	return "no pod, no unit, port closed; what it uploaded is still in the bucket", d.object(ctx, "from-devices/greeting", fromEdge)
}

// gone returns nil when nothing of the workload runs, nor would after a boot.
func (d *demo) gone(ctx context.Context) error {
	out, err := d.edge.Podman(ctx, "ps", "--all", "--pod", "--noheading")
	if err == nil && out != "" {
		err = fmt.Errorf("podman ps: %s", out)
	}
	if err != nil {
		return err
	}
	// Both exit with an error for the very answer that is wanted.
	if state, _ := d.edge.UserUnit(ctx, "is-active", unit); state != "inactive" {
		return fmt.Errorf("unit is %q", state)
	}
	if state, _ := d.edge.UserUnit(ctx, "is-enabled", unit); state != "disabled" {
		return fmt.Errorf("unit is %q", state)
	}
	return d.silent(ctx)
}
