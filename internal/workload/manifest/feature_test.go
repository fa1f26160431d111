package manifest_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/workload/manifest"
)

func paths(features []manifest.Feature) []string {
	out := make([]string, 0, len(features))
	for _, f := range features {
		out = append(out, f.Path)
	}
	return out
}

func TestUnheededByVersion(t *testing.T) {
	t.Parallel()
	p := manifest.Plan{Features: []manifest.Feature{
		{Path: "never"}, {Path: "4.3", Since: "4.3"}, {Path: "4.10", Since: "4.10"}, {Path: "5.2", Since: "5.2"}, {Path: "odd", Since: "x"},
	}}
	for version, want := range map[string]string{
		"4.2.0": "never 4.3 4.10 5.2 odd", "4.3.1": "never 4.10 5.2 odd", "4.9.4-rhel": "never 4.10 5.2 odd",
		"4.10.0": "never 5.2 odd", "5.0.0": "never 5.2 odd", "5.2.0-rc1": "never odd", "5.2": "never odd", "5.10.3+ds1": "never odd",
		"6": "never odd", "v5.3.1": "never odd", " 5.3.1\n": "never odd",
		"": "never 4.3 4.10 5.2 odd", "unknown": "never 4.3 4.10 5.2 odd", "-1.2": "never 4.3 4.10 5.2 odd",
		"..": "never 4.3 4.10 5.2 odd", "99999999999999999999.1": "never 4.3 4.10 5.2 odd",
	} {
		if got := strings.Join(paths(p.Unheeded(version)), " "); got != want {
			t.Errorf("Podman %q leaves out %s, want %s", version, got, want)
		}
	}
}

func TestFeatures(t *testing.T) {
	t.Parallel()
	p := plan(t, `
restartPolicy: OnFailure
nodeSelector: {a: b}
tolerations: []
dnsPolicy: ClusterFirst
enableServiceLinks: false
schedulerName: default-scheduler
hostUsers: false
hostPID: true
hostIPC: false
fieldOfTomorrow: {x: 1}
securityContext: {runAsUser: 1, fsGroup: 2, seccompProfile: {type: RuntimeDefault}}
containers:
- name: a
  image: i
  args: ["$(DEVICE_ID)", "x"]
  env:
  - {name: A, value: "of $(B)"}
  - {name: B, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
  - {name: C, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
  livenessProbe: {exec: {command: [sh, -c, "test -f /x"]}}
  readinessProbe: {grpc: {port: 5}}
  startupProbe: {httpGet: {port: 80, httpHeaders: [{name: a, value: b}]}}
  resources: {limits: {cpu: 1, memory: 1Mi, nvidia.com/gpu: 1, "vendor.com/class=one": 1}, requests: {cpu: 1}}
  securityContext: {privileged: true, procMount: Unmasked, seccompProfile: {type: Localhost, localhostProfile: x}}
  terminationMessagePath: /dev/termination-log
  newToUs: 1
  volumeMounts: [{name: e, mountPath: /e, subPath: x}, {name: c, mountPath: /c}]
volumes:
- {name: e, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
- {name: c, configMap: {name: none, optional: true}}
- {name: far, nfs: {server: x, path: /}}
`)
	want := []manifest.Feature{
		{Path: "containers[0].args", Since: "4.7"},
		{Path: "containers[0].env[0].value"},
		{Path: "containers[0].env[2].valueFrom.fieldRef"},
		{Path: "containers[0].livenessProbe", Since: "5.2"},
		{Path: "containers[0].livenessProbe.exec.command", Since: "4.4"},
		{Path: "containers[0].newToUs"},
		{Path: "containers[0].readinessProbe"},
		{Path: "containers[0].resources.limits.cpu", Since: "4.3"},
		{Path: "containers[0].resources.limits.nvidia.com/gpu"},
		{Path: "containers[0].resources.limits.vendor.com/class=one", Since: "5.4"},
		{Path: "containers[0].resources.requests.cpu"},
		{Path: "containers[0].securityContext.procMount", Since: "4.7"},
		{Path: "containers[0].securityContext.seccompProfile.localhostProfile"},
		{Path: "containers[0].securityContext.seccompProfile.type"},
		{Path: "containers[0].startupProbe", Since: "4.4"},
		{Path: "containers[0].startupProbe.httpGet.httpHeaders"},
		{Path: "containers[0].volumeMounts[0].subPath", Since: "4.4"},
		{Path: "fieldOfTomorrow"},
		{Path: "hostPID", Since: "4.4"},
		{Path: "hostUsers", Since: "4.3"},
		{Path: "nodeSelector"},
		{Path: "securityContext.fsGroup"},
		{Path: "volumes[0].emptyDir", Since: "4.3"},
		{Path: "volumes[0].emptyDir.medium", Since: "5.0"},
		{Path: "volumes[0].emptyDir.sizeLimit"},
		{Path: "volumes[2].nfs"},
	}
	var got []manifest.Feature
	for _, f := range p.Features {
		if f.Note == "" {
			t.Errorf("%s has no note", f.Path)
		}
		f.Note = ""
		got = append(got, f)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("features (-want +got):\n%s", diff)
	}
	// All of it reaches Podman nevertheless.
	for _, field := range []string{"nodeSelector:", "fieldOfTomorrow:", "newToUs:", "readinessProbe:", "fsGroup:", "nfs:"} {
		if !strings.Contains(string(p.Manifest), field) {
			t.Errorf("%s is not in the manifest", field)
		}
	}
}

func TestFeaturesOfAPlainPod(t *testing.T) {
	t.Parallel()
	p := plan(t, `
restartPolicy: Always
terminationGracePeriodSeconds: 5
containers:
- name: a
  image: i
  command: [x]
  args: [y]
  env: [{name: A, value: b}]
  envFrom: [{secretRef: {name: db}}]
  ports: [{containerPort: 80, hostPort: 80}]
  livenessProbe: {exec: {command: [/check, --fast]}, periodSeconds: 5}
  resources: {limits: {memory: 1Mi}, requests: {memory: 1Mi}}
  volumeMounts: [{name: c, mountPath: /c, subPath: user}]
volumes:
- {name: c, secret: {secretName: db, defaultMode: 256}}
- {name: h, hostPath: {path: /srv}}
`)
	if len(p.Features) > 0 {
		t.Errorf("features of a pod that every Podman understands: %v", paths(p.Features))
	}
}

func TestFeatureOfALongAnnotation(t *testing.T) {
	t.Parallel()
	w := desired.Workload{
		Name: "w", PodSpec: spec(t, "{initContainers: [{name: z, image: i}], containers: [{name: a, image: i}]}"),
		Annotations: map[string]string{"long": strings.Repeat("x", 64), "short": strings.Repeat("x", 63)},
	}
	p, err := manifest.Render(w, nil, options())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"initContainers", "metadata.annotations[long]"}, paths(p.Features)); diff != "" {
		t.Errorf("features (-want +got):\n%s", diff)
	}
}
