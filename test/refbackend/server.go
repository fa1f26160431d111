package refbackend

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// BasePath is where the API begins.
const BasePath = "/api/flotta-backend/v1"

// Statuses of a registration, as the API has them.
const (
	statusRegistered   = "registered"
	statusUnregistered = "unregistered"
	statusUnknown      = "unknown"
)

// maxBody bounds what is read of a request: the Edge API takes 1 MiB of a device.
const maxBody = 2 << 20

// Config says how devices are let in. Store and Logger are required.
type Config struct {
	Store *Store
	// AutoApprove lets every device in that asks. The register certificate, which
	// all new devices hold, is then all that it takes to get a configuration.
	AutoApprove bool
	Logger      *slog.Logger
}

// api answers the Edge API.
type api struct {
	cfg Config
}

// message is the body of an answer that is an error.
type message struct {
	Message string `json:"message"`
}

// registrationStatus answers what a device is.
type registrationStatus struct {
	Status    string `json:"status"`
	Namespace string `json:"namespace,omitempty"`
	Message   string `json:"message,omitempty"`
}

// deviceConfiguration answers what a device is to do.
type deviceConfiguration struct {
	Configuration protocol.DeviceConfigurationMessage `json:"device-configuration"`
}

// NewHandler returns the API as an http.Handler.
func NewHandler(cfg Config) http.Handler {
	a := &api{cfg: cfg}
	mux := http.NewServeMux()
	for pattern, answer := range map[string]func(*http.Request) (int, any, error){
		"GET /registration":       a.status,
		"PUT /registration":       a.register,
		"POST /enrolment":         a.enrol,
		"GET /configuration":      a.configuration,
		"PUT /heartbeat":          a.heartbeat,
		"GET /playbookexecutions": a.playbooks,
	} {
		method, suffix, _ := strings.Cut(pattern, " ")
		mux.HandleFunc(method+" "+BasePath+"/namespaces/{namespace}/devices/{device}"+suffix, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			status, body, err := answer(r)
			a.write(w, r, status, body, err)
		})
	}
	return mux
}

func (a *api) write(w http.ResponseWriter, r *http.Request, status int, body any, err error) {
	log := a.cfg.Logger.With("method", r.Method, "path", r.URL.Path)
	if err != nil {
		status, body = statusOf(err), message{Message: err.Error()}
		log.Warn("request failed", "status", status, "err", err)
	} else {
		log.Debug("request", "status", status)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if body != nil {
		// The client went away: there is nobody left to tell.
		_ = json.NewEncoder(w).Encode(body)
	}
}

// errBody is wrapped by errors that say that a request cannot be understood.
var errBody = errors.New("body cannot be read")

func statusOf(err error) int {
	switch {
	case errors.Is(err, ErrUnknown), errors.Is(err, errState):
		return http.StatusNotFound
	case errors.Is(err, errBody):
		return http.StatusBadRequest
	}
	return http.StatusInternalServerError
}

func names(r *http.Request) (namespace, id string) {
	return r.PathValue("namespace"), r.PathValue("device")
}

func decode(r *http.Request, into any) error {
	if err := json.NewDecoder(r.Body).Decode(into); err != nil {
		return fmt.Errorf("%w: %w", errBody, err)
	}
	return nil
}

// status is GET registration. A device that is not approved is unknown to the
// fleet: 404, and so it cannot register.
func (a *api) status(r *http.Request) (int, any, error) {
	d, err := a.cfg.Store.find(names(r))
	if err != nil {
		return 0, nil, err
	}
	switch d.state() {
	case Removed:
		// Without a namespace: there is no place for it.
		return http.StatusOK, registrationStatus{Status: statusUnregistered, Message: "the device was removed"}, nil
	case Registered:
		return http.StatusOK, registrationStatus{Status: statusRegistered, Namespace: d.namespace}, nil
	case Approved:
		return http.StatusOK, registrationStatus{Status: statusUnknown, Namespace: d.namespace}, nil
	}
	return 0, nil, fmt.Errorf("device %s/%s is not approved: %w", d.namespace, d.id, errState)
}

// register is PUT registration.
func (a *api) register(r *http.Request) (int, any, error) {
	var info protocol.RegistrationInfo
	if err := decode(r, &info); err != nil {
		return 0, nil, err
	}
	namespace, id := names(r)
	return http.StatusOK, nil, a.cfg.Store.register(namespace, id, info)
}

// enrol is POST enrolment: 200 when the device may register, and 201 until then.
func (a *api) enrol(r *http.Request) (int, any, error) {
	var info protocol.EnrolmentInfo
	if err := decode(r, &info); err != nil {
		return 0, nil, err
	}
	namespace, id := names(r)
	exists, err := a.cfg.Store.enrol(namespace, id, info, a.cfg.AutoApprove)
	if exists {
		return http.StatusOK, nil, err
	}
	return http.StatusCreated, nil, err
}

// configuration is GET configuration. A device without a file is told to do
// nothing; one whose file is broken gets an error, and keeps what it has.
func (a *api) configuration(r *http.Request) (int, any, error) {
	d, err := a.cfg.Store.managed(names(r))
	if err != nil {
		return 0, nil, err
	}
	c := deviceConfiguration{Configuration: protocol.DeviceConfigurationMessage{
		Configuration: &protocol.DeviceConfiguration{
			Heartbeat: &protocol.HeartbeatConfiguration{PeriodSeconds: 60, HardwareProfile: &protocol.HardwareProfile{}},
		},
	}}
	if err := d.read(configurationFile, &c.Configuration); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, nil, err
	}
	c.Configuration.DeviceID = d.id
	return http.StatusOK, c, nil
}

// heartbeat is PUT heartbeat.
func (a *api) heartbeat(r *http.Request) (int, any, error) {
	var report protocol.Heartbeat
	if err := decode(r, &report); err != nil {
		return 0, nil, err
	}
	d, err := a.cfg.Store.managed(names(r))
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, nil, d.write(heartbeatFile, report)
}

// playbooks is GET playbookexecutions.
func (a *api) playbooks(r *http.Request) (int, any, error) {
	d, err := a.cfg.Store.managed(names(r))
	if err != nil {
		return 0, nil, err
	}
	list := []protocol.PlaybookExecution{}
	if err := d.read(playbooksFile, &list); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, nil, err
	}
	return http.StatusOK, list, nil
}

// TLS says who is served.
type TLS struct {
	Certificate tls.Certificate // of the service
	ClientCA    []byte          // PEM of the authority that signed the Edge API's certificate
	// EdgeAPI is the host name in the Edge API's certificate: its DOMAIN. Devices
	// have certificates of the same authority, but not of that name.
	EdgeAPI string
}

// NewServer returns a server of a handler that admits the Edge API and nobody else.
func NewServer(h http.Handler, t TLS, log *slog.Logger) (*http.Server, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(t.ClientCA) {
		return nil, errors.New("no certificate of an authority")
	}
	if t.EdgeAPI == "" {
		return nil, errors.New("no host name of the Edge API")
	}
	return &http.Server{
		Handler: h,
		TLSConfig: &tls.Config{
			MinVersion:   tls.VersionTLS12,
			Certificates: []tls.Certificate{t.Certificate},
			ClientAuth:   tls.RequireAndVerifyClientCert,
			ClientCAs:    pool,
			VerifyConnection: func(s tls.ConnectionState) error {
				return s.PeerCertificates[0].VerifyHostname(t.EdgeAPI)
			},
		},
		ReadTimeout:  30 * time.Second,
		WriteTimeout: 30 * time.Second,
		IdleTimeout:  2 * time.Minute,
		ErrorLog:     slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}, nil
}
