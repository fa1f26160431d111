package desired

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/project-flotta/flotta-agent/internal/secret"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func mustDecode(t *testing.T, raw []byte) State {
	t.Helper()
	m, err := parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return decode(m, "")
}

// readable is s as JSON with the secrets in it: for comparing, never for logs.
func readable(t *testing.T, s State) []byte {
	t.Helper()
	type workload struct {
		Workload
		PodSpec    json.RawMessage
		ConfigMaps []json.RawMessage
		AuthFile   string
	}
	out := struct {
		State
		Storage   map[string]any
		Workloads []workload
		Secrets   map[string]map[string]string
	}{State: s, Secrets: map[string]map[string]string{}}
	if st := s.Storage; st != nil {
		out.Storage = map[string]any{
			"addr": fmt.Sprintf("%s:%d/%s", st.Host, st.Port, st.Bucket), "region": st.Region,
			"key": st.AccessKeyID.Reveal(), "secret": st.SecretAccessKey.Reveal(), "ca": string(st.CABundle),
		}
	}
	for _, w := range s.Workloads {
		o := workload{Workload: w, PodSpec: w.PodSpec, AuthFile: w.AuthFile.Reveal()}
		for _, c := range w.ConfigMaps {
			o.ConfigMaps = append(o.ConfigMaps, c)
		}
		if o.PodSpec == nil {
			o.PodSpec = json.RawMessage("null")
		}
		out.Workloads = append(out.Workloads, o)
	}
	for _, sec := range s.Secrets {
		data := map[string]string{}
		for k, v := range sec.Data {
			data[k] = v.Reveal()
		}
		out.Secrets[sec.Name] = data
	}
	data, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(data, '\n')
}

func TestDecodeGolden(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("testdata/message.json")
	if err != nil {
		t.Fatal(err)
	}
	got := readable(t, mustDecode(t, raw))
	golden := filepath.Join("testdata", "state.golden.json")
	if *update {
		if err := os.WriteFile(golden, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Error(diff)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ raw, want string }{
		"nothing":          {"", "empty"},
		"space":            {" \n", "empty"},
		"null":             {"null", "empty"},
		"empty object":     {"{}", "no configuration"},
		"null config":      {`{"configuration":null,"workloads":[]}`, "no configuration"},
		"only workloads":   {`{"workloads":[]}`, "no configuration"},
		"a list":           {"[]", "not a JSON object"},
		"a text":           {`"{}"`, "not a JSON object"},
		"cut off":          {`{"configuration":{},"workloads":[{"name":"canary`, "not JSON"},
		"trailing":         {`{"configuration":{}} canary`, "not JSON"},
		"wrong type":       {`{"configuration":{},"workloads":[{"name":123456789}]}`, `"workloads.name" is a number`},
		"workloads object": {`{"configuration":{},"workloads":{"canary":1}}`, `"workloads" is a object`},
		"too deep":         {`{"configuration":{"x":` + strings.Repeat("[", 20_000), "not JSON"},
		"too large":        {`{"configuration":{},"version":"` + strings.Repeat("x", maxMessageBytes) + `"}`, "bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := parse([]byte(c.raw))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("err = %v, want %q in it", err, c.want)
			}
			if strings.Contains(err.Error(), "canary") || strings.Contains(err.Error(), "123456789") {
				t.Errorf("the reason shows content: %v", err)
			}
		})
	}
}

func TestParseAccepts(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{
		`{"configuration":{}}`,
		`{"configuration":{"future":{"x":1}},"more":[1]}`,
		" {\"configuration\":{\"mounts\":null},\"workloads\":null}\n",
	} {
		s := mustDecode(t, []byte(raw))
		want := State{Heartbeat: Heartbeat{Period: time.Minute}}
		if diff := cmp.Diff(want, s); diff != "" {
			t.Errorf("%s: %s", raw, diff)
		}
	}
}

func TestDecodeHeartbeat(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in   *protocol.HeartbeatConfiguration
		want Heartbeat
	}{
		{nil, Heartbeat{Period: 60 * time.Second}},
		{&protocol.HeartbeatConfiguration{}, Heartbeat{Period: 60 * time.Second}},
		{&protocol.HeartbeatConfiguration{PeriodSeconds: -5}, Heartbeat{Period: 60 * time.Second}},
		{&protocol.HeartbeatConfiguration{PeriodSeconds: 5}, Heartbeat{Period: 5 * time.Second}},
		{&protocol.HeartbeatConfiguration{PeriodSeconds: 1 << 62}, Heartbeat{Period: 9223372036 * time.Second}},
		{
			&protocol.HeartbeatConfiguration{HardwareProfile: &protocol.HardwareProfile{Include: true, Scope: "full"}},
			Heartbeat{Period: 60 * time.Second, IncludeHardware: true},
		},
	} {
		if got := decodeHeartbeat(c.in); got != c.want {
			t.Errorf("decodeHeartbeat(%+v) = %+v, want %+v", c.in, got, c.want)
		}
	}
}

func TestDecodeStorage(t *testing.T) {
	t.Parallel()
	good := protocol.S3StorageConfiguration{
		BucketHost: "h", BucketPort: 1, BucketName: "b", AWSAccessKeyID: "YQ==", AWSSecretAccessKey: "Yg==",
	}
	if s, err := decodeStorage(good); err != nil || s.AccessKeyID.Reveal() != "a" || s.Port != 1 {
		t.Fatalf("good storage: %v, %v", s, err)
	}
	if s, err := decodeStorage(protocol.S3StorageConfiguration{}); s != nil || err != nil {
		t.Errorf("no storage: %v, %v", s, err)
	}
	for want, change := range map[string]func(*protocol.S3StorageConfiguration){
		"bucket_host has a scheme":         func(s *protocol.S3StorageConfiguration) { s.BucketHost = "ftp://h" },
		"bucket_host has a path":           func(s *protocol.S3StorageConfiguration) { s.BucketHost = "https://h/" },
		"bucket_host is not":               func(s *protocol.S3StorageConfiguration) { s.BucketHost = "h:443" },
		"bucket_host is not a":             func(s *protocol.S3StorageConfiguration) { s.BucketHost = "" },
		"bucket_port":                      func(s *protocol.S3StorageConfiguration) { s.BucketPort = 70000 },
		"bucket_port -1":                   func(s *protocol.S3StorageConfiguration) { s.BucketPort = -1 },
		"bucket_name":                      func(s *protocol.S3StorageConfiguration) { s.BucketName = "a/b" },
		"aws_access_key_id is not":         func(s *protocol.S3StorageConfiguration) { s.AWSAccessKeyID = "%canary%" },
		"aws_secret_access_key":            func(s *protocol.S3StorageConfiguration) { s.AWSSecretAccessKey = "canary" },
		"credentials":                      func(s *protocol.S3StorageConfiguration) { s.AWSSecretAccessKey = "" },
		"aws_ca_bundle is not":             func(s *protocol.S3StorageConfiguration) { s.AWSCABundle = "canary" },
		"aws_ca_bundle has no certificate": func(s *protocol.S3StorageConfiguration) { s.AWSCABundle = "Y2FuYXJ5" },
	} {
		bad := good
		change(&bad)
		s, err := decodeStorage(bad)
		if s != nil || err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: storage %v, err %v", want, s != nil, err)
		}
	}
}

func TestBrokenStorageDoesNotStopWorkloads(t *testing.T) {
	t.Parallel()
	s := mustDecode(t, []byte(`{"configuration":{"storage":{"s3":{"bucket_host":"h","bucket_name":"b","aws_access_key_id":"!"}}},
		"workloads":[{"name":"a","specification":"containers: []"}]}`))
	if s.Storage != nil || len(s.Workloads) != 1 || s.Workloads[0].Invalid != "" || len(s.Problems) != 1 {
		t.Errorf("storage %v, workloads %d, problems %v", s.Storage, len(s.Workloads), s.Problems)
	}
}

func TestWorkloadNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a", "a.b", "0-9", strings.Repeat("a", 63)} {
		if d, _ := decodeWorkload(protocol.Workload{Name: name, Specification: "a: 1"}); d.Invalid != "" || d.Name != name {
			t.Errorf("%q: invalid: %s", name, d.Invalid)
		}
	}
	for _, name := range []string{
		"", ".", "..", "a..b", "/", "../x", "a/b", "-a", "a-", ".a", "a.", "A", "a_b", "ä", "名", "a b", "a\x00", "a\n", "a\x1b[31m",
		strings.Repeat("a", 64), strings.Repeat("a", 300), "a@b", "a\\x2d", "%i", "\xff",
	} {
		d, _ := decodeWorkload(protocol.Workload{Name: name, Specification: "a: 1"})
		if d.Invalid == "" {
			t.Errorf("%q is accepted", name)
		}
		if validName(d.Name, maxNameSize) {
			t.Errorf("%q is printed as %q, the name of another workload", name, d.Name)
		}
		if len(d.Name) > maxNameSize || strings.ContainsFunc(d.Name, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("%q is printed as %q", name, d.Name)
		}
	}
}

func TestWorkloadDecoding(t *testing.T) {
	t.Parallel()
	cm := func(name string) string { return "kind: ConfigMap\nmetadata: {name: " + name + "}\n" }
	for name, c := range map[string]struct {
		spec, auth string
		maps       []string
		invalid    string
	}{
		"good":                  {spec: "containers: []", auth: `{"auths":{}}`, maps: []string{cm("b"), cm("a")}},
		"json":                  {spec: `{"containers":[]}`},
		"document markers":      {spec: "---\ncontainers: []\n...\n"},
		"alias":                 {spec: "a: &x {k: 1}\nb: *x\n"},
		"no specification":      {invalid: "specification: empty YAML"},
		"comment only":          {spec: "# nothing", invalid: "specification: empty YAML"},
		"null":                  {spec: "null", invalid: "not an object"},
		"a list":                {spec: "- a", invalid: "not an object"},
		"a text":                {spec: "canary", invalid: "not an object"},
		"broken":                {spec: "a: [", invalid: "yaml: line 1"},
		"tabs":                  {spec: "a:\n\tb: 1", invalid: "yaml"},
		"duplicate key":         {spec: "a: 1\na: 2", invalid: "already set"},
		"duplicate key as text": {spec: "1: a\n\"1\": b", invalid: "twice"},
		"two documents":         {spec: "a: 1\n---\nb: 2", invalid: "more than one"},
		"not a number":          {spec: "a: .nan", invalid: "number"},
		"value in the error":    {spec: "a: !!int canary", invalid: "yaml"},
		"alias in the error":    {spec: "password: *canary", invalid: "unknown anchor"},
		"binary":                {spec: "a: !!binary /w==", invalid: "not UTF-8"},
		"key is a list":         {spec: "[1]: a", invalid: "yaml"},
		"too large":             {spec: "a: " + strings.Repeat("x", maxYAMLBytes), invalid: "bytes"},
		"deep":                  {spec: "a: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000), invalid: "deep"},
		"very deep":             {spec: "a: " + strings.Repeat("[", 100_000), invalid: "yaml"},
		"auth no json":          {spec: "a: 1", auth: "canary", invalid: "credentials"},
		"auth null":             {spec: "a: 1", auth: "null", invalid: "credentials"},
		"config map kind":       {spec: "a: 1", maps: []string{cm("a"), "kind: Secret\nmetadata: {name: x}"}, invalid: "config map 2: kind"},
		"config map no name":    {spec: "a: 1", maps: []string{"kind: ConfigMap"}, invalid: "config map 1: name"},
		"config map bad name":   {spec: "a: 1", maps: []string{cm("../x")}, invalid: "config map 1: name"},
		"config map twice":      {spec: "a: 1", maps: []string{cm("a"), cm("a")}, invalid: "twice"},
		"config map broken":     {spec: "a: 1", maps: []string{"{"}, invalid: "config map 1: yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := protocol.Workload{
				Name: "w", Specification: c.spec, ConfigMaps: c.maps,
				ImageRegistries: &protocol.ImageRegistries{AuthFile: c.auth},
			}
			d, _ := decodeWorkload(w)
			if c.invalid == "" && d.Invalid != "" || !strings.Contains(d.Invalid, c.invalid) {
				t.Errorf("invalid = %q, want %q in it", d.Invalid, c.invalid)
			}
			if strings.Contains(d.Invalid, "canary") || len(d.Invalid) > 2*maxReasonSize {
				t.Errorf("invalid = %q", d.Invalid)
			}
		})
	}
}

// TestYAMLBombs wants small texts that stand for gigabytes refused at little
// cost.
func TestYAMLBombs(t *testing.T) {
	t.Parallel()
	var laughs strings.Builder
	laughs.WriteString("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n")
	for i := 1; i < 12; i++ {
		ref := strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i-1), 10), ",")
		fmt.Fprintf(&laughs, "a%d: &a%d [%s]\n", i, i, ref)
	}
	long := "a: &a " + strings.Repeat("x", 1<<20) + "\nb: [" + strings.Repeat("*a,", 50_000) + "]\n"
	for name, text := range map[string]string{
		"laughs": laughs.String(), "long text": long,
		"merge": "a: &a {<<: *a}", "itself": "a: &a [*a]",
	} {
		start := time.Now()
		out, _, err := yamlObject(text)
		if err == nil && len(out) > maxJSONBytes {
			t.Errorf("%s became %d bytes", name, len(out))
		}
		if err == nil && name != "merge" {
			t.Errorf("%s is accepted", name)
		}
		if d := time.Since(start); d > 20*time.Second {
			t.Errorf("%s took %v", name, d)
		}
	}
}

func TestYAMLIsCanonical(t *testing.T) {
	t.Parallel()
	want := `{"a":[1,9007199254740993,18446744073709551615,0.5,true,null,"x","012"],"b":{"1":"m","true":"b"}}`
	for _, text := range []string{
		"a: [1, 9007199254740993, 18446744073709551615, 0.5, yes, ~, x, '012']\nb: {1: m, true: b}\n",
		want,
		"b:\n  true: b\n  1: m\na:\n- 1\n- 9007199254740993\n- 18446744073709551615\n- 5e-1\n- on\n-\n- 'x'\n- \"012\"\n",
	} {
		got, _, err := yamlObject(text)
		if err != nil || string(got) != want {
			t.Errorf("%q:\n got %s, %v\nwant %s", text, got, err, want)
		}
	}
}

func TestDecodeSecret(t *testing.T) {
	t.Parallel()
	d, err := decodeSecret(protocol.Secret{Name: "s", Data: `{"a":"AP8=","b":""}`})
	if err != nil || d.Data["a"].Reveal() != "\x00\xff" || d.Data["b"].Reveal() != "" {
		t.Errorf("secret = %v, %v", d, err)
	}
	if d, err := decodeSecret(protocol.Secret{Name: "s"}); err != nil || len(d.Data) != 0 {
		t.Errorf("no data: %v, %v", d, err)
	}
	for _, bad := range []protocol.Secret{
		{Name: "", Data: "{}"},
		{Name: "../s", Data: "{}"},
		{Name: "s", Data: "null"},
		{Name: "s", Data: "[]"},
		{Name: "s", Data: `{"a":1}`},
		{Name: "s", Data: `{"a":null}`},
		{Name: "s", Data: `{"a":"canary"}`},
		{Name: "s", Data: `{"a/b":""}`},
		{Name: "s", Data: `{"..":""}`},
		{Name: "s", Data: `{"":""}`},
		{Name: "s", Data: "canary"},
	} {
		if _, err := decodeSecret(bad); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%+v: err = %v", bad, err)
		}
	}
}

func TestDuplicatesAndManyProblems(t *testing.T) {
	t.Parallel()
	m := protocol.DeviceConfigurationMessage{Configuration: &protocol.DeviceConfiguration{}}
	for i := range 200 {
		m.Workloads = append(m.Workloads, protocol.Workload{Name: "a", Specification: fmt.Sprintf("k: %d", i)})
		m.Secrets = append(m.Secrets, protocol.Secret{Name: "s", Data: fmt.Sprintf(`{"n":"%04d"}`, i)})
	}
	s := decode(m, "")
	if len(s.Workloads) != 1 || string(s.Workloads[0].PodSpec) != `{"k":0}` {
		t.Errorf("workloads: %v", s.Workloads)
	}
	if len(s.Secrets) != 1 {
		t.Errorf("secrets: %v", s.Secrets)
	}
	if len(s.Problems) != maxProblems+1 || !strings.Contains(s.Problems[maxProblems], "348") {
		t.Errorf("problems: %d, the last is %s", len(s.Problems), s.Problems[len(s.Problems)-1])
	}
}

func TestDigestIgnoresOrderAndVersion(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("testdata/message.json")
	if err != nil {
		t.Fatal(err)
	}
	m, err := parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	want, err := digest(m)
	if err != nil {
		t.Fatal(err)
	}
	m.Version = "other"
	m.DeviceID = strings.ToLower(m.DeviceID)
	slices.Reverse(m.Workloads)
	slices.Reverse(m.Secrets)
	for _, w := range m.Workloads {
		slices.Reverse(w.ConfigMaps)
	}
	if got, err := digest(m); err != nil || got != want {
		t.Errorf("digest changed with the order: %v", err)
	}
	m.Workloads[0].Labels = map[string]string{"new": "label"}
	if got, err := digest(m); err != nil || got == want {
		t.Errorf("digest did not change with the content: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	raw, err := os.ReadFile("testdata/message.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"configuration":{}}`))
	f.Add([]byte(`{"configuration":{},"workloads":[null,{"name":"a","specification":"a: &x [*x]"}],"secrets":[{"name":"s","data":"{\"a\":\"Yg==\"}"}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := parse(raw)
		if err != nil {
			return
		}
		s := decode(m, "d")
		names := map[string]bool{}
		for _, w := range s.Workloads {
			if names[w.Name] {
				t.Errorf("two workloads %q", w.Name)
			}
			names[w.Name] = true
			if w.Invalid == "" && (!validName(w.Name, maxNameSize) || !json.Valid(w.PodSpec)) {
				t.Errorf("workload %q is taken for valid", w.Name)
			}
		}
		// Twice the same, and the same again out of its own JSON.
		if diff := cmp.Diff(s, decode(m, "d"), cmp.Comparer(func(a, b secret.Value) bool { return a.Reveal() == b.Reveal() })); diff != "" {
			t.Errorf("decoding is not stable: %s", diff)
		}
		first, err := digest(m)
		if err != nil {
			t.Fatal(err)
		}
		again, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		m2, err := parse(again)
		if err != nil {
			t.Skip() // a message that grew over the bound
		}
		if second, err := digest(m2); err != nil || first != second {
			t.Errorf("digest changes in a round trip: %v", err)
		}
	})
}

func FuzzYAML(f *testing.F) {
	f.Add("a: [1, 2.5, x, null, true]\nb: &x {k: v}\nc: *x\n")
	f.Add("---\n!!binary aGk=: 1\n...")
	f.Add("? [a]\n: b")
	f.Add("a: 2001-01-01\nb: 0x1f\nc: 1e400\n<<: {d: 1}")
	f.Fuzz(func(t *testing.T, text string) {
		out, _, err := yamlObject(text)
		if err != nil {
			return
		}
		again, _, err := yamlObject(string(out))
		if len(out) <= maxYAMLBytes && (err != nil || string(again) != string(out)) {
			t.Errorf("canonical JSON %s reads back as %s, %v", out, again, err)
		}
	})
}

func TestQuota(t *testing.T) {
	t.Parallel()
	for bytes, problems := range map[int64]int{0: 0, 1: 0, 1 << 62: 0, -1: 1} {
		d, got := decodeWorkload(protocol.Workload{
			Name: "a", Specification: "containers: []", Data: &protocol.DataConfiguration{QuotaBytes: bytes},
		})
		if d.QuotaBytes != max(bytes, 0) || len(got) != problems || d.Invalid != "" {
			t.Errorf("%d bytes: quota %d, problems %v, invalid %q", bytes, d.QuotaBytes, got, d.Invalid)
		}
	}
	// Another quota is another configuration.
	text := func(quota string) []byte {
		return []byte(`{"configuration":{},"workloads":[{"name":"a","specification":"containers: []","data":{"ingress":[],"egress":[]` + quota + `}}]}`)
	}
	var digests []string
	for _, quota := range []string{"", `,"quota_bytes":5`} {
		m, err := parse(text(quota))
		if err != nil {
			t.Fatal(err)
		}
		sum, err := digest(m)
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, sum)
	}
	if digests[0] == digests[1] {
		t.Error("a quota does not change the digest")
	}
}
