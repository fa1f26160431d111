package edgeapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Operations, as the metrics and the log name them. The set is fixed, because
// it labels metrics.
const (
	opDataIn     = "data_in"
	opDataOut    = "data_out" // a message that was refused before its directive was known
	opControlIn  = "control_in"
	opControlOut = "control_out"
	opNone       = "none" // no endpoint at all
)

// endpoint is one of the four that a device can call.
type endpoint struct {
	operation string
	device    string
}

// Codes of bodies with status 422, as flotta v0.2 numbers them.
const (
	codeRequired = 602
	codeEnum     = 606
)

// requestError is something wrong with a request as HTTP or JSON. It is
// explained in the body of the answer, which other errors are not.
type requestError struct {
	status  int
	code    int // in the body; the status when 0
	message string
	allow   string // the header of a 405
}

func (e *requestError) Error() string { return e.message }

func (e *requestError) body() []byte {
	code := e.code
	if code == 0 {
		code = e.status
	}
	b, err := json.Marshal(struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}{code, e.message})
	if err != nil {
		return nil // cannot happen: a number and a string
	}
	return b
}

// findEndpoint maps path and method.
func findEndpoint(r *http.Request) (endpoint, error) {
	notFound := &requestError{status: http.StatusNotFound, message: "path " + r.URL.Path + " was not found"}
	rest, ok := strings.CutPrefix(r.URL.EscapedPath(), protocol.BasePath+"/")
	if !ok {
		return endpoint{operation: opNone}, notFound
	}
	parts := strings.Split(rest, "/")
	if len(parts) != 3 {
		return endpoint{operation: opNone}, notFound
	}
	device, err := url.PathUnescape(parts[1])
	if err != nil || device == "" {
		return endpoint{operation: opNone}, notFound
	}
	e := endpoint{device: device}
	method := http.MethodGet
	switch parts[0] + "/" + parts[2] {
	case "data/in":
		e.operation = opDataIn
	case "control/in":
		e.operation = opControlIn
	case "data/out":
		e.operation, method = opDataOut, http.MethodPost
	case "control/out":
		e.operation, method = opControlOut, http.MethodPost
	default:
		return endpoint{operation: opNone}, notFound
	}
	if r.Method != method {
		return e, &requestError{
			status:  http.StatusMethodNotAllowed,
			message: fmt.Sprintf("method %s is not allowed, but %s is", r.Method, method),
			allow:   method,
		}
	}
	return e, nil
}

// readMessage reads the envelope of a POST, at most limit bytes of it.
func readMessage(w http.ResponseWriter, r *http.Request, limit int64) (protocol.Message, error) {
	var m protocol.Message
	if err := checkContentType(r.Header.Get("Content-Type")); err != nil {
		return m, err
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
			return m, &requestError{
				status:  http.StatusRequestEntityTooLarge,
				message: fmt.Sprintf("body is larger than %d bytes", limit),
			}
		}
		return m, &requestError{status: http.StatusBadRequest, message: "reading body: " + err.Error()}
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return m, &requestError{status: http.StatusUnprocessableEntity, code: codeRequired, message: "body in body is required"}
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return m, &requestError{status: http.StatusBadRequest, message: "parsing body: " + err.Error()}
	}
	types := []protocol.MessageType{protocol.TypeConnectionStatus, protocol.TypeCommand, protocol.TypeEvent, protocol.TypeData}
	if m.Type != "" && !slices.Contains(types, m.Type) {
		return m, &requestError{
			status: http.StatusUnprocessableEntity, code: codeEnum,
			message: fmt.Sprintf("type in body should be one of %v", types),
		}
	}
	return m, nil
}

// checkContentType accepts JSON. A missing header is let pass: the body says
// soon enough what it is.
func checkContentType(header string) error {
	if header == "" {
		return nil
	}
	media, _, err := mime.ParseMediaType(header)
	if err == nil && media == "application/json" {
		return nil
	}
	return &requestError{
		status:  http.StatusUnsupportedMediaType,
		message: fmt.Sprintf("content type %q is not supported, only application/json is", header),
	}
}

// decodeContent reads the content of a message into v. A missing content leaves
// v as it is.
func decodeContent(m protocol.Message, v any) error {
	if len(m.Content) == 0 {
		return nil
	}
	if err := json.Unmarshal(m.Content, v); err != nil {
		return fmt.Errorf("decode content of %s: %w", m.Directive, err)
	}
	return nil
}
