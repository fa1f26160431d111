package render

import (
	"context"
	"fmt"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Defaults of the receiver of metrics, which is always in the message.
const (
	defaultRequestNumSamples      = 30000
	defaultReceiverTimeoutSeconds = 10
)

func (j *job) metrics(ctx context.Context, spec *v1alpha1.MetricsConfiguration) (*protocol.MetricsConfiguration, error) {
	if spec == nil {
		spec = &v1alpha1.MetricsConfiguration{}
	}
	config := &protocol.MetricsConfiguration{}
	if r := spec.Retention; r != nil {
		config.Retention = &protocol.MetricsRetention{MaxMiB: r.MaxMiB, MaxHours: r.MaxHours}
	}
	var err error
	config.System, err = j.componentMetrics(ctx, "system metrics", spec.SystemMetrics)
	if err != nil {
		return nil, err
	}
	config.DataTransfer, err = j.componentMetrics(ctx, "data transfer metrics", spec.DataTransferMetrics)
	if err != nil {
		return nil, err
	}
	config.Receiver, err = j.receiver(ctx, spec.ReceiverConfiguration)
	if err != nil {
		return nil, err
	}
	return config, nil
}

func (j *job) componentMetrics(ctx context.Context, what string, spec *v1alpha1.ComponentMetricsConfiguration) (*protocol.ComponentMetricsConfiguration, error) {
	if spec == nil {
		return nil, nil
	}
	list, problem, err := j.allowList(ctx, spec.AllowList)
	if err != nil {
		return nil, err
	}
	if problem != nil {
		problem.Message = what + " are disabled: " + problem.Message
		j.broken(*problem)
	}
	return &protocol.ComponentMetricsConfiguration{
		Interval:  metricsInterval(spec.Interval),
		AllowList: list,
		Disabled:  spec.Disabled || problem != nil,
	}, nil
}

func metricsInterval(seconds int32) int32 {
	if seconds <= 0 {
		return v1alpha1.DefaultMetricsInterval
	}
	return seconds
}

// allowList reads the list that ref names. Without ref there is none; a list
// that cannot be read is a problem.
func (j *job) allowList(ctx context.Context, ref *v1alpha1.NameRef) (*protocol.MetricsAllowList, *Problem, error) {
	if ref == nil {
		return nil, nil, nil
	}
	object, err := j.objects.configMap(ctx, ref.Name)
	if err != nil {
		return nil, nil, err
	}
	if object == nil {
		return nil, notFound("ConfigMap", ref.Name), nil
	}
	text, ok := object.Data[v1alpha1.AllowListKey]
	if !ok {
		return nil, keyNotFound("ConfigMap", ref.Name, v1alpha1.AllowListKey), nil
	}
	list := &protocol.MetricsAllowList{}
	if err := yaml.Unmarshal([]byte(text), list); err != nil {
		return nil, &Problem{
			Reason:  ReasonInvalidAllowList,
			Message: fmt.Sprintf("%s of ConfigMap %q is not a YAML object with a list of names", v1alpha1.AllowListKey, ref.Name),
		}, nil
	}
	if list.Names == nil {
		list.Names = []string{}
	}
	return list, nil, nil
}

func (j *job) receiver(ctx context.Context, spec *v1alpha1.MetricsReceiverConfiguration) (*protocol.MetricsReceiverConfiguration, error) {
	config := &protocol.MetricsReceiverConfiguration{
		RequestNumSamples: defaultRequestNumSamples,
		TimeoutSeconds:    defaultReceiverTimeoutSeconds,
	}
	if spec == nil {
		return config, nil
	}
	if spec.RequestNumSamples > 0 {
		config.RequestNumSamples = spec.RequestNumSamples
	}
	if spec.TimeoutSeconds > 0 {
		config.TimeoutSeconds = spec.TimeoutSeconds
	}
	config.URL = spec.URL
	if spec.CASecretName == "" || !strings.HasPrefix(spec.URL, "https") {
		return config, nil
	}
	ca, problem, err := j.objects.secretKey(ctx, spec.CASecretName, v1alpha1.ReceiverCAKey)
	if err != nil {
		return nil, err
	}
	if problem != nil {
		problem.Message = "metrics are not sent: " + problem.Message
		j.broken(*problem)
		config.URL = ""
		return config, nil
	}
	config.CACert = string(ca)
	return config, nil
}
