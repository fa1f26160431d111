//go:build integration

package datasync

import (
	"context"
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
		CABundle: server.CA, PlainHTTP: len(server.CA) == 0,
	}
}

// TestS3Store takes a real server, with TLS and without. MinIO lists unfinished
// uploads of whole keys only, not below a prefix.
func TestS3Store(t *testing.T) {
	for name, start := range map[string]func(testing.TB) *testenv.S3Server{
		"versitygw": testenv.S3, "http": plainS3,
	} {
		t.Run(name, func(t *testing.T) {
			cfg := s3Config(t, start(t))
			cfg.PartBytes = memPartBytes
			client, err := s3.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(client.Close)
			testStore(t, client)
			testParts(t, client)
		})
	}
}

// plainS3 starts a server that speaks http.
func plainS3(tb testing.TB) *testenv.S3Server {
	tb.Helper()
	server, err := testenv.StartS3(context.WithoutCancel(tb.Context()), testenv.S3Config{Dir: tb.TempDir(), Plain: true})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(server.Stop)
	return server
}
