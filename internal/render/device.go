package render

import (
	"context"
	"fmt"

	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// defaultPeriodSeconds is the time between heartbeats when nothing sets it.
const defaultPeriodSeconds = 60

func (j *job) deviceConfiguration(ctx context.Context) (*protocol.DeviceConfiguration, error) {
	settings, err := j.settings(ctx)
	if err != nil {
		return nil, err
	}
	config := &protocol.DeviceConfiguration{
		Heartbeat: heartbeat(settings.Heartbeat),
		OS:        osInformation(settings.OsInformation),
		Mounts:    mounts(settings.Mounts),
	}
	config.Storage, err = j.storage(ctx, settings.Storage)
	if err != nil {
		return nil, err
	}
	config.Metrics, err = j.metrics(ctx, settings.Metrics)
	if err != nil {
		return nil, err
	}
	config.LogCollection, err = j.logCollection(ctx, settings.LogCollection)
	if err != nil {
		return nil, err
	}
	return config, nil
}

// settings returns the sections of the device's set, all of them, also those
// that the set leaves out; a device without one, or whose set is not there, has
// its own.
func (j *job) settings(ctx context.Context) (v1alpha1.DeviceSettings, error) {
	name := j.device.Labels[v1alpha1.LabelMemberOf]
	if name == "" {
		return j.device.Spec.DeviceSettings, nil
	}
	set, err := j.objects.deviceSet(ctx, name)
	if err != nil {
		return v1alpha1.DeviceSettings{}, err
	}
	if set == nil {
		j.broken(Problem{
			Reason:  ReasonDeviceSetNotFound,
			Message: fmt.Sprintf("EdgeDeviceSet %q does not exist; the device's own settings are used", name),
		})
		return j.device.Spec.DeviceSettings, nil
	}
	return set.Spec.DeviceSettings, nil
}

func heartbeat(spec *v1alpha1.HeartbeatConfiguration) *protocol.HeartbeatConfiguration {
	config := &protocol.HeartbeatConfiguration{
		PeriodSeconds:   defaultPeriodSeconds,
		HardwareProfile: &protocol.HardwareProfile{},
	}
	if spec == nil {
		return config
	}
	if spec.PeriodSeconds > 0 {
		config.PeriodSeconds = spec.PeriodSeconds
	}
	if profile := spec.HardwareProfile; profile != nil {
		config.HardwareProfile.Include = profile.Include
		config.HardwareProfile.Scope = profile.Scope
	}
	return config
}

func osInformation(spec *v1alpha1.OsInformation) *protocol.OSInformation {
	if spec == nil {
		return nil
	}
	return &protocol.OSInformation{
		CommitID:             spec.CommitID,
		Image:                spec.Image,
		HostedObjectsURL:     spec.HostedObjectsURL,
		AutomaticallyUpgrade: spec.AutomaticallyUpgrade,
	}
}

// mounts is never nil: the wire always has the array.
func mounts(spec []v1alpha1.Mount) []protocol.Mount {
	list := make([]protocol.Mount, 0, len(spec))
	for _, m := range spec {
		list = append(list, protocol.Mount{
			Device:    m.Device,
			Directory: m.Directory,
			Type:      m.Type,
			Options:   m.Options,
		})
	}
	return list
}
