package protocol

import "encoding/json"

// BasePath is the path under which the Edge API serves devices.
const BasePath = "/api/flotta-management/v1"

// MessageType says what a Message is for.
type MessageType string

// The message types of the envelope.
const (
	TypeConnectionStatus MessageType = "connection-status"
	TypeCommand          MessageType = "command"
	TypeEvent            MessageType = "event"
	TypeData             MessageType = "data"
)

// Directives route the content of a data message.
const (
	DirectiveDevice       = "device"       // down: DeviceConfigurationMessage
	DirectiveEnrolment    = "enrolment"    // up: EnrolmentInfo
	DirectiveRegistration = "registration" // up: RegistrationInfo, answered by RegistrationResponse
	DirectiveHeartbeat    = "heartbeat"    // up: Heartbeat
	DirectiveAnsible      = "ansible"      // up: empty, answered by a JSON string holding []PlaybookExecution
)

// MessageVersion is the version of the envelope that both sides send.
const MessageVersion = 1

// Message is the envelope of both directions. Every key is optional on the
// wire. Content is any JSON; the directive says which.
type Message struct {
	Type       MessageType     `json:"type,omitempty"`
	MessageID  string          `json:"message_id,omitempty"`
	ResponseTo string          `json:"response_to,omitempty"`
	Version    int64           `json:"version,omitempty"`
	Sent       *Time           `json:"sent,omitempty"`
	Directive  string          `json:"directive,omitempty"`
	Metadata   map[string]any  `json:"metadata,omitempty"`
	Content    json.RawMessage `json:"content,omitempty"`
}

// MessageResponse answers a POST to data/out.
type MessageResponse struct {
	MessageID string          `json:"message_id,omitempty"`
	Directive string          `json:"directive,omitempty"`
	Content   json.RawMessage `json:"content,omitempty"`
	Metadata  map[string]any  `json:"metadata,omitempty"`
}

// CommandDisconnect tells a device that it is no longer managed.
const CommandDisconnect = "disconnect"

// Command is the content of a command message.
type Command struct {
	Command   string            `json:"command"`
	Arguments map[string]string `json:"arguments"`
}

// Metadata keys of an answer to DirectiveAnsible. Agents of flotta v0.2 stop
// working when the last two are not there as strings.
const (
	MetadataMessageID     = "message-id"
	MetadataCorrelationID = "crc_dispatcher_correlation_id"
	MetadataReturnURL     = "return_url"
)

// Error is the body of an error answer that has one: a request that matches no
// operation, or whose envelope is invalid.
type Error struct {
	Code    int32  `json:"code"`
	Message string `json:"message"`
}
