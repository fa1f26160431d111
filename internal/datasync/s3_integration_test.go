//go:build integration

package datasync

import (
	"testing"

	"github.com/project-flotta/flotta-agent/internal/datasync/s3"
	"github.com/project-flotta/flotta-agent/internal/secret"
	"github.com/project-flotta/flotta-agent/test/testenv"
)

const testBucket = "device-bucket"

// s3Config returns the settings of a new bucket on a real server.
func s3Config(t testing.TB, server *testenv.S3Server) s3.Config {
	t.Helper()
	if err := server.CreateBucket(t.Context(), testBucket); err != nil {
		t.Fatal(err)
	}
	return s3.Config{
		Host: server.Host, Port: server.Port, Bucket: testBucket, Region: server.Region,
		AccessKeyID: secret.New(server.AccessKey), SecretAccessKey: secret.New(server.SecretKey),
		CABundle: server.CA,
	}
}

func TestS3Store(t *testing.T) {
	client, err := s3.New(s3Config(t, testenv.S3(t)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	testStore(t, client)
}
