package remote

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Registration statuses that the API knows.
const (
	statusRegistered   = "registered"
	statusUnregistered = "unregistered"
	statusUnknown      = "unknown"
)

// registrationStatus is the answer to the question what a device is.
type registrationStatus struct {
	Status    string `json:"status,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Message   string `json:"message,omitempty"`
}

// deviceConfiguration is the answer to the question what a device is to do.
type deviceConfiguration struct {
	Configuration *protocol.DeviceConfigurationMessage `json:"device-configuration,omitempty"`
	Message       string                               `json:"message,omitempty"`
}

// apiError is what an answer that is not a success may say.
type apiError struct {
	Message string `json:"message"`
}

// errNonsense is wrapped by errors that say that an answer cannot be understood.
var errNonsense = errors.New("answer makes no sense")

func nonsense(format string, args ...any) error {
	return fmt.Errorf("%w: %w", errNonsense, fmt.Errorf(format, args...))
}

// maxSaid bounds what of the service's own words goes into an error.
const maxSaid = 300

// refusal is the error of an answer that is no success.
func (r response) refusal() error {
	var said apiError
	text := fmt.Sprintf("status %d %s", r.status, http.StatusText(r.status))
	if json.Unmarshal(r.body, &said) == nil && said.Message != "" {
		if len(said.Message) > maxSaid {
			said.Message = strings.ToValidUTF8(said.Message[:maxSaid], "") + "..."
		}
		return fmt.Errorf("%s: %q", text, said.Message)
	}
	return errors.New(text)
}

// failure maps a status that is no success to what the device is told. sent
// tells that the call carried something of the device, which may be wrong.
func (r response) failure(sent bool) error {
	err := r.refusal()
	switch {
	case r.status == http.StatusNotFound:
		return fmt.Errorf("%w: %w", edgeapi.ErrNotFound, err)
	case sent && (r.status == http.StatusBadRequest || r.status == http.StatusUnprocessableEntity):
		return fmt.Errorf("%w: %w", edgeapi.ErrInvalid, err)
	case r.status >= 300 && r.status < 400:
		return fmt.Errorf("%w: redirects are not followed, set the address that it names", err)
	}
	return err
}

// success reports whether a status is one.
func (r response) success() bool { return r.status >= 200 && r.status < 300 }

// decode reads a JSON body into v.
func (r response) decode(v any) error {
	if r.contentType != "" {
		media, _, err := mime.ParseMediaType(r.contentType)
		if err != nil || media != "application/json" && !strings.HasSuffix(media, "+json") {
			return nonsense("content type %.80q, want application/json", r.contentType)
		}
	}
	if r.cut {
		return nonsense("it is larger than %d bytes", len(r.body))
	}
	if len(bytes.TrimSpace(r.body)) == 0 {
		return nonsense("it is empty")
	}
	if err := json.Unmarshal(r.body, v); err != nil {
		return nonsense("%w", err)
	}
	return nil
}

// decodeStatus reads what a device is. A status that the API does not know is
// passed on: it says that the device is not unregistered.
func decodeStatus(r response) (registrationStatus, error) {
	var s registrationStatus
	if err := r.decode(&s); err != nil {
		return s, err
	}
	if s.Status == "" {
		return s, nonsense("it names no status")
	}
	if s.Namespace != "" {
		// It goes into the certificate.
		if msgs := validation.IsDNS1123Label(s.Namespace); len(msgs) > 0 {
			return s, nonsense("namespace %.80q: %s", s.Namespace, msgs[0])
		}
	}
	return s, nil
}

// decodeConfiguration reads what a device is to do. Nothing at all is not taken
// for a configuration: the device would stop everything.
func decodeConfiguration(r response, d edgeapi.Device) (protocol.DeviceConfigurationMessage, error) {
	var c deviceConfiguration
	if err := r.decode(&c); err != nil {
		return protocol.DeviceConfigurationMessage{}, err
	}
	m := c.Configuration
	switch {
	case m == nil:
		return protocol.DeviceConfigurationMessage{}, nonsense("it has no device-configuration")
	case m.DeviceID == "" && m.Configuration == nil:
		return *m, nonsense("its device-configuration names neither device_id nor configuration")
	case m.DeviceID != "" && m.DeviceID != d.ID:
		return *m, nonsense("it is for device %.80q", m.DeviceID)
	}
	for i, w := range m.Workloads {
		if w.Name == "" {
			return *m, nonsense("workload %d has no name", i)
		}
	}
	m.DeviceID = d.ID
	return *m, nil
}

// decodePlaybooks reads a list of playbooks; null is an empty one.
func decodePlaybooks(r response) ([]protocol.PlaybookExecution, error) {
	var list []protocol.PlaybookExecution
	if err := r.decode(&list); err != nil {
		return nil, err
	}
	for i, p := range list {
		if p.Name == "" {
			return nil, nonsense("playbook %d has no name", i)
		}
	}
	return list, nil
}
