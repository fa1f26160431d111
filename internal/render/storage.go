package render

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// storage renders the bucket that the device synchronises with. It is nil when
// there is none, and when it cannot be rendered.
func (j *job) storage(ctx context.Context, spec *v1alpha1.Storage) (*protocol.StorageConfiguration, error) {
	if obc := j.device.Status.DataOBC; obc != "" {
		return j.claimedStorage(ctx, obc)
	}
	if spec == nil || spec.S3 == nil || spec.S3.SecretName == "" && spec.S3.ConfigMapName == "" {
		return nil, nil
	}
	config := &protocol.S3StorageConfiguration{}
	bucket, err := j.bucket(ctx, spec.S3.ConfigMapName, config)
	if err != nil {
		return nil, err
	}
	keys, err := j.bucketKeys(ctx, spec.S3.SecretName, config)
	if err != nil {
		return nil, err
	}
	if problems := append(bucket, keys...); len(problems) > 0 {
		j.broken(problems...)
		return nil, nil
	}
	return &protocol.StorageConfiguration{S3: config}, nil
}

// Where an ObjectBucketClaim of OpenShift leads to: the Route of its object
// store, and the authority that its router's certificate is from.
const (
	storeRouteNamespace = "openshift-storage"
	storeRouteName      = "s3"
	routerCANamespace   = "openshift-ingress-operator"
	routerCAName        = "router-ca"
	routePort           = 443
	// anyRegion is sent when nothing says what the region is.
	anyRegion = "ignore"
)

// claimedStorage renders the bucket of an ObjectBucketClaim. Such a claim comes
// with a ConfigMap and a Secret of its own name.
func (j *job) claimedStorage(ctx context.Context, claim string) (*protocol.StorageConfiguration, error) {
	config := &protocol.S3StorageConfiguration{}
	problems, err := j.claimedBucket(ctx, claim, config)
	if err != nil {
		return nil, err
	}
	keys, err := j.bucketKeys(ctx, claim, config)
	if err != nil {
		return nil, err
	}
	problems = append(problems, keys...)
	if len(problems) == 0 && internalHost(config.BucketHost) {
		problem, err := j.routed(ctx, config)
		if err != nil {
			return nil, err
		}
		if problem != nil {
			problems = append(problems, *problem)
		}
	}
	if len(problems) > 0 {
		j.broken(problems...)
		return nil, nil
	}
	return &protocol.StorageConfiguration{S3: config}, nil
}

// claimedBucket fills in where the bucket of a claim is, as seen from inside of
// the cluster. A region may be missing.
func (j *job) claimedBucket(ctx context.Context, claim string, config *protocol.S3StorageConfiguration) ([]Problem, error) {
	object, err := j.objects.configMap(ctx, claim)
	if err != nil {
		return nil, err
	}
	if object == nil {
		return []Problem{invalidStorage("the ObjectBucketClaim %q has no ConfigMap yet", claim)}, nil
	}
	config.BucketName = strings.TrimSpace(object.Data[v1alpha1.BucketNameKey])
	config.BucketHost = strings.TrimSpace(object.Data[v1alpha1.BucketHostKey])
	config.BucketRegion = cmp.Or(strings.TrimSpace(object.Data[v1alpha1.BucketRegionKey]), anyRegion)
	config.BucketPort = routePort
	var problems []Problem
	if config.BucketName == "" {
		problems = append(problems, invalidStorage("ConfigMap %q has no %s", claim, v1alpha1.BucketNameKey))
	}
	if text := strings.TrimSpace(object.Data[v1alpha1.BucketPortKey]); text != "" {
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil || port == 0 {
			problems = append(problems, invalidStorage("ConfigMap %q: %s is not a port", claim, v1alpha1.BucketPortKey))
		}
		config.BucketPort = int32(port)
	}
	return problems, nil
}

// internalHost reports whether a name means something inside of the cluster
// only. No name at all is what a store leaves that relies on its Route.
func internalHost(host string) bool {
	host = strings.TrimSuffix(host, ".")
	return host == "" || strings.HasSuffix(host, ".svc") || strings.Contains(host, ".svc.")
}

// routed replaces an address inside of the cluster by that of the Route to it.
// Without a Route the address stays: some networks reach it.
func (j *job) routed(ctx context.Context, config *protocol.S3StorageConfiguration) (*Problem, error) {
	host, err := j.objects.route(ctx, storeRouteNamespace, storeRouteName)
	if err != nil {
		return nil, err
	}
	if host == "" {
		if config.BucketHost == "" {
			problem := invalidStorage("there is neither a bucket host nor the Route %s/%s", storeRouteNamespace, storeRouteName)
			return &problem, nil
		}
		return nil, nil
	}
	data, err := j.objects.foreignSecret(ctx, routerCANamespace, routerCAName)
	if err != nil {
		return nil, err
	}
	if data == nil {
		problem := invalidStorage("Secret %s/%s, which the Route's certificate is checked with, does not exist", routerCANamespace, routerCAName)
		return &problem, nil
	}
	config.BucketHost, config.BucketPort, config.BucketRegion = host, routePort, anyRegion
	config.AWSCABundle = base64.StdEncoding.EncodeToString(data[v1alpha1.StorageCAKey])
	return nil, nil
}

// route returns the host of a Route, empty when there is none.
func (o *objects) route(ctx context.Context, namespace, name string) (string, error) {
	o.looked("Route", namespace, name)
	host, err := o.reader.Route(ctx, namespace, name)
	if errors.Is(err, ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read route %s/%s: %w", namespace, name, err)
	}
	return host, nil
}

// foreignSecret reads a Secret outside of the device's namespace; nil when there
// is none. Its name is never one that a user chose.
func (o *objects) foreignSecret(ctx context.Context, namespace, name string) (map[string][]byte, error) {
	o.looked("Secret", namespace, name)
	object, err := o.reader.Secret(ctx, namespace, name)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read secret %s/%s: %w", namespace, name, err)
	}
	return secretData(object), nil
}

func invalidStorage(format string, args ...any) Problem {
	return Problem{Reason: ReasonInvalidStorage, Message: "storage is left out: " + fmt.Sprintf(format, args...)}
}

// bucket fills in where the bucket is.
func (j *job) bucket(ctx context.Context, name string, config *protocol.S3StorageConfiguration) ([]Problem, error) {
	object, err := j.objects.configMap(ctx, name)
	if err != nil {
		return nil, err
	}
	if object == nil {
		return []Problem{invalidStorage("ConfigMap %q does not exist", name)}, nil
	}
	var problems []Problem
	value := func(key string) string {
		// A newline at the end is what a YAML block leaves behind.
		text := strings.TrimSpace(object.Data[key])
		if text == "" {
			problems = append(problems, invalidStorage("ConfigMap %q has no %s", name, key))
		}
		return text
	}
	config.BucketName = value(v1alpha1.BucketNameKey)
	config.BucketHost = value(v1alpha1.BucketHostKey)
	config.BucketRegion = value(v1alpha1.BucketRegionKey)
	port := value(v1alpha1.BucketPortKey)
	if port == "" {
		return problems, nil
	}
	number, err := strconv.ParseInt(port, 10, 32)
	if err != nil || number < 1 || number > 65535 {
		problems = append(problems, invalidStorage("ConfigMap %q: %s is not a port", name, v1alpha1.BucketPortKey))
	}
	config.BucketPort = int32(number)
	return problems, nil
}

// bucketKeys fills in the credentials, base64 as the wire has them.
func (j *job) bucketKeys(ctx context.Context, name string, config *protocol.S3StorageConfiguration) ([]Problem, error) {
	data, err := j.objects.secret(ctx, name)
	if err != nil {
		return nil, err
	}
	if data == nil {
		return []Problem{invalidStorage("Secret %q does not exist", name)}, nil
	}
	var problems []Problem
	for _, key := range []string{v1alpha1.AWSAccessKeyIDKey, v1alpha1.AWSSecretAccessKeyKey} {
		if len(data[key]) == 0 {
			problems = append(problems, invalidStorage("Secret %q has no %s", name, key))
		}
	}
	config.AWSAccessKeyID = base64.StdEncoding.EncodeToString(data[v1alpha1.AWSAccessKeyIDKey])
	config.AWSSecretAccessKey = base64.StdEncoding.EncodeToString(data[v1alpha1.AWSSecretAccessKeyKey])
	config.AWSCABundle = base64.StdEncoding.EncodeToString(data[v1alpha1.StorageCAKey])
	return problems, nil
}
