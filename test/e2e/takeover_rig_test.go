//go:build device

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/project-flotta/flotta-agent/test/device"
	"github.com/project-flotta/flotta-agent/test/site"
)

const (
	formerWorker  = "/etc/yggdrasil/workers/device-worker.toml"
	formerProgram = "/usr/libexec/yggdrasil/device-worker"
	ownWorker     = "/etc/yggdrasil/workers/device.toml"
	userUnits     = "/var/home/flotta/.config/systemd/user"
)

// former is a device as flotta v0.2 leaves it: registered, with its worker under yggd,
// two workloads of which one is not configured any more, and data in the bucket.
type former struct {
	*rig

	dataDir string
	cert    []byte
	large   []byte
	stamps  map[string]time.Time // of the objects
}

// newFormer registers a device with this agent, for its credentials, and then makes it
// one of flotta v0.2.
func newFormer(t *testing.T, dataDir string, cfg site.EdgeConfig) *former {
	t.Helper()
	cfg.Transport = site.Yggd
	f := &former{rig: newRig(t, cfg), dataDir: dataDir, stamps: map[string]time.Time{}}
	f.run("systemctl", "stop", "yggd")
	f.run("mv", ownWorker, "/root/device.toml")
	f.run("sh", "-ec", `cd /etc/pki/flotta
for f in cert key; do cp -L $f.pem /root/$f.pem; rm -f $f.pem; done
rm -f flotta-credentials*; mv /root/cert.pem /root/key.pem .
chattr -i /var/local/yggdrasil/device 2>/dev/null || true
rm -rf /var/local/yggdrasil/device /etc/flotta/*.flotta-v0.2; mkdir -p /var/local/yggdrasil`)
	var err error
	f.cert, err = f.edge.ReadFile("/etc/pki/flotta/cert.pem")
	must(t, err)

	f.save("w.yaml", f.workload("courier", "args: [serve, '8080']\nports: [{containerPort: 8080, hostPort: 18080}]", syncPaths))
	f.saveConfiguration()
	f.upload()
	f.play("courier", 18080)
	f.play("stale", 18081)
	f.asFlotta("printf c2VjcmV0 | podman secret create former -")
	f.run("mkdir", "-p", filepath.Dir(formerProgram))
	f.run("cp", "/bin/sleep", formerProgram)
	must(t, f.edge.WriteFile(formerWorker, []byte("exec = \""+formerProgram+" 100000\"\nprotocol = \"grpc\"\nenv = []\n"), 0o644))
	f.run("systemctl", "start", "yggd")
	f.until("yggd runs the worker of flotta v0.2", f.workerRuns)
	f.answers("18080", "/file?path=/out/small", "small")
	return f
}

func (f *former) workerRuns() error {
	_, err := f.edge.Run(f.ctx, "sh", "-c", `for p in /proc/[0-9]*; do [ "$(readlink $p/exe)" != `+formerProgram+` ] || exit 0; done; exit 1`)
	return err
}

// saveConfiguration saves what the control plane says, in the form of flotta v0.2.
func (f *former) saveConfiguration() {
	f.Helper()
	id := f.edge.ID()
	var message struct {
		Content map[string]any `json:"content"`
	}
	f.until("the control plane names the workload", func() error {
		out := f.run("curl", "-sSf", "--cert", "/etc/pki/flotta/cert.pem", "--key", "/etc/pki/flotta/key.pem", "--cacert", "/etc/pki/flotta/ca.pem",
			fmt.Sprintf("https://%s:%d/api/flotta-management/v1/data/%s/in", site.EdgeName, f.site.APIPath.Port(), id))
		err := json.Unmarshal([]byte(out), &message)
		if err == nil && message.Content["workloads"] == nil {
			err = errors.New("it does not")
		}
		return err
	})
	message.Content["secrets"] = []any{map[string]any{"name": "former", "data": `{"key":"c2VjcmV0"}`}}
	raw, err := json.MarshalIndent(message.Content, "", " ")
	must(f.T, err)
	must(f.T, f.edge.WriteFile(f.dataDir+"/device-config.json", raw, 0o640))
}

// upload makes files of the workload, and puts them into the bucket as flotta v0.2 does:
// plainly, the large one in parts, without any metadata.
func (f *former) upload() {
	f.Helper()
	f.large = bytes.Repeat([]byte("0123456789abcdef"), 12<<20/16)
	volume := filepath.Join(f.dataDir, "volumes/courier/out")
	must(f.T, f.edge.WriteFile(volume+"/small", []byte("small"), 0o644))
	must(f.T, f.edge.WriteFile(volume+"/large", f.large, 0o644))
	f.run("chown", "-R", "flotta:flotta", filepath.Join(f.dataDir, "volumes"))
	f.put("from-device/small", []byte("small"))
	f.putInParts("from-device/large", f.large, 5<<20)
	for _, key := range []string{"from-device/small", "from-device/large"} {
		f.stamps[key] = f.modified(key)
	}
	time.Sleep(1100 * time.Millisecond) // S3 tells times by the second
}

// putInParts sends content as the uploader of flotta v0.2 does.
func (f *former) putInParts(key string, content []byte, size int) {
	f.Helper()
	client, bucket := f.site.S3.Client(), aws.String(f.site.Bucket)
	begun, err := client.CreateMultipartUpload(f.ctx, &s3.CreateMultipartUploadInput{Bucket: bucket, Key: &key})
	must(f.T, err)
	var parts []types.CompletedPart
	for part := range slices.Chunk(content, size) {
		number := aws.Int32(int32(len(parts) + 1))
		done, err := client.UploadPart(f.ctx, &s3.UploadPartInput{
			Bucket: bucket, Key: &key, UploadId: begun.UploadId, PartNumber: number, Body: bytes.NewReader(part),
		})
		must(f.T, err)
		parts = append(parts, types.CompletedPart{ETag: done.ETag, PartNumber: number})
	}
	_, err = client.CompleteMultipartUpload(f.ctx, &s3.CompleteMultipartUploadInput{
		Bucket: bucket, Key: &key, UploadId: begun.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
	})
	must(f.T, err)
}

func (f *former) modified(key string) time.Time {
	f.Helper()
	o, err := f.site.S3.Client().HeadObject(f.ctx, &s3.HeadObjectInput{Bucket: aws.String(f.site.Bucket), Key: aws.String(key)})
	must(f.T, err)
	return aws.ToTime(o.LastModified)
}

// play runs a workload as flotta v0.2 does: the pod of its manifest, in units that
// Podman generated.
func (f *former) play(name string, port int) {
	f.Helper()
	manifest := fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata:
  creationTimestamp: null
  name: %[1]s
spec:
  containers:
  - name: app
    image: %[2]s
    args: [serve, '8080']
    env: [{name: DEVICE_ID, value: %[3]q}]
    ports: [{containerPort: 8080, hostPort: %[4]d}]
    resources: {}
    volumeMounts: [{name: export-%[1]s, mountPath: /export}]
  volumes:
  - name: export-%[1]s
    hostPath: {path: %[5]s/volumes/%[1]s, type: DirectoryOrCreate}
status: {}
---
`, name, imageV1, f.edge.ID(), port, f.dataDir)
	dir := f.dataDir + "/workloads/" + name
	must(f.T, f.edge.WriteFile(dir+"/workload.yaml", []byte(manifest), 0o644))
	f.run("mkdir", "-p", f.dataDir+"/volumes/"+name)
	f.run("chown", "flotta:flotta", f.dataDir+"/volumes/"+name)
	f.run("sh", "-c", "chmod 755 "+f.dataDir+" "+f.dataDir+"/*")
	f.asFlotta("mkdir -p " + userUnits + " && cd " + userUnits + " && podman play kube --start=false " + dir + "/workload.yaml" +
		" && podman generate systemd --files --name --pod-prefix= --restart-sec 15 " + name +
		" && systemctl --user daemon-reload && systemctl --user enable --now " + name + ".service")
}

// asFlotta runs a script as the user of the pods.
func (f *former) asFlotta(script string) string {
	f.Helper()
	result, err := f.edge.RunAs(f.ctx, device.User, "sh", "-c", script)
	if err != nil {
		f.Fatalf("%v\n%s", err, result.Stdout)
	}
	return result.Stdout
}

// answering notes on the device each time that the workload answers. The function that it
// returns says how long it did not.
func (f *former) answering() (gap func() time.Duration) {
	f.Helper()
	const list = "/run/answers"
	loop, err := f.edge.Command(f.ctx, "sh", "-c", "while sleep 0.05; do curl -sf -m 2 -o /dev/null http://127.0.0.1:18080/version && date +%s%N >>"+list+"; done")
	must(f.T, err)
	must(f.T, loop.Start())
	return func() time.Duration {
		f.Helper()
		_ = loop.Process.Kill()
		_ = loop.Wait()
		raw, err := f.edge.ReadFile(list)
		must(f.T, err)
		var last, longest int64
		for line := range strings.FieldsSeq(string(raw)) {
			at, err := strconv.ParseInt(line, 10, 64)
			must(f.T, err)
			if last != 0 {
				longest = max(longest, at-last)
			}
			last = at
		}
		if longest == 0 {
			f.Fatal("it never answered")
		}
		return time.Duration(longest)
	}
}

// install brings this agent.
func (f *former) install() {
	f.Helper()
	f.run("mv", "/root/device.toml", ownWorker)
}

// taken returns nil when the agent has taken over and nothing was lost or doubled.
func (f *former) taken() error {
	out, err := f.edge.Podman(f.ctx, "pod", "ps", "--format", "json")
	if err != nil {
		return err
	}
	var pods []struct {
		Name, Status string
		Labels       map[string]string
	}
	if err := json.Unmarshal([]byte(out), &pods); err != nil {
		return err
	}
	var names []string
	for _, p := range pods {
		if p.Name != "mine" {
			names = append(names, p.Name+" of "+p.Labels["io.project-flotta.workload"]+" is "+p.Status)
		}
	}
	if len(names) != 1 || names[0] != "courier of courier is Running" {
		return fmt.Errorf("pods: %q", names)
	}
	left := f.run("sh", "-c", "ls "+userUnits+" | grep -E '^(container-)?(courier|stale)' || true; ls "+userUnits+"/default.target.wants 2>/dev/null | grep -E 'courier|stale' || true; ls "+
		f.dataDir+"/workloads/*/workload.yaml 2>/dev/null || true; ls "+formerWorker+" 2>/dev/null || true")
	if left != "" {
		return fmt.Errorf("flotta v0.2 left %q", left)
	}
	if f.workerRuns() == nil {
		return fmt.Errorf("the worker of flotta v0.2 runs")
	}
	record, err := f.edge.ReadFile(stateDir + "/takeover.json")
	if err == nil && !strings.Contains(string(record), `"done":true`) {
		err = fmt.Errorf("it is not complete: %s", record)
	}
	return err
}

// untransferred fails the test when an object was sent again, or the device enrolled
// again.
func (f *former) untransferred() {
	f.Helper()
	for key, stamp := range f.stamps {
		if now := f.modified(key); !now.Equal(stamp) {
			f.Errorf("%s was sent again: %s, and was there since %s", key, now, stamp)
		}
	}
	cert, err := f.edge.ReadFile("/etc/pki/flotta/cert.pem")
	must(f.T, err)
	if !bytes.Equal(cert, f.cert) {
		f.Error("the device has another certificate")
	}
}
