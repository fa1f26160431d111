package bundle

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Of documents that hold secrets, what explains a device is left, and no secret.
func TestDocument(t *testing.T) {
	t.Parallel()
	const message = `{
	  "version": "9f2b", "device_id": "edge-7", "n": 12345678901234567890,
	  "configuration": {"storage": {"s3": {"bucket_host": "s3.example.com", "bucket_port": 443, "aws_access_key_id": "QUtJQQ==", "aws_secret_access_key": "c2VjcmV0", "aws_ca_bundle": "Q0E="}}},
	  "secrets": [{"name": "db", "data": "{\"password\":\"aHVudGVyMg==\"}"}],
	  "workloads": [{
	    "name": "web",
	    "data": {"egress": [{"source": "out", "target": "t"}], "ingress": null},
	    "imageRegistries": {"authFile": "{\"auths\":{\"r\":{\"auth\":\"dTpw\"}}}"},
	    "configmaps": ["apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata:\n  app.conf: key=hunter2\n", "{{{"],
	    "specification": "containers:\n- name: app\n  image: img:1\n  args: [--user, me, --password, hunter2]\n  env:\n  - name: DB\n    value: hunter2\n  - name: REF\n    valueFrom:\n      secretKeyRef: {name: db, key: password}\nvolumes:\n- name: v\n  secret: {secretName: db}\n"
	  }]
	}`
	const want = `{
	  "version": "9f2b", "device_id": "edge-7", "n": 12345678901234567890,
	  "configuration": {"storage": {"s3": {"bucket_host": "s3.example.com", "bucket_port": 443, "aws_access_key_id": "[redacted] (8 bytes)", "aws_secret_access_key": "[redacted] (8 bytes)", "aws_ca_bundle": "Q0E="}}},
	  "secrets": [{"name": "db", "data": "[redacted] (27 bytes)"}],
	  "workloads": [{
	    "name": "web",
	    "data": {"egress": [{"source": "out", "target": "t"}], "ingress": null},
	    "imageRegistries": {"authFile": "[redacted] (31 bytes)"},
	    "configmaps": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"app.conf": "[redacted] (11 bytes)"}}, "[3 bytes, not readable]"],
	    "specification": {
	      "containers": [{"name": "app", "image": "img:1", "args": ["--user", "me", "--password", "[redacted] (7 bytes)"], "env": [
	        {"name": "DB", "value": "[redacted] (7 bytes)"}, {"name": "REF", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}}]}],
	      "volumes": [{"name": "v", "secret": {"secretName": "db"}}]
	    }
	  }]
	}`
	compare(t, message, want)
	compare(t,
		`[{"Id": "ab", "Config": {"Env": ["PATH=/bin", "DB=hunter2", "odd"], "Cmd": ["run"], "Secrets": [{"Name": "s", "ID": "1"}]}, "IdentityToken": "x", "Password": 12}]`,
		`[{"Id": "ab", "Config": {"Env": ["PATH=[redacted]", "DB=[redacted]", "odd=[redacted]"], "Cmd": ["run"], "Secrets": [{"Name": "s", "ID": "1"}]}, "IdentityToken": "[redacted] (1 bytes)", "Password": "[redacted]"}]`)
	compare(t,
		`{"CreateCommand": ["podman", "run", "--env", "DB=hunter2", "-e", "A=b", "--env=C=d", "--api-key", "k", "img", "--env-file", "/f"]}`,
		`{"CreateCommand": ["podman", "run", "--env", "DB=[redacted]", "-e", "A=[redacted]", "--env=C=[redacted]", "--api-key", "[redacted] (1 bytes)", "img", "--env-file", "/f"]}`)
	for _, bad := range []string{"\x00", "a: b: c", "%"} {
		if out, err := Document([]byte(bad)); err == nil || strings.Contains(err.Error(), bad) {
			t.Errorf("%q is %q, %v", bad, out, err)
		}
	}
	deep := strings.Repeat("[", 5000) + strings.Repeat("]", 5000)
	if out, err := Document([]byte(deep)); err == nil && !strings.Contains(string(out), "too deep") {
		t.Errorf("deep: %q", out)
	}
}

func compare(t *testing.T, in, want string) {
	t.Helper()
	out, err := Document([]byte(in))
	if err != nil {
		t.Fatal(err)
	}
	var a, b any
	if err := json.Unmarshal(out, &a); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(want), &b); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b, a); diff != "" {
		t.Errorf("document (-want +got):\n%s", diff)
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	const in = "# a comment\n[yggd]\nserver = \"edge:443\"\r\npassword = \"hunter2\"\n#http-token: abc\nexport S3_SECRET=x\nkey-file = \"/etc/key.pem\"\n\"api-key\"=1"
	const want = "# a comment\n[yggd]\nserver = \"edge:443\"\npassword = [redacted]\n#http-token: [redacted]\nexport S3_SECRET=[redacted]\nkey-file = \"/etc/key.pem\"\n\"api-key\"=[redacted]\n"
	if diff := cmp.Diff(want, string(Settings([]byte(in)))); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
}

// FuzzDocument: whatever is taken for a document, nothing panics, what comes out
// is JSON, and what lies below a secret's key is not in it.
func FuzzDocument(f *testing.F) {
	f.Add(`{"a": {"password": "x"}, "env": ["A=b"], "data": {"k": "v"}}`, "canary-77")
	f.Add("a: &x [1, {b: *x}]\n", "canary-77")
	f.Add("configmaps: ['data: {a: b}']", "canary-77")
	f.Fuzz(func(t *testing.T, text, canary string) {
		if len(text) > 1<<16 {
			return
		}
		if out, err := Document([]byte(text)); err == nil && !json.Valid(out) {
			t.Errorf("%q is no JSON: %q", text, out)
		}
		Settings([]byte(text))
		if len(canary) < 6 || strings.Contains(Redacted+` (bytes) password data some inner authFile`, canary) {
			return
		}
		quoted, _ := json.Marshal(canary)
		in := `{"some": [{"inner": {"password": ` + string(quoted) + `, "data": {"x": ` + string(quoted) + `}, "authFile": ` + string(quoted) + `}}]}`
		out, err := Document([]byte(in))
		if err != nil || strings.Contains(string(out), canary) || strings.Contains(string(out), strings.Trim(string(quoted), `"`)) {
			t.Errorf("%q is %q, %v", in, out, err)
		}
	})
}
