package remote

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// schema is the part of an OpenAPI schema that the document uses.
type schema struct {
	Ref        string            `json:"$ref"`
	Type       any               `json:"type"` // a name, or a list of a name and null
	Format     string            `json:"format"`
	Properties map[string]schema `json:"properties"`
	Additional *schema           `json:"additionalProperties"`
	Items      *schema           `json:"items"`
}

type content struct {
	Content map[string]struct {
		Schema schema `json:"schema"`
	} `json:"content"`
}

func (c content) schema() string { return path.Base(c.Content["application/json"].Schema.Ref) }

type operation struct {
	ID          string             `json:"operationId"`
	RequestBody *content           `json:"requestBody"`
	Responses   map[string]content `json:"responses"`
}

type document struct {
	OpenAPI string `json:"openapi"`
	Servers []struct {
		URL string `json:"url"`
	} `json:"servers"`
	Paths      map[string]map[string]json.RawMessage `json:"paths"`
	Components map[string]map[string]json.RawMessage `json:"components"`
}

func readDocument(t *testing.T) (d document, raw []byte) {
	t.Helper()
	raw, err := os.ReadFile("../../../../docs/edge-configuration-api.yaml")
	must(t, err)
	raw, err = yaml.YAMLToJSONStrict(raw)
	must(t, err)
	must(t, json.Unmarshal(raw, &d))
	return d, raw
}

// TestDocumentHasTheCalls: every call of this package is an operation of the
// document, with the same path and messages, and there are no others.
func TestDocumentHasTheCalls(t *testing.T) {
	t.Parallel()
	d, _ := readDocument(t)
	if len(d.Servers) != 1 || !strings.HasSuffix(d.Servers[0].URL, BasePath) {
		t.Errorf("servers are %+v, want one that ends in %s", d.Servers, BasePath)
	}
	const device = "/namespaces/{namespace}/devices/{device-id}"
	// operationId, message sent, message of a 200.
	want := map[string]string{
		"get " + device + pathRegistration:  "GetRegistrationStatus - device-registration-status-response",
		"put " + device + pathRegistration:  "RegisterDevice registration-info -",
		"post " + device + pathEnrolment:    "EnrolDevice enrolment-info -",
		"get " + device + pathConfiguration: "GetDeviceConfiguration - device-configuration-response",
		"put " + device + pathHeartbeat:     "UpdateHeartBeat heartbeat -",
		"get " + device + pathPlaybooks:     "GetPlaybookExecutions - playbook-executions-response",
	}
	got := map[string]string{}
	for where, item := range d.Paths {
		for method, raw := range item {
			if method == "parameters" {
				continue
			}
			var o operation
			must(t, json.Unmarshal(raw, &o))
			sent, answered := "-", "-"
			if o.RequestBody != nil {
				sent = o.RequestBody.schema()
			}
			if ok := o.Responses["200"]; len(ok.Content) > 0 {
				answered = ok.schema()
			}
			got[method+" "+where] = fmt.Sprint(o.ID, " ", sent, " ", answered)
			for _, status := range []string{"200", "401", "403", "default"} {
				if _, ok := o.Responses[status]; !ok {
					t.Errorf("%s has no response %s", o.ID, status)
				}
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("operations (-want +got):\n%s", diff)
	}
}

// TestDocumentHasTheMessages: every schema has the properties of the Go type of
// that message, of the same kind, and every schema is one of a message.
func TestDocumentHasTheMessages(t *testing.T) {
	t.Parallel()
	d, _ := readDocument(t)
	c := comparison{t: t, schemas: map[string]schema{}, seen: map[string]reflect.Type{}}
	for name, raw := range d.Components["schemas"] {
		var s schema
		must(t, json.Unmarshal(raw, &s))
		c.schemas[name] = s
	}
	for name, message := range map[string]any{
		"error":                               apiError{},
		"device-registration-status-response": registrationStatus{},
		"device-configuration-response":       deviceConfiguration{},
		"registration-info":                   protocol.RegistrationInfo{},
		"enrolment-info":                      protocol.EnrolmentInfo{},
		"heartbeat":                           protocol.Heartbeat{},
		"playbook-executions-response":        protocol.PlaybookExecutionsResponse{},
	} {
		c.compare(name, schema{Ref: "#/components/schemas/" + name}, reflect.TypeOf(message), true)
	}
	for name := range c.schemas {
		if _, ok := c.seen[name]; !ok {
			t.Errorf("schema %s is used by no message", name)
		}
	}
	if len(c.seen) < 40 {
		t.Errorf("only %d schemas were compared, so the search is broken", len(c.seen))
	}
}

type comparison struct {
	t       *testing.T
	schemas map[string]schema
	seen    map[string]reflect.Type
}

// compare checks a schema against a Go type. optional tells that the property is
// left out when it is empty; otherwise a list may be null.
func (c comparison) compare(where string, s schema, goType reflect.Type, optional bool) {
	c.t.Helper()
	if s.Ref != "" {
		name := path.Base(s.Ref)
		if before, ok := c.seen[name]; ok {
			if before != indirect(goType) {
				c.t.Errorf("%s: schema %s is the one of %s, not of %s", where, name, before, goType)
			}
			return
		}
		c.seen[name] = indirect(goType)
		resolved, ok := c.schemas[name]
		if !ok {
			c.t.Errorf("%s: there is no schema %s", where, name)
		}
		c.compare(name, resolved, goType, optional && goType.Kind() != reflect.Slice)
		return
	}
	kind, nullable := s.kind()
	want := jsonType(goType)
	if kind != want || s.Format != format(goType) {
		c.t.Errorf("%s: is %s %s, want %s %s", where, kind, s.Format, want, format(goType))
		return
	}
	if mayBeNull := goType.Kind() == reflect.Slice && !optional; mayBeNull && !nullable {
		c.t.Errorf("%s: may be null", where)
	}
	switch goType = indirect(goType); {
	case want == "array":
		c.compare(where+"[]", *s.Items, goType.Elem(), true)
	case goType.Kind() == reflect.Map:
		c.compare(where+"{}", *s.Additional, goType.Elem(), true)
	case want == "object":
		c.fields(where, s, goType)
	}
}

func (c comparison) fields(where string, s schema, goType reflect.Type) {
	c.t.Helper()
	var names []string
	for field := range goType.Fields() {
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		names = append(names, name)
		property, ok := s.Properties[name]
		if !ok {
			c.t.Errorf("%s has no property %s", where, name)
			continue
		}
		c.compare(where+"."+name, property, field.Type, options == "omitempty")
	}
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		if !slices.Contains(names, name) {
			c.t.Errorf("%s has the property %s, which the message does not", where, name)
		}
	}
}

func (s schema) kind() (name string, nullable bool) {
	list, ok := s.Type.([]any)
	if !ok {
		return fmt.Sprint(s.Type), false
	}
	return fmt.Sprint(list[0]), slices.Contains(list, any("null"))
}

func indirect(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Pointer {
		return t.Elem()
	}
	return t
}

func jsonType(t reflect.Type) string {
	if t == reflect.TypeFor[protocol.Time]() {
		return "string"
	}
	switch indirect(t).Kind() {
	case reflect.Bool:
		return "boolean"
	case reflect.Int32, reflect.Int64:
		return "integer"
	case reflect.Float64:
		return "number"
	case reflect.Slice:
		return "array"
	case reflect.Struct, reflect.Map:
		return "object"
	}
	return "string"
}

func format(t reflect.Type) string {
	if t == reflect.TypeFor[protocol.Time]() {
		return "date-time"
	}
	switch t.Kind() {
	case reflect.Int32:
		return "int32"
	case reflect.Int64:
		return "int64"
	case reflect.Float64:
		return "double"
	}
	return ""
}

// TestDocumentRefersToWhatIsThere.
func TestDocumentRefersToWhatIsThere(t *testing.T) {
	t.Parallel()
	d, raw := readDocument(t)
	for part := range strings.SplitSeq(string(raw), `"$ref":"`) {
		ref, _, _ := strings.Cut(part, `"`)
		where, ok := strings.CutPrefix(ref, "#/components/")
		if !ok {
			continue
		}
		kind, name, _ := strings.Cut(where, "/")
		if _, ok := d.Components[kind][name]; !ok {
			t.Errorf("there is no %s", ref)
		}
	}
}
