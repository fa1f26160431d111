package render

import (
	"context"
	"encoding/base64"
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
		// Such a bucket is reached by a Route, which Reader does not know.
		j.broken(Problem{
			Reason:  ReasonUnsupportedStorage,
			Message: fmt.Sprintf("storage by ObjectBucketClaim %q is not supported", obc),
		})
		return nil, nil
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
