package manifest

import "strings"

// The tables below say since when Podman's `kube play` heeds which field of a
// pod. They come from its documentation, its release notes and its source, of
// 4.2 to 5.7; what the agent does in Podman's stead counts as heeded always.

// podFields are the fields of a PodSpec.
func podFields() map[string]rule {
	const noScheduler = "there is one node, and nothing to choose"
	const noAPI = "there is no Kubernetes API on a device"
	return map[string]rule{
		"containers":                    of(containerFields()),
		"initContainers":                of(containerFields()),
		"volumes":                       of(volumeFields()),
		"restartPolicy":                 always(),
		"terminationGracePeriodSeconds": always(), // by the unit
		"hostname":                      always(),
		"hostNetwork":                   always(),
		"hostAliases":                   always(),
		"dnsConfig":                     always(),
		"shareProcessNamespace":         always(),
		"securityContext":               of(podSecurityFields()),
		"hostPID":                       since("4.4", "the pod has process numbers of its own"),
		"hostIPC":                       since("4.5", "the pod has an IPC namespace of its own"),
		"hostUsers":                     since("4.3", "the pod's users are those of the host's namespace"),

		"activeDeadlineSeconds": never("the pod runs for as long as it likes"),
		"dnsPolicy":             never("names are resolved as the device does, and as dnsConfig says", "ClusterFirst", "Default"),
		"ephemeralContainers":   never("they are not started"),
		"imagePullSecrets":      never("credentials of registries come with imageRegistries of the EdgeWorkload"),
		"os":                    never(noMeaning),
		"overhead":              never(noMeaning),
		"readinessGates":        never(noAPI),
		"resources":             never("only limits of single containers are set"),
		"runtimeClassName":      never("the device's own container runtime is used"),
		"setHostnameAsFQDN":     never("the host name is that of the pod"),
		"subdomain":             never("there is no cluster domain"),

		"automountServiceAccountToken": never(noAPI),
		"enableServiceLinks":           never(noAPI),
		"resourceClaims":               never(noAPI),
		"serviceAccount":               never(noAPI, "default"),
		"serviceAccountName":           never(noAPI, "default"),

		"affinity":                  never(noScheduler),
		"nodeName":                  never(noScheduler),
		"nodeSelector":              never(noScheduler),
		"preemptionPolicy":          never(noScheduler, "PreemptLowerPriority"),
		"priority":                  never(noScheduler),
		"priorityClassName":         never(noScheduler),
		"schedulerName":             never(noScheduler, "default-scheduler"),
		"schedulingGates":           never(noScheduler),
		"tolerations":               never(noScheduler),
		"topologySpreadConstraints": never(noScheduler),
	}
}

// containerFields are the fields of a container.
func containerFields() map[string]rule {
	const noMessage = "the last lines of the log are reported instead"
	return map[string]rule{
		"name": always(), "image": always(), "imagePullPolicy": always(),
		"command": always(), "args": always(), "workingDir": always(), "tty": always(),
		"env":     of(envFields()),
		"envFrom": of(map[string]rule{"prefix": always(), "configMapRef": always(), "secretRef": always()}), // by the agent
		"ports":   always(),
		"volumeMounts": of(map[string]rule{
			"name": always(), "mountPath": always(), "readOnly": always(), "mountPropagation": always(),
			"subPath":           always(), // judged by what is mounted
			"subPathExpr":       never("the whole volume is mounted"),
			"recursiveReadOnly": never("only the volume itself is read-only", "Disabled"),
		}),
		"resources":       of(resourceFields()),
		"livenessProbe":   of(probeFields()),
		"startupProbe":    {since: "4.4", note: "the container is checked by its livenessProbe alone, from its start", fields: probeFields()},
		"readinessProbe":  never("the workload counts as ready when its containers run and those with a livenessProbe are healthy"),
		"securityContext": of(securityFields()),
		"lifecycle": of(map[string]rule{
			"postStart":  never("nothing is run after the start"),
			"preStop":    never("nothing is run before the stop, which begins with SIGTERM"),
			"stopSignal": since("5.6", "the image's stop signal is sent, or SIGTERM"),
		}),
		"resizePolicy":             never("a change of the resources restarts the pod"),
		"restartPolicy":            never("that of the pod is in force"),
		"restartPolicyRules":       never("the restartPolicy of the pod is in force"),
		"stdin":                    never("nothing can be attached"),
		"stdinOnce":                never("nothing can be attached"),
		"terminationMessagePath":   never(noMessage, "/dev/termination-log"),
		"terminationMessagePolicy": never(noMessage, "File"),
		"volumeDevices":            never("a device of the host is mounted with hostPath and type BlockDevice or CharDevice"),
	}
}

func envFields() map[string]rule {
	return map[string]rule{
		"name": always(), "value": always(),
		"valueFrom": of(map[string]rule{
			"configMapKeyRef": always(), "secretKeyRef": always(), "resourceFieldRef": always(),
			"fieldRef":   always(), // judged by its path
			"fileKeyRef": never("the variable is empty"),
		}),
	}
}

func resourceFields() map[string]rule {
	limits := of(map[string]rule{"cpu": since("4.3", "the limit is a wrong one"), "memory": always()})
	requests := of(map[string]rule{"cpu": never("nothing is reserved"), "memory": always()})
	limits.other, requests.other = otherResource, otherResource
	return map[string]rule{
		"limits": limits, "requests": requests,
		"claims": never("there is no Kubernetes API on a device"),
	}
}

// otherResource judges a resource by its name: those with an equals sign are
// devices of the Container Device Interface.
func otherResource(name string) rule {
	if strings.Contains(name, "=") {
		return since("5.4", "the container does not get the device")
	}
	return never("only cpu and memory are limited")
}

func probeFields() map[string]rule {
	return map[string]rule{
		"exec": always(), "tcpSocket": always(),
		"httpGet": of(map[string]rule{
			"host": always(), "path": always(), "port": always(), "scheme": always(),
			"httpHeaders": never("the request has no such headers"),
		}),
		"grpc":                          never("nothing is checked"),
		"initialDelaySeconds":           always(),
		"periodSeconds":                 always(),
		"timeoutSeconds":                always(),
		"failureThreshold":              always(),
		"successThreshold":              always(), // 1 wherever Kubernetes allows a choice
		"terminationGracePeriodSeconds": never("the pod's is in force"),
	}
}

const noProfile = "the device's default profile is in force"

func podSecurityFields() map[string]rule {
	return map[string]rule{
		"runAsUser": always(), "runAsGroup": always(), "supplementalGroups": always(), "seLinuxOptions": always(),
		"sysctls":                  since("4.5", "they keep their defaults"),
		"runAsNonRoot":             never("nobody looks whether the image runs as root; set runAsUser"),
		"fsGroup":                  never("volumes keep their owner; use runAsUser and runAsGroup"),
		"fsGroupChangePolicy":      never("volumes keep their owner"),
		"supplementalGroupsPolicy": never("groups of the image are kept", "Merge"),
		"seLinuxChangePolicy":      never("volumes are labelled as Podman does"),
		"seccompProfile":           of(profileFields()),
		"appArmorProfile":          of(profileFields()),
		"windowsOptions":           never(noMeaning),
	}
}

func securityFields() map[string]rule {
	return map[string]rule{
		"runAsUser": always(), "runAsGroup": always(), "capabilities": always(), "privileged": always(),
		"readOnlyRootFilesystem": always(), "allowPrivilegeEscalation": always(), "seLinuxOptions": always(),
		"procMount":       {since: "4.7", note: "parts of /proc stay masked", moot: []string{"Default"}},
		"runAsNonRoot":    never("nobody looks whether the image runs as root; set runAsUser"),
		"seccompProfile":  of(profileFields()),
		"appArmorProfile": of(profileFields()),
		"windowsOptions":  never(noMeaning),
	}
}

// profileFields are those of a seccomp or AppArmor profile. That of the runtime
// is what everything gets.
func profileFields() map[string]rule {
	return map[string]rule{
		"type":             never(noProfile, "RuntimeDefault"),
		"localhostProfile": never(noProfile),
	}
}

// volumeFields are the fields of a volume. Podman refuses a pod that has a
// volume it does not know, and says so.
func volumeFields() map[string]rule {
	fields := map[string]rule{
		"name": always(), "hostPath": always(), "persistentVolumeClaim": always(),
		"configMap": always(), "secret": always(), "projected": always(), // files of the agent's
		"emptyDir": {since: "4.3", note: refusedNote, fields: map[string]rule{
			"medium":    since("5.0", "it lies on the disk"),
			"sizeLimit": never("it may grow until the disk is full"),
		}},
		"image": since("5.3", refusedNote),
	}
	for _, kind := range []string{
		"awsElasticBlockStore", "azureDisk", "azureFile", "cephfs", "cinder", "csi", "downwardAPI", "ephemeral", "fc",
		"flexVolume", "flocker", "gcePersistentDisk", "gitRepo", "glusterfs", "iscsi", "nfs", "photonPersistentDisk",
		"portworxVolume", "quobyte", "rbd", "scaleIO", "storageos", "vsphereVolume",
	} {
		fields[kind] = never(refusedNote)
	}
	return fields
}
