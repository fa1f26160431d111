//go:build integration

package manifests_test

import (
	"strings"
	"testing"
)

// workload is an EdgeWorkload with a spec in one line.
func workload(spec string) string {
	return "apiVersion: management.project-flotta.io/v1alpha1\nkind: EdgeWorkload\nmetadata: {name: w, namespace: default}\nspec: " + spec
}

func device(spec string) string {
	return "apiVersion: management.project-flotta.io/v1alpha1\nkind: EdgeDevice\nmetadata: {name: d, namespace: default}\nspec: " + spec
}

func set(spec string) string { return strings.Replace(device(spec), "EdgeDevice", "EdgeDeviceSet", 1) }

func config(spec string) string { return strings.Replace(device(spec), "EdgeDevice", "EdgeConfig", 1) }

func execution(spec string) string {
	return strings.Replace(device(spec), "EdgeDevice", "PlaybookExecution", 1)
}

const pod = "pod: {spec: {containers: [{name: a, image: b}]}}"

// What can never work is refused where it is written, in words that say what to
// do.
func TestRefused(t *testing.T) {
	t.Parallel()
	const relative, parent = "must be relative", "must not contain the name '..'"
	for _, test := range []struct{ name, manifest, want string }{
		{"no pod", workload("{type: pod}"), "a workload of type pod needs pod"},
		{"no type", workload("{" + pod + "}"), "spec.type"},
		{"absolute source", workload("{type: pod, " + pod + ", data: {egress: [{source: /etc, target: a}]}}"), relative},
		{"absolute target", workload("{type: pod, " + pod + ", data: {ingress: [{source: a, target: /etc}]}}"), relative},
		{"parent", workload("{type: pod, " + pod + ", data: {egress: [{source: .., target: a}]}}"), parent},
		{"parent inside", workload("{type: pod, " + pod + ", data: {egress: [{source: a, target: b/../../c}]}}"), parent},
		{"parent at the end", workload("{type: pod, " + pod + ", data: {ingress: [{source: a, target: b/..}]}}"), parent},
		{"negative quota", workload("{type: pod, " + pod + ", data: {quota: -1Gi}}"), "must not be negative"},
		{"negative quota in bytes", workload("{type: pod, " + pod + ", data: {quota: -1}}"), "must not be negative"},
		{"odd quota", workload("{type: pod, " + pod + ", data: {quota: 5 apples}}"), "quota"},
		{"port", workload("{type: pod, " + pod + ", metrics: {port: 65536}}"), "65535"},
		{"bucket twice", device("{storage: {s3: {createOBC: true, secretName: a, configMapName: b}}}"), "give one or the other"},
		{"bucket and Secret", device("{storage: {s3: {createOBC: true, secretName: a}}}"), "give one or the other"},
		{"bucket twice in a set", set("{storage: {s3: {createOBC: true, configMapName: b}}}"), "give one or the other"},
		{"relative mount", device("{mounts: [{device: /dev/sdb, folder: data}]}"), "folder must be an absolute path"},
		{"relative mount in a set", set("{mounts: [{folder: /a}, {folder: b}]}"), "folder must be an absolute path"},
		{"period", device("{heartbeat: {periodSeconds: 0}}"), "periodSeconds"},
		{"log target", device("{logCollection: {a: {kind: journald}}}"), "syslog"},
		{"empty playbook", config(`{edgePlaybook: {playbooks: [{content: ""}]}}`), "content"},
		{"no playbooks", config("{edgePlaybook: {playbooks: []}}"), "playbooks"},
		{"strategy", config("{edgePlaybook: {playbooks: [{content: YQ==, executionStrategy: StopOnfailure}]}}"), `supported values: "", "StopOnFailure", "RetryOnFailure", "ExecuteOnce"`},
		{"timeout", config("{edgePlaybook: {playbooks: [{content: YQ==, timeoutSeconds: -1}]}}"), "timeoutSeconds"},
		{"user", config("{edgePlaybook: {user: --become, playbooks: [{content: YQ==}]}}"), "edgePlaybook.user"},
		{"long user", config("{edgePlaybook: {user: " + strings.Repeat("a", 33) + ", playbooks: [{content: YQ==}]}}"), "edgePlaybook.user"},
		{"user of become", config(`{edgePlaybook: {playbooks: [{content: YQ==, privilegeEscalationOptions: {becomeUser: "a b"}}]}}`), "becomeUser"},
		{"method of become", config("{edgePlaybook: {playbooks: [{content: YQ==, privilegeEscalationOptions: {becomeMethod: doas}}]}}"), `supported values: "sudo", "su"`},
		{"capability", config("{edgePlaybook: {playbooks: [{content: YQ==, requiredPrivilegeLevel: {capDrop: [38]}}]}}"), "capDrop"},
		{"user of a run", execution("{user: a/b}"), "spec.user"},
		{"attempt of a run", execution("{executionAttempt: 256}"), "executionAttempt"},
		{"no namespace", strings.Replace(device("{approved: true}"), "EdgeDevice", "EdgeDeviceSignedRequest", 1), "targetNamespace"},
		{"unknown field", device("{hearbeat: {periodSeconds: 1}}"), "hearbeat"},
	} {
		out, err := cluster.kube.Kubectl(t.Context(), test.manifest, strict...)
		if err == nil || !strings.Contains(out, test.want) {
			t.Errorf("%s: want a refusal with %q, got: %s", test.name, test.want, out)
		}
	}
}

// What flotta v0.2 took, and what may be right, is taken.
func TestAccepted(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("long-name.", 25) + "xyz"
	for _, test := range []struct{ name, manifest string }{
		{"long name", strings.Replace(workload("{type: pod, device: a, "+pod+"}"), "name: w", "name: "+long, 1)},
		{"other type", workload("{type: vm}")},
		{"for nobody", workload("{type: pod, " + pod + "}")},
		{"empty selector", workload("{type: pod, deviceSelector: {}, " + pod + "}")},
		{"selector and device", workload("{type: pod, device: a, deviceSelector: {matchLabels: {a: b}}, " + pod + "}")},
		{"dots in names", workload("{type: pod, " + pod + ", data: {egress: [{source: a/..b/c.., target: ...}]}}")},
		{"the whole export", workload("{type: pod, " + pod + ", data: {egress: [{source: ., target: a//b/}]}}")},
		{"quota", workload("{type: pod, " + pod + ", data: {quota: 1.5Gi}}")},
		{"quota in bytes", workload("{type: pod, " + pod + ", data: {quota: 5000000}}")},
		{"no bucket of its own", device("{storage: {s3: {createOBC: false, secretName: a, configMapName: b}}}")},
		{"bucket", set(`{storage: {s3: {createOBC: true, secretName: "", configMapName: ""}}}`)},
		{"half a bucket", device("{storage: {s3: {secretName: a}}}")},
		{"mount without a folder", device(`{mounts: [{device: /dev/sdb}, {folder: ""}]}`)},
		{"field of a newer Pod", workload("{type: pod, pod: {spec: {containers: [], fromTheFuture: {a: 1}}}}")},
		{"nothing", device("{}")},
		{"playbook without options", config("{edgePlaybook: {playbooks: [{content: YQ==}]}}")},
		{"empty options", config(`{edgePlaybook: {user: "", playbooks: [{content: YQ==, timeoutSeconds: 0, executionStrategy: "", privilegeEscalationOptions: {becomeUser: ""}}]}}`)},
		{"user with a dot", config("{edgePlaybook: {user: _Svc.ops-2, playbooks: [{content: YQ==, executionStrategy: StopOnFailure}]}}")},
		{"last attempt of a run", execution("{user: ops, executionAttempt: 255}")},
	} {
		if out, err := cluster.kube.Kubectl(t.Context(), test.manifest, strict...); err != nil {
			t.Errorf("%s: %s", test.name, out)
		}
	}
	many := workload("{type: pod, " + pod + ", data: {egress: [" + strings.Repeat("{source: "+strings.Repeat("a/", 500)+", target: b},", 1000) + "]}}")
	out, err := cluster.kube.Kubectl(t.Context(), many, "create", "--validate=strict", "--dry-run=server", "-f", "-")
	if err != nil {
		t.Errorf("1000 long data paths: %.500s", out)
	}
}

// A status tells what a device reported, whatever that is.
func TestReportedMount(t *testing.T) {
	t.Parallel()
	kubectl(t, strings.Replace(device("{}"), "name: d", "name: reports", 1), "apply", "-f", "-")
	kubectl(t, "", "patch", "edgedevice", "reports", "--subresource=status", "--type=merge", "-p",
		`{"status":{"hardware":{"cpu":{"flags":[]},"disks":[],"gpus":[],"interfaces":[],"mounts":[{"folder":"none","type":"swap"}]}}}`)
}

// The columns show what is there.
func TestColumns(t *testing.T) {
	t.Parallel()
	manifest := strings.Replace(device("{}"), "name: d,", "name: columns, labels: {flotta/member-of: shop-floor},", 1)
	kubectl(t, manifest, "apply", "-f", "-")
	kubectl(t, "", "patch", "edgedevice", "columns", "--subresource=status", "--type=merge", "-p", `{"status":{
		"phase":"up","lastSeenTime":"2026-11-21T00:00:00Z","lastSyncedResourceVersion":"v7","conditions":[
		{"type":"Online","status":"True","reason":"Seen","message":"","lastTransitionTime":"2026-11-21T00:00:00Z"},
		{"type":"Degraded","status":"False","reason":"AllWell","message":"","lastTransitionTime":"2026-11-21T00:00:00Z"}]}}`)
	out := kubectl(t, "", "get", "edgedevice", "columns", "-o", "wide")
	for _, want := range []string{"SET", "shop-floor", "up", "True", "False", "AllWell", "v7"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %s in\n%s", want, out)
		}
	}
	kubectl(t, strings.Replace(config("{}"), "name: d", "name: columns", 1), "apply", "-f", "-")
	kubectl(t, "", "patch", "edgeconfig", "columns", "--subresource=status", "--type=merge", "-p", `{"status":{"edgePlaybookStatus":{
		"runs":7,"succeeded":4,"failed":2,"conditions":[{"type":"Deploying","status":"True","reason":"a"},{"type":"Completed","status":"False","reason":"Failed"}]}}}`)
	if out := strings.Fields(kubectl(t, "", "get", "edgeconfig", "columns", "--no-headers")); strings.Join(out[:5], " ") != "columns 7 4 2 Failed" {
		t.Errorf("a config is shown as %s", out)
	}
	kubectl(t, strings.Replace(execution("{}"), "name: d", "name: columns", 1), "apply", "-f", "-")
	kubectl(t, "", "patch", "playbookexecution", "columns", "--subresource=status", "--type=merge", "-p", `{"status":{"conditions":[
		{"type":"Running","status":"False"},{"type":"CompletedWithError","status":"True","reason":"TimedOut","message":"m"}]}}`)
	if out := strings.Fields(kubectl(t, "", "get", "playbookexecution", "columns", "--no-headers")); strings.Join(out[:3], " ") != "columns CompletedWithError TimedOut" {
		t.Errorf("a run is shown as %s", out)
	}
	// The last condition of a request is its state.
	request := strings.Replace(device("{targetNamespace: factory}"), "EdgeDevice", "EdgeDeviceSignedRequest", 1)
	kubectl(t, strings.Replace(request, "name: d", "name: columns", 1), "apply", "-f", "-")
	kubectl(t, "", "patch", "edsr", "columns", "--subresource=status", "--type=merge", "-p",
		`{"status":{"conditions":[{"type":"pending","status":"true"},{"type":"declined","status":"true"}]}}`)
	if out := kubectl(t, "", "get", "edsr", "columns", "--no-headers"); strings.Join(strings.Fields(out), " ") != "columns columns factory false declined" {
		t.Errorf("a request is shown as %s", out)
	}
}
