package render

import (
	"context"
	"fmt"
	"strings"

	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Protocols of a syslog receiver.
const (
	protocolTCP = "tcp"
	protocolUDP = "udp"
	protocolTLS = "tls"
)

// logCollection renders the log targets; one that is broken is left out.
func (j *job) logCollection(ctx context.Context, spec map[string]v1alpha1.LogCollectionConfig) (map[string]protocol.LogsCollectionInformation, error) {
	if len(spec) == 0 {
		return nil, nil
	}
	targets := make(map[string]protocol.LogsCollectionInformation, len(spec))
	for name, entry := range spec {
		target := protocol.LogsCollectionInformation{Kind: entry.Kind, BufferSize: entry.BufferSize}
		if target.BufferSize <= 0 {
			target.BufferSize = v1alpha1.DefaultLogBufferSize
		}
		if entry.SyslogConfig != nil {
			syslog, problem, err := j.syslog(ctx, entry.SyslogConfig.Name)
			if err != nil {
				return nil, err
			}
			if problem != nil {
				problem.Message = fmt.Sprintf("log target %q is left out: %s", name, problem.Message)
				j.broken(*problem)
				continue
			}
			target.SyslogConfig = syslog
		}
		targets[name] = target
	}
	return targets, nil
}

func (j *job) syslog(ctx context.Context, name string) (*protocol.SyslogConfig, *Problem, error) {
	object, err := j.objects.configMap(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	if object == nil {
		return nil, notFound("ConfigMap", name), nil
	}
	config := &protocol.SyslogConfig{
		Address:  strings.TrimSpace(object.Data[v1alpha1.SyslogAddressKey]),
		Protocol: strings.TrimSpace(object.Data[v1alpha1.SyslogProtocolKey]),
	}
	if config.Address == "" {
		return nil, keyNotFound("ConfigMap", name, v1alpha1.SyslogAddressKey), nil
	}
	switch config.Protocol {
	case "":
		config.Protocol = protocolTCP
	case protocolTCP, protocolUDP:
	case protocolTLS:
		problem, err := j.syslogTrust(ctx, config, object.Data)
		return config, problem, err
	default:
		return nil, &Problem{
			Reason:  ReasonInvalidLogTarget,
			Message: fmt.Sprintf("ConfigMap %q: %s is neither tcp, udp nor tls", name, v1alpha1.SyslogProtocolKey),
		}, nil
	}
	return config, nil, nil
}

// syslogTrust adds whom the device trusts, and how it proves who it is.
func (j *job) syslogTrust(ctx context.Context, config *protocol.SyslogConfig, data map[string]string) (*Problem, error) {
	config.CACert = data[v1alpha1.SyslogCAKey]
	name := strings.TrimSpace(data[v1alpha1.SyslogSecretKey])
	if name == "" {
		return nil, nil
	}
	cert, problem, err := j.objects.secretKey(ctx, name, v1alpha1.SyslogClientCertKey)
	if problem != nil || err != nil {
		return problem, err
	}
	key, problem, err := j.objects.secretKey(ctx, name, v1alpha1.SyslogClientKeyKey)
	config.ClientCert, config.ClientKey = string(cert), string(key)
	return problem, err
}
